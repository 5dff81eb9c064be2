"""kill -9 of a worker of `callreel serve` under live RTP: it harms its own calls only, and these by little."""

import itertools
import json
import threading
import time

import numpy as np
import pytest

from callreel.kernels import g711
from callreel.spool import spools_in
from live_media import delivered, noise, read_wav, starts_at
from served_command import Command, until
from udp_peers import PACKET_S, Peer

CALLS = 8
WORKERS = 2
AUDIO_S = 4.0
MOST_MISSING_MS = 200
RATE = 8000


class Talker:
    """Somebody who talks to a leg until the audio is over, or the worker is."""

    def __init__(self, number: int, media: dict) -> None:
        self.codes = g711.ulaw_encode(noise(AUDIO_S, seed=number))
        self.said = np.frombuffer(g711.ulaw_decode(self.codes), "<i2")
        self.sent_at: list[float] = []
        self._began = time.monotonic()
        self._media = media
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def _talk(self) -> None:
        peer = Peer()
        try:
            for number in range(len(self.codes) // 160):
                time.sleep(max(0.0, self._began + number * PACKET_S - time.monotonic()))
                peer.rtp(self._media["port"], [number], payload=self.codes[160 * number : 160 * number + 160])
                self.sent_at.append(time.monotonic())
        finally:
            peer.socket.close()

    def samples_until(self, moment: float) -> int:
        """How much had been sent by then."""
        return 160 * sum(at <= moment for at in self.sent_at)

    def late_ms(self, moment: float) -> float:
        """How late it was at worst in the second before: a machine that has no time for us has none for the worker."""
        late_s = [
            at - self._began - number * PACKET_S
            for number, at in enumerate(self.sent_at)
            if moment - 1.0 <= at <= moment
        ]
        return 1000 * max(late_s)

    def join(self) -> None:
        self._thread.join()


@pytest.fixture
def command(tmp_path):
    with Command(tmp_path, first_port=31_400) as one:
        yield one


def owner(command, call_id):
    """The number of the worker that records a call; None before it is on the disk."""
    for index, spool in spools_in(command.spool).items():
        for about in spool.glob("takes/*/about.json"):
            if json.loads(about.read_text())["call_id"] == call_id:
                return str(index)
    return None


def test_one_worker_killed_harms_its_own_calls_only_and_these_end_once_with_little_missing(command):
    command.start(WORKERS)
    client = command.client()
    talkers, owners = {}, {}
    for number in itertools.count():
        answer = client.post("/v1/calls", json={"record": {}}).json()
        call_id = answer["call_id"]
        talkers[call_id] = Talker(number, answer["legs"][0]["media"])
        owners[call_id] = int(until(lambda call_id=call_id: owner(command, call_id)))
        if number + 1 >= CALLS and set(owners.values()) == set(range(WORKERS)):
            break
    time.sleep(1.5)
    killed_at = time.monotonic()
    pid = command.kill(1)
    command.successor(1, pid)
    lived_on = [call_id for call_id, index in owners.items() if index == 0]
    for talker in talkers.values():
        talker.join()
    time.sleep(0.3)  # the last packets are on their way
    for call_id in lived_on:
        assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    for call_id in set(owners) - set(lived_on):
        assert client.get(f"/v1/calls/{call_id}").status_code == 404

    for call_id, talker in talkers.items():
        entry = delivered(client, call_id)
        assert entry["error"] is None
        heard = read_wav(client, entry)[0][:, 0]
        at = starts_at(heard, talker.said.tobytes())
        if call_id in lived_on:
            assert entry["end_reason"] == "hangup"
            assert not entry["is_degraded"]
            assert (heard[at : at + len(talker.said)] == talker.said).all()
        else:
            assert entry["end_reason"] == "recovered"
            wanted = talker.samples_until(killed_at)
            there = heard[at : at + wanted]
            assert (there == talker.said[: len(there)]).all()
            assert (wanted - len(there)) * 1000 / RATE <= MOST_MISSING_MS + talker.late_ms(killed_at)
    entries = client.get("/v1/recordings", params={"page_size": 200}).json()["recordings"]
    assert sorted(one["call_id"] for one in entries) == sorted(owners)
    assert len(list(command.out.rglob("*.wav"))) == len(owners)
    until(lambda: not any(command.takes(index) for index in range(WORKERS)))
