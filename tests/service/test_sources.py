"""Audio and outline of a recording wherever it was delivered: a folder, S3, Sinch Drive, Graph's held folder."""

import hashlib
import json
import random
import time
import tracemalloc
import wave
from dataclasses import replace
from io import BytesIO

import pytest

from callreel.delivery import Parcel
from callreel.delivery.s3 import S3
from callreel.encryption import KeyFile, encrypt_file
from callreel.recorder import TakeEnded
from callreel.service.audio import AudioReader
from callreel.service.library import Library
from callreel.service.running import Service
from callreel.service.sources import FileSource, S3Source
from live_media import delivered
from s3_server import allow, free_ports
from service_host import listening, settings_in
from vendor_customers import begun, service_in, speak, tenant_called

MIB = 1 << 20


def key_in(folder):
    path = folder / "recordings.key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    return path


def in_s3(folder, s3, **changes):
    """Settings of a service that delivers to a bucket of its own, below "calls"; the bucket."""
    bucket = s3.bucket()
    settings = settings_in(folder)
    recorder = replace(
        settings.recorder, destination=f"s3://{bucket}/calls", s3=s3.settings(bucket), **changes
    )
    return replace(settings, recorder=recorder), bucket


def recorded(client, **record):
    """A recording of half a second that has ended."""
    call = client.post("/v1/calls", json={"legs": [{"media": "none"}], "record": record}).json()
    time.sleep(0.5)
    client.delete(f"/v1/calls/{call['call_id']}")
    return delivered(client, call["call_id"])


