"""The manifest of a recording: any bytes as its JSON.

Accepted: ManifestError, when it is no JSON object in UTF-8, or no manifest; its text says what is wrong.
"""

import json
from collections.abc import Callable
from typing import Any

from callreel import manifest
from callreel.errors import ManifestError

DICTIONARY = [
    *(
        f'"{key}": '.encode()
        for key in (*manifest._MANIFEST, *manifest._TRACK, *manifest._DIGIT, *manifest._SPAN)
    ),
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"-0.0", b"1e999", b"9223372036854775808"),
    *(b'"incoming"', b'"2024-01-02T03:04:05.678Z"', b'"\\ud800"', b"[[[[", b"{}", b"[]"),
]


def run(data: bytes) -> None:
    document, refused = attempt(manifest.load, data)
    if refused:
        return
    found = manifest.problems(document)
    assert len(found) <= manifest.PROBLEMS_MAX + 1
    for problem in found:
        assert 0 < len(problem) < 1000  # whatever stands in the file, only a piece of it is quoted
    trusted, refused = attempt(manifest.parse, data)
    assert refused == found
    if trusted is not None:  # what is trusted can be written, and read again as the same
        assert manifest.parse(json.dumps(trusted).encode()) == trusted


def attempt(read: Callable[[bytes], Any], data: bytes) -> tuple[Any, tuple[str, ...]]:
    """What was read, or None and the problems, of which there must be one."""
    try:
        return read(data), ()
    except ManifestError as error:
        return None, error.problems or ("refused without a reason",)
