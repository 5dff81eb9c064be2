"""The spool's audio, encrypted: it behaves as plain files do, whenever it is closed or its process dies."""

import shutil
import time
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.actions import Destination, StartRecording
from callreel.encryption import (
    DataKey,
    KeyFile,
    KeyServiceError,
    ReadyKeys,
    SealedReader,
    WrongKeyError,
    decrypt_file,
)
from callreel.errors import UsageError
from callreel.recorder import Recorder, Settings
from callreel.spool_files import PlainFiles
from callreel.spool_sealed import SealedFiles
from recording_host import RATE, Clock, Unreliable, ended, feed, record
from secret_watch import MARK, may_hold, secret_bytes

FILES = Path("/proc/self/fd")


@pytest.fixture(scope="module")
def key_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "recordings.key"
    may_hold(path).write_bytes(secret_bytes(32))
    path.chmod(0o600)
    return path


@pytest.fixture
def files(key_path):
    return SealedFiles(KeyFile(key_path))


# ---- files ----

SIZES = st.integers(0, 20_000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), SIZES, st.lists(st.binary(max_size=9_000), min_size=1, max_size=3)),
        st.tuples(st.just("resize"), SIZES),
        st.tuples(st.just("read"), SIZES, SIZES),
        st.tuples(st.just("reopen")),
    ),
    max_size=12,
)


