"""The programs below examples run as they are, and do what they say."""

import asyncio
import io
import json
import os
import runpy
import subprocess
import sys
import tokenize

import numpy as np
import pytest

import pipecat_stand_in
from callreel.recorder import Recorder, Settings
from live_media import noise, starts_at, until
from project import ROOT

EXAMPLE = ROOT / "examples" / "engine.py"
PAUSE_S = slice(8, 10)
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the example printed, by vendor, and the folder it was given."""
    folder = tmp_path_factory.mktemp("recordings")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE.relative_to(ROOT)), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = {"chime": [], "sinch": [], "graph": []}
    for line in done.stdout.splitlines():
        vendor, _, body = line.partition(" ")
        told[vendor].append(json.loads(body))
    return told, folder


def sounding(samples, rate, begin_s, end_s):
    """Whether something is heard between two moments."""
    piece = samples[round(begin_s * rate) : round(end_s * rate)].astype(float)
    return np.sqrt(np.mean(piece**2)) > 100


def decoded(path):
    soundfile = pytest.importorskip("soundfile")
    return soundfile.read(path, dtype="int16", always_2d=True)


def test_the_engine_is_embedded_in_forty_lines_of_code():
    lines = set()
    text = EXAMPLE.read_text("utf-8")
    was = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and was in (tokenize.NEWLINE, tokenize.INDENT)
        if token.type not in NO_CODE and not is_docstring:
            lines |= set(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            was = token.type
    assert 30 < len(lines) <= 40


def test_the_example_tells_amazon_chimes_customer_of_each_list_and_of_the_key(ran):
    told = ran[0]["chime"]
    assert [(one["InvocationEventType"], one["ActionData"]["Type"]) for one in told] == [
        ("ACTION_SUCCESSFUL", "RecordAudio"),
        ("ACTION_SUCCESSFUL", "PauseCallRecording"),
        ("ACTION_SUCCESSFUL", "ResumeCallRecording"),
        ("HANGUP", "Hangup"),
    ]
    assert told[0]["ActionData"]["RecordingTerminatorUsed"] == "#"
    assert told[0]["ActionData"]["RecordingDestination"]["Key"] == "call-1-recordings-1.mp3"


def test_the_example_tells_sinchs_customer_where_the_recording_is(ran):
    finished, available, ended = ran[0]["sinch"]
    assert finished["type"] == "recording_finished"
    assert available["type"] == "recording_available"
    assert available["destination"] == "s3://acme-calls/consent.wav"
    assert ended["event"] == "dice"


def test_the_example_tells_microsoft_graphs_customer_of_the_stop_tone_and_hands_out_a_token(ran):
    record, call = (one["value"][0]["resourceData"] for one in ran[0]["graph"])
    assert record["completionReason"] == "stopToneDetected"
    assert record["recordingAccessToken"]
    assert call["state"] == "terminated"


def test_the_record_audio_of_the_example_ends_with_the_tone_of_its_key(ran):
    av = pytest.importorskip("av")
    with av.open(str(ran[1] / "call-1-recordings-1.mp3")) as file:
        (stream,) = file.streams
        samples = sum(frame.samples for frame in file.decode(stream))
        assert (stream.rate, stream.channels) == (8000, 1)
    assert samples / 8000 == pytest.approx(6.31, abs=0.03)


def test_the_call_recording_of_the_example_is_stereo_and_silent_in_its_pause(ran):
    (path,) = ran[1].glob("support *.wav")
    samples, rate = decoded(path)
    assert rate == 8000
    assert samples.shape[1] == 2
    assert len(samples) / rate == pytest.approx(13.02, abs=0.01)  # with what had arrived by the end
    for channel in samples.T:
        assert sounding(channel, rate, 1, 8)
        assert sounding(channel, rate, PAUSE_S.start, PAUSE_S.start + 0.2)  # the tone of the pause
        assert not channel[round((PAUSE_S.start + 0.21) * rate) : PAUSE_S.stop * rate].any()
        assert sounding(channel, rate, PAUSE_S.stop, 12)


def test_the_sinch_recording_of_the_example_is_as_long_as_what_was_said_within(ran):
    samples, rate = decoded(ran[1] / "consent.wav")
    assert (rate, samples.shape[1]) == (8000, 1)
    assert len(samples) / rate == pytest.approx(2.0, abs=0.05)
    assert sounding(samples[:, 0], rate, 0, 2)


def test_the_graph_recording_of_the_example_lies_between_the_beep_and_the_stop_tone(ran):
    (path,) = (one for one in ran[1].glob("call-1 *.wav"))
    samples, rate = decoded(path)
    assert (rate, samples.shape[1]) == (16000, 1)
    assert len(samples) / rate == pytest.approx(6.05 - 2.0, abs=0.05)
    spectrum = np.abs(np.fft.rfft(samples[-round(0.1 * rate) :, 0].astype(float)))
    hz = np.fft.rfftfreq(round(0.1 * rate), 1 / rate)
    tone = spectrum[np.abs(hz - 941) < 15].max() + spectrum[np.abs(hz - 1477) < 15].max()
    assert tone < spectrum.sum() / 4  # nothing of "#"


def test_the_agent_of_pipecat_is_recorded_with_its_caller_sample_by_sample(tmp_path, monkeypatch):
    """With a stand-in for Pipecat."""
    for name, module in pipecat_stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    agent = runpy.run_path(ROOT / "examples" / "pipecat_agent.py")
    said = noise(0.8)
    pieces = [said[at : at + 320] for at in range(0, len(said), 320)]
    monkeypatch.setattr(pipecat_stand_in, "HEARD", pieces)

    class Socket:
        async def accept(self):
            pass

    with Recorder(Settings(tmp_path / "spool", destination=str(tmp_path / "out"))) as recorder:
        agent["app"].state.recorder = recorder
        asyncio.run(agent["media"](Socket()))
        (path,) = until(lambda: list((tmp_path / "out").rglob("*.wav")))
    heard, rate = decoded(path)
    assert rate == 8000
    wanted = np.frombuffer(said, "<i2")
    for channel, expected in zip(heard.T, (wanted, -wanted), strict=True):
        begin = starts_at(channel, expected.tobytes())
        np.testing.assert_array_equal(channel[begin : begin + len(expected)], expected)


def test_the_example_leaves_nothing_but_its_four_recordings(ran):
    assert len(list(ran[1].iterdir())) == 4