def parts_of(client, path, whole):
    """Whether ranges of it are those of the whole."""
    size = len(whole)
    for first, last in ((0, 0), (10, 19), (44, size - 1), (size - 5, size - 1), (size // 2, size // 2 + 99)):
        part = client.get(path, headers={"Range": f"bytes={first}-{last}"})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.content == whole[first : last + 1]
    assert client.get(path, headers={"Range": f"bytes={size}-"}).status_code == 416
    return True


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_what_is_in_s3_is_heard_and_seen_like_a_file_of_this_machine(
    s3_server, tmp_path, is_encrypted, format
):
    changes = {"key_file": key_in(tmp_path)} if is_encrypted else {}
    settings, bucket = in_s3(tmp_path, s3_server, **changes)
    with listening(Service(settings)) as running:
        client = running.client()
        entry = recorded(client, format=format)
        assert entry["location"] == f"s3://{bucket}/calls/{entry['key']}"
        (stored,) = s3_server.objects(bucket).values()
        path = f"/v1/recordings/{entry['take_id']}"
        audio = client.get(f"{path}/audio")
        assert audio.status_code == 200
        assert (audio.content == stored) == (not is_encrypted)
        assert audio.content[:4] == b"RIFF" or audio.content[:3] == b"ID3"
        assert int(audio.headers["content-length"]) == len(audio.content)
        assert parts_of(client, f"{path}/audio", audio.content)
        outline = client.get(f"{path}/waveform", params={"columns": 10}).json()
        assert outline["duration"] == pytest.approx(entry["duration_s"], abs=0.2)
        assert len(outline["channels"]) == 2
        page = client.get(f"/page/recordings/{entry['take_id']}/audio")
        assert page.content == audio.content
        picture = client.get(f"/page/recordings/{entry['take_id']}/waveform.svg").text
        assert "No waveform" not in picture
        s3_server.client().delete_object(Bucket=bucket, Key=f"calls/{entry['key']}")
        gone = client.get(f"/page/recordings/{entry['take_id']}/audio")
        assert gone.status_code == 404
        assert f"it is not there any more: {entry['location']}" in gone.text
        assert "not_there" not in gone.text


# ---- large objects ----


class Stored:
    """A long recording in S3, made there in parts, and the library's entry of it."""

    def __init__(self, s3, folder, *, is_encrypted):
        self.bucket, self.keys = s3.bucket(), KeyFile(key_in(folder))
        self.settings = replace(s3.settings(self.bucket), part_bytes=5 * MIB)
        self.whole = random.Random(5).randbytes(12 * MIB + 77)
        path = folder / "long.wav"
        path.write_bytes(self.whole)
        if is_encrypted:
            clear, path = path, folder / "long.sealed"
            encrypt_file(clear, path, self.keys.new_data_key())
        self.stored = path.read_bytes()
        self.store = S3(self.settings)
        self.deliver(path)
        self.manifest = {
            "bytes": len(self.stored),
            "sha256": hashlib.sha256(self.stored).hexdigest(),
            "destination": {"kind": None, "bucket": None, "region": None},
            "metadata": {"transaction-id": "t-1"},
        }
        library = Library(folder / "library.sqlite")
        ended = TakeEnded(
            "take-1", "call-1", "call-1/LEG-A", "stop", "long.wav", self.location, None, self.manifest
        )
        library.add("acme", ended, now_s=0.0)
        self.entry = library.get("take-1", "acme")
        library.close()

    @property
    def location(self):
        return self.store.location("long.wav")

    def deliver(self, path, transaction_id="t-1"):
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        metadata = {"transaction-id": transaction_id}
        parcel = Parcel(path, "long.wav", len(data), digest, "audio/wav", metadata, overwrite=True)
        self.store.deliver(parcel)

    def reader(self, folder, settings=None):
        recorder = replace(settings_in(folder).recorder, s3=settings or self.settings)
        return AudioReader({"s3": S3Source(recorder)}, self.keys)


async def _all(response):
    return b"".join([piece async for piece in response.body_iterator])


def body_of(response):
    import asyncio

    return asyncio.run(_all(response))


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_long_object_in_parts_is_read_by_ranges_and_is_never_whole_in_memory(
    s3_server, tmp_path, is_encrypted
):
    stored = Stored(s3_server, tmp_path, is_encrypted=is_encrypted)
    (head,) = [s3_server.client().head_object(Bucket=stored.bucket, Key="long.wav")]
    assert head["ETag"].strip('"').endswith("-3")  # three parts
    reader = stored.reader(tmp_path)
    whole = reader.response(stored.entry, None)
    assert body_of(whole) == stored.whole
    middle = reader.response(stored.entry, f"bytes={7 * MIB}-{7 * MIB + 99}")
    assert body_of(middle) == stored.whole[7 * MIB : 7 * MIB + 100]

    async def counted(response):
        return sum([len(piece) async for piece in response.body_iterator])

    import asyncio

    tracemalloc.start()
    try:
        assert asyncio.run(counted(reader.response(stored.entry, None))) == len(stored.whole)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 6 * MIB


# ---- what a destination refuses ----


def refused(reader, entry):
    """(HTTP status, code, text) of a reader that cannot give it."""
    from fastapi import HTTPException

    found = []
    for ask in (lambda: reader.response(entry, None), lambda: reader.waveform(entry, 10)):
        with pytest.raises(HTTPException) as error:
            ask()
        found.append((error.value.status_code, *error.value.detail))
    assert found[0] == found[1]
    return found[0]


def test_an_object_that_is_gone_or_another_one_is_not_there(s3_server, tmp_path):
    stored = Stored(s3_server, tmp_path, is_encrypted=False)
    reader = stored.reader(tmp_path)
    other = tmp_path / "other.wav"
    other.write_bytes(b"something else")
    stored.deliver(other)
    assert refused(reader, stored.entry) == (
        404,
        "not_there",
        "something else is stored in its place now",
    )
    other.write_bytes(bytes(len(stored.stored)))
    stored.deliver(other, transaction_id="t-2")
    assert refused(reader, stored.entry)[:2] == (404, "not_there")
    s3_server.client().delete_object(Bucket=stored.bucket, Key="long.wav")
    assert refused(reader, stored.entry) == (
        404,
        "not_there",
        f"it is not there any more: {stored.location}",
    )
    s3_server.client().delete_bucket(Bucket=stored.bucket)
    assert refused(reader, stored.entry)[:2] == (404, "not_there")


def test_a_destination_that_denies_or_does_not_answer_is_told_as_such_without_a_secret(s3_server, tmp_path):
    stored = Stored(s3_server, tmp_path, is_encrypted=False)
    nobody = s3_server.user(allow("s3:PutObject", bucket=stored.bucket))
    reader = stored.reader(tmp_path, replace(stored.settings, credentials=nobody))
    status, code, text = refused(reader, stored.entry)
    assert (status, code) == (502, "destination")
    assert "long.wav" in text
    assert nobody.secret_key not in text
    assert nobody.access_key not in text
    (port,) = free_ports(1)
    reader = stored.reader(tmp_path, replace(stored.settings, endpoint_url=f"http://127.0.0.1:{port}"))
    assert refused(reader, stored.entry)[:2] == (502, "destination")


def test_what_is_encrypted_for_another_key_or_damaged_is_told_as_such(tmp_path):
    settings = settings_in(tmp_path)
    encrypted = replace(settings, recorder=replace(settings.recorder, key_file=key_in(tmp_path)))
    with listening(Service(encrypted)) as running:
        entry = recorded(running.client())
        audio = running.client().get(f"/v1/recordings/{entry['take_id']}/audio")
        assert audio.content.startswith(b"RIFF")
        (file,) = (tmp_path / "out").rglob("*.wav")
        whole = file.read_bytes()
        file.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        damaged = running.client().get(f"/v1/recordings/{entry['take_id']}/audio")
        assert (damaged.status_code, damaged.json()["error"]["code"]) == (502, "destination")
        file.write_bytes(whole)
    with listening(Service(settings)) as running:
        for what in ("audio", "waveform"):
            answer = running.client().get(f"/v1/recordings/{entry['take_id']}/{what}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "encrypted")


def test_a_place_outside_of_the_folders_is_not_read(tmp_path):
    from callreel.errors import DestinationMissingError

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"in")
    (tmp_path / "secret").write_bytes(b"out")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    source = FileSource((tmp_path / "in",))
    library = Library(tmp_path / "library.sqlite")
    library.add("acme", TakeEnded("t", "c", "r", "stop", "k", None, None, {}), now_s=0.0)
    entry = library.get("t")
    library.close()
    with source.open(entry, f"file://{tmp_path}/in/a.wav") as file:
        assert file.read() == b"in"
    for path in ("in/../secret", "secret", "in/%2e%2e/secret", "in/link", "in", "in/nothing"):
        with pytest.raises(DestinationMissingError):
            source.open(entry, f"file://{tmp_path}/{path}")


# ---- what the service keeps itself ----


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_what_is_in_sinch_drive_is_heard_and_seen_until_it_is_deleted_or_replaced(tmp_path, is_encrypted):
    acme = tenant_called("acme")
    recorder = replace(settings_in(tmp_path).recorder, key_file=key_in(tmp_path) if is_encrypted else None)
    service = service_in(tmp_path, acme, recorder=recorder)
    with listening(service) as running:
        client = running.client()

        def kept(name):
            call_id = begun(client, "sinch")
            options = {"destinationUrl": f"sdrive://{name}", "format": "wav"}
            svaml = {
                "instructions": [{"name": "startRecording", "options": options}],
                "action": {"name": "continue"},
            }
            ask = {"action": "request", "document": svaml}
            assert client.post(f"/v1/calls/{call_id}/actions", json=ask).status_code == 200
            speak(service, call_id, seconds=0.3)
            client.delete(f"/v1/calls/{call_id}")
            entry = delivered(client, call_id)
            return entry, f"/v1/recordings/{entry['take_id']}"

        entry, path = kept("one.wav")
        assert entry["location"].endswith("/calling/v1/recording/one.wav")
        audio = client.get(f"{path}/audio")
        with wave.open(BytesIO(audio.content)) as file:
            assert file.getnframes() > 1000
        assert parts_of(client, f"{path}/audio", audio.content)
        assert client.get(f"{path}/waveform").json()["duration"] == pytest.approx(
            entry["duration_s"], abs=0.1
        )
        _, newer = kept("one.wav")
        assert client.get(f"{newer}/audio").status_code == 200
        gone = client.get(f"{path}/audio")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_there")
        service._drive("acme").delete("one.wav")
        assert client.get(f"{newer}/audio").status_code == 404
        assert json.loads(client.get(f"{newer}/waveform").content)["error"]["code"] == "not_there"


def test_what_graphs_customers_may_download_is_heard_and_seen_until_it_is_removed(tmp_path):
    acme = tenant_called("acme")
    recorder = replace(settings_in(tmp_path).recorder, key_file=key_in(tmp_path))
    service = service_in(tmp_path, acme, recorder=recorder)
    with listening(service) as running:
        client = running.client()
        call_id = begun(client, "graph")
        document = {
            "path": f"/communications/calls/{call_id}/recordResponse",
            "body": {"playBeep": False, "maxRecordDurationInSeconds": 1},
        }
        client.post(f"/v1/calls/{call_id}/actions", json={"action": "request", "document": document})
        speak(service, call_id, seconds=1.2)
        path = f"/v1/recordings/{delivered(client, call_id)['take_id']}"
        audio = client.get(f"{path}/audio")
        with wave.open(BytesIO(audio.content)) as file:
            assert file.getnframes() == 16_000
        assert parts_of(client, f"{path}/audio", audio.content)
        assert client.get(f"{path}/waveform").json()["duration"] == 1.0
        for file in (tmp_path / "spool" / "held").rglob("*.wav"):
            file.unlink()
        assert client.get(f"{path}/audio").status_code == 404