@given(steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_an_encrypted_file_is_a_plain_file_to_whoever_writes_and_reads_it(tmp_path_factory, key_path, steps):
    folder = tmp_path_factory.mktemp("files")
    kinds = SealedFiles(KeyFile(key_path)), PlainFiles()
    paths = folder / "sealed", folder / "plain"
    sealed, plain = (kind.open(path) for kind, path in zip(kinds, paths, strict=True))
    for name, *arguments in steps:
        if name == "reopen":
            sealed.close()
            sealed = kinds[0].open(paths[0])
        elif name == "read":
            assert sealed.read(*arguments) == plain.read(*arguments)
        else:
            for file in (sealed, plain):
                getattr(file, name)(*arguments)
        assert sealed.size() == plain.size()
    sealed.close()
    with paths[0].open("rb") as file:
        assert SealedReader(file, KeyFile(key_path), unfinished=True).read() == paths[1].read_bytes()
    plain.close()
    shutil.rmtree(folder)


class DiesAfter:
    """A file whose process dies within some write: what comes of that write and of later ones is not there."""

    def __init__(self, file, writes: int, share: float) -> None:
        self._file, self._left, self._share = file, writes, share

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._left -= 1
        if self._left < 0:
            return len(data)
        if self._left == 0:
            self._file.write(bytes(data)[: int(len(data) * self._share)])
            return len(data)
        return self._file.write(data)

    def truncate(self, size):
        self._left -= 1
        if self._left >= 0:
            self._file.truncate(size)


@given(
    first=st.binary(min_size=1, max_size=9_000),
    patch=st.tuples(st.integers(0, 9_000), st.binary(min_size=1, max_size=6_000)),
    cut=st.one_of(st.none(), st.integers(0, 9_000)),
    dies_at=st.integers(1, 12),
    share=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_whenever_a_process_dies_what_it_had_flushed_can_be_gone_on_with(
    tmp_path_factory, key_path, first, patch, cut, dies_at, share
):
    folder = tmp_path_factory.mktemp("files")
    path = folder / "audio"
    files = SealedFiles(KeyFile(key_path))
    audio = files.open(path)
    audio.write(0, [first])
    audio._sealed._file = DiesAfter(audio._sealed._file, dies_at, share)
    if cut is None:
        audio.write(patch[0], [patch[1]])
    else:
        audio.resize(min(cut, len(first)))
    audio.close()
    after = bytearray(first.ljust(patch[0], b"\0"))
    after[patch[0] : patch[0] + len(patch[1])] = patch[1]
    again = files.open(path)
    found = again.read(0, again.size())
    untouched = min(len(first), patch[0] if cut is None else cut)
    assert found[:untouched] == first[:untouched]
    if cut is None:
        assert len(found) >= len(first)
        for at, value in enumerate(found):  # a flush of several chunks is there chunk by chunk
            assert value in (first[at : at + 1] + bytes(after[at : at + 1]) + b"\0")
    else:
        assert len(found) <= len(first)
        assert found == first[: len(found)]
    again.write(len(found), [b"and on"])
    again.close()
    with path.open("rb") as file:
        assert SealedReader(file, KeyFile(key_path), unfinished=True).read() == found + b"and on"
    shutil.rmtree(folder)


def test_what_was_spooled_in_the_clear_is_read_as_it_is(tmp_path, files):
    plain = PlainFiles().open(tmp_path / "audio")
    plain.write(0, [b"clear"])
    plain.close()
    audio = files.open(tmp_path / "audio")
    assert audio.read(0, 10) == b"clear"
    audio.close()


def test_without_a_key_an_encrypted_file_is_not_touched(tmp_path, files):
    files.open(tmp_path / "audio").close()
    before = (tmp_path / "audio").read_bytes()
    with pytest.raises(WrongKeyError):
        PlainFiles().open(tmp_path / "audio")
    assert (tmp_path / "audio").read_bytes() == before


def test_a_file_has_its_name_only_with_a_whole_header(tmp_path, files, monkeypatch):
    def no_room(*_arguments):
        raise OSError(28, "no room")

    with monkeypatch.context() as patched:
        patched.setattr("callreel.encryption.SealedFile._write", no_room)
        with pytest.raises(OSError, match="no room"):
            files.open(tmp_path / "audio")
    assert not (tmp_path / "audio").exists()
    audio = files.open(tmp_path / "audio")
    audio.write(0, [b"later"])
    assert audio.read(0, 10) == b"later"
    audio.close()


@pytest.mark.skipif(not FILES.is_dir(), reason="Linux tells how many files are open")
def test_a_plain_file_that_the_disk_does_not_give_is_not_left_open(tmp_path, monkeypatch):
    def sick(*_arguments):
        raise OSError(5, "input/output error")

    before = len(list(FILES.iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr("os.pread", sick)
        for _ in range(20):
            with pytest.raises(OSError, match="input/output"):
                PlainFiles().open(tmp_path / "audio")
    assert len(list(FILES.iterdir())) < before + 20


# ---- keys that are ready ----


class SlowKeys:
    """A key service far away."""

    is_remote = True

    def __init__(self, error=None) -> None:
        self.error, self.made, self.opened = error, 0, 0

    def new_data_key(self) -> DataKey:
        if self.error is not None:
            raise self.error
        self.made += 1
        return DataKey("kms:k", self.made.to_bytes(4), secret_bytes(32, str(self.made)))

    def open_data_key(self, key_id, wrapped):
        self.opened += 1
        raise WrongKeyError("not this one")


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_data_keys_of_a_service_are_made_ahead_and_asked_for_once():
    service = SlowKeys()
    keys = ReadyKeys(service)
    until(lambda: service.made >= 32)
    key = keys.new_data_key()
    assert keys.open_data_key(key.key_id, key.wrapped) is key
    assert service.opened == 0
    keys.forget(key)
    with pytest.raises(WrongKeyError):
        keys.open_data_key(key.key_id, key.wrapped)
    keys.close()


def test_a_service_that_gives_no_key_is_waited_for_by_nobody_and_asked_again(monkeypatch):
    monkeypatch.setattr("callreel.encryption.keys.KEY_RETRY_S", 0.02)
    service = SlowKeys(KeyServiceError("AWS KMS is away", retryable=True))
    keys = ReadyKeys(service)
    with pytest.raises(KeyServiceError, match="is away"):
        keys.new_data_key()
    service.error = None
    until(lambda: service.made)
    assert keys.new_data_key().key_id == "kms:k"
    keys.close()


def test_what_goes_wrong_while_keys_are_made_ahead_is_told_and_they_are_made_again(monkeypatch):
    monkeypatch.setattr("callreel.encryption.keys.KEY_RETRY_S", 0.02)
    service = SlowKeys(KeyServiceError("AWS KMS is away", retryable=True))
    keys = ReadyKeys(service)
    service.error = RuntimeError("a library's")

    def is_told():
        with pytest.raises(KeyServiceError) as raised:
            keys.new_data_key()
        return str(raised.value) == "there is no key: RuntimeError"

    until(is_told)
    service.error = None
    until(lambda: service.made)
    assert keys.new_data_key().key_id == "kms:k"
    keys.close()


def test_a_service_that_refuses_for_good_says_so_at_once():
    with pytest.raises(KeyServiceError, match="no such key"):
        ReadyKeys(SlowKeys(KeyServiceError("no such key", retryable=False)))


# ---- a recorder ----


def sealed(tmp_path, key_path, **changes):
    return Settings(tmp_path / "spool", destination=str(tmp_path / "out"), key_file=key_path, **changes)


def clear_audio(path: Path, key_path: Path, tmp_path: Path):
    decrypt_file(path, tmp_path / "clear.wav", KeyFile(key_path))
    return soundfile.read(tmp_path / "clear.wav", dtype="int16", always_2d=True)


def is_clear(path: Path) -> bool:
    return b"RIFF" in path.read_bytes()[:64] or b"data" in path.read_bytes()[:128]


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_nothing_of_a_recording_is_in_the_clear_and_it_can_be_decrypted(tmp_path, key_path, format):
    clock = Clock(10.0)
    store = Unreliable(tmp_path / "out", is_down=True)
    with Recorder(
        sealed(tmp_path, key_path), store_for=lambda destination, key: (store, key), clock=clock
    ) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        call.start_recording(StartRecording(format=format))
        feed(call, clock, 1.0)
        spooled = list((tmp_path / "spool").rglob("audio.wav"))
        assert len(spooled) == 1
        assert not is_clear(spooled[0])
        feed(call, clock, 1.0, first=50)
        call.end()
        until(lambda: store.tries)
        assert not any(is_clear(path) for path in (tmp_path / "spool" / "takes").rglob("*.wav"))
        store.is_down = False
        (event,) = ended(recorder)
    assert event.manifest["encrypted_for"] == KeyFile(key_path).key_id
    assert event.manifest["degraded"] is False
    audio, rate = clear_audio(Path(event.location.removeprefix("file://")), key_path, tmp_path)
    assert (len(audio), rate) == (event.manifest["frames"], RATE)
    assert len(audio) >= 2 * RATE


def audio_bytes(spool: Path) -> int:
    return sum(path.stat().st_size for path in spool.rglob("audio.wav"))


def left_behind(tmp_path, settings_of_dead: Settings) -> Path:
    """A spool as a process leaves it that dies while it records."""
    clock = Clock(10.0)
    with Recorder(settings_of_dead, clock=clock) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        call.start_recording(StartRecording())
        feed(call, clock, 2.0)
        until(lambda: audio_bytes(settings_of_dead.spool) >= 1.6 * 4 * RATE)
        shutil.copytree(settings_of_dead.spool, tmp_path / "dead")
        call.end()
    return tmp_path / "dead"


def test_an_encrypted_recording_that_a_dead_process_left_waits_for_its_key_and_is_recovered(
    tmp_path, key_path, caplog
):
    spool = left_behind(tmp_path, sealed(tmp_path, key_path))
    with Recorder(Settings(spool, destination=str(tmp_path / "late"))) as other:
        until(lambda: "waits: the audio cannot be read: it is encrypted" in caplog.text)
        assert other.unfinished == 1
        assert not list(other.events())
    with Recorder(Settings(spool, destination=str(tmp_path / "late"), key_file=key_path)) as other:
        (event,) = ended(other)
    assert (event.end_reason, event.error) == ("recovered", None)
    audio, _ = clear_audio(Path(event.location.removeprefix("file://")), key_path, tmp_path)
    assert len(audio) == event.manifest["frames"] >= 1.5 * RATE
    assert audio.any()


def test_what_was_spooled_in_the_clear_is_delivered_encrypted_when_there_is_a_key(tmp_path, key_path):
    spool = left_behind(tmp_path, Settings(tmp_path / "spool", destination=str(tmp_path / "out")))
    with Recorder(Settings(spool, destination=str(tmp_path / "late"), key_file=key_path)) as recorder:
        (event,) = ended(recorder)
    assert event.manifest["encrypted_for"] == KeyFile(key_path).key_id
    assert len(clear_audio(Path(event.location.removeprefix("file://")), key_path, tmp_path)[0]) > RATE


def test_credentials_of_a_request_outlive_the_process_sealed(tmp_path, key_path, caplog):
    credentials = f"AKIDEXAMPLE:{MARK}"
    destination = Destination(kind="s3", bucket="b", credentials=credentials, region="r")
    store = Unreliable(tmp_path / "out", is_down=True)
    clock = Clock(10.0)
    asked = []

    def place(wanted, key):
        asked.append(wanted.credentials)
        return store, key

    settings = Settings(tmp_path / "spool", key_file=key_path)
    with Recorder(settings, store_for=place, clock=clock) as recorder:
        record(recorder, clock, "c-1", 0.5, StartRecording(destination=destination))
        until(lambda: store.tries)
    assert not [
        path
        for path in (tmp_path / "spool").rglob("*")
        if path.is_file() and MARK.encode() in path.read_bytes()
    ]
    asked.clear()
    store.is_down = False
    with Recorder(settings, store_for=place, clock=clock) as recorder:
        (event,) = ended(recorder)
    assert event.error is None
    assert set(asked) == {credentials}
    assert MARK not in caplog.text


def test_two_ways_to_encrypt_are_one_too_many(tmp_path, key_path):
    with pytest.raises(UsageError, match="not by both"):
        Settings(tmp_path, key_file=key_path, kms_key_id="alias/k")
