"""`callreel decrypt`: its arguments, its words, its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from callreel.encryption import (
    EncryptedFileError,
    KeyFile,
    Keys,
    KeyServiceError,
    KmsKey,
    SealedReader,
    WrongKeyError,
    decrypt_file,
)
from callreel.errors import UsageError

__all__ = ["DESCRIPTION", "EPILOG", "add_decrypt_arguments", "run_decrypt"]

DECRYPTED, DAMAGED, USAGE, WRONG_KEY, NO_KEY_SERVICE = range(5)

DESCRIPTION = """\
Decrypt a recording that callreel encrypted: a delivered file, or with --unfinished what a spool holds of
one whose process died.

The key is the file that encryption was set up with (--key-file), or stays in AWS KMS (--kms), which is
asked with the credentials of the environment. Every byte is checked before it is given: OUT appears
whole, readable by its owner alone, or not at all. To standard output (--out -), a pipe or a device the
file is given as it is checked, so look at the exit status before you believe that it was all.
"""

EPILOG = """\
examples:
  callreel decrypt call.wav --key-file recordings.key --out call-clear.wav
  callreel decrypt call.mp3 --kms --region eu-central-1 --out call-clear.mp3
  callreel decrypt call.wav --key-file recordings.key --out - | sox -t wav - -n stat

A key file is 32 random bytes that only its owner may read:
  (umask 077; head -c 32 /dev/urandom > recordings.key)

exit status: 0 decrypted, 1 the file is damaged, cut or not an encrypted one, 2 wrong usage, no such file,
no usable key file, 3 it is encrypted for another key, 4 AWS KMS refused or was not reached
"""


def add_decrypt_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `callreel decrypt` takes."""
    parser.add_argument("file", metavar="FILE", type=Path, help="the encrypted recording")
    keys = parser.add_mutually_exclusive_group(required=True)
    keys.add_argument("--key-file", metavar="KEY", type=Path, help="the file with the key")
    keys.add_argument("--kms", action="store_true", help="the key is in AWS KMS; FILE says which it is")
    parser.add_argument("--out", metavar="OUT", required=True, help="where to; - for standard output")
    parser.add_argument(
        "--unfinished",
        action="store_true",
        help="take what can be read of a file that was never finished; what cannot becomes zeros",
    )
    parser.add_argument("--region", help="of AWS KMS (default: that of the environment)")
    parser.add_argument("--endpoint-url", metavar="URL", help="of AWS KMS (default: the region's own)")


def run_decrypt(options: argparse.Namespace) -> int:
    """Carry out `callreel decrypt`; returns the exit status."""
    if not options.kms and (options.region or options.endpoint_url):
        return _complain("--region and --endpoint-url go with --kms", USAGE)
    try:
        keys: Keys = (
            KmsKey(region=options.region, endpoint_url=options.endpoint_url)
            if options.kms
            else KeyFile(options.key_file)
        )
        out = Path(options.out).resolve()
        if options.out == "-":
            sys.stdout.flush()
            reader = _stream(options.file, os.dup(sys.stdout.fileno()), keys, unfinished=options.unfinished)
        elif out.exists() and out.samefile(options.file):
            return _complain("OUT is FILE", USAGE)
        elif out.is_dir():
            return _complain(f"{options.out} is a folder", USAGE)
        elif out.exists() and not out.is_file():  # a device or a pipe, not to be replaced
            reader = _stream(options.file, out, keys, unfinished=options.unfinished)
        else:
            reader = decrypt_file(options.file, out, keys, unfinished=options.unfinished)
    except WrongKeyError as error:
        return _complain(f"{options.file}: {error}", WRONG_KEY)
    except EncryptedFileError as error:
        return _complain(f"{options.file}: {error}", DAMAGED)
    except KeyServiceError as error:
        return _complain(str(error), NO_KEY_SERVICE)
    except UsageError as error:
        return _complain(str(error), USAGE)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _complain(f"{error.filename or options.file}: {error.strerror or error}", USAGE)
    if reader.lost_bytes:
        return _complain(
            f"{options.file}: {reader.lost_bytes} bytes could not be read; they are zeros", DAMAGED
        )
    if not reader.is_finished:
        _complain(f"{options.file}: it was never finished; its end may be missing", DECRYPTED)
    return DECRYPTED


def _stream(path: Path, out: int | Path, keys: Keys, *, unfinished: bool) -> SealedReader:
    with open(out, "wb") as file, path.open("rb") as source:  # noqa: PTH123 - it may be a descriptor
        reader = SealedReader(source, keys, unfinished=unfinished)
        for piece in reader.pieces():
            file.write(piece)
    return reader


def _complain(text: str, status: int) -> int:
    print(f"callreel decrypt: {text}", file=sys.stderr)
    return status
