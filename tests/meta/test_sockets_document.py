"""docs/sockets.md says what is so: its tables are those of the code, its numbers are set there, its program runs."""

import asyncio
import re

import numpy as np

from callreel import addresses
from callreel.service import audiosocket, encodings, links, prompts, relays, websocket_legs, websocket_media
from callreel.service.running import Service
from live_media import delivered, noise, read_wav, starts_at
from markdown_text import code_spans, fenced, section, table
from project import ROOT
from service_host import TOKENS, listening, settings_in

TEXT = (ROOT / "docs" / "sockets.md").read_text("utf-8")
PROGRAM = fenced(TEXT, "python")[0]


def test_the_program_of_the_voice_agent_records_both_tracks(tmp_path):
    caller, agent = noise(0.8, rate=16_000), noise(0.8, rate=16_000, seed=1)

    async def turns():
        start = asyncio.get_running_loop().time()
        for number, at in enumerate(range(0, len(caller), 640)):
            await asyncio.sleep(max(0.0, start + (number + 1) * 0.02 - asyncio.get_running_loop().time()))
            yield caller[at : at + 640], agent[at : at + 640]

    with listening(Service(settings_in(tmp_path))) as running:
        names = {}
        exec(PROGRAM, names)
        names["SERVICE"], names["TOKEN"] = f"127.0.0.1:{running.port}", TOKENS["acme"]
        call_id = asyncio.run(names["record"](turns()))
        client = running.client()
        audio, _ = read_wav(client, delivered(client, call_id))
    for channel, said in ((0, caller), (1, agent)):
        heard = encodings.Conversion(16_000, 8000)
        wanted = heard.feed(said) + heard.flush()
        begin = starts_at(audio[:, channel], wanted)
        found = audio[begin : begin + 6000, channel]
        np.testing.assert_array_equal(found, np.frombuffer(wanted, "<i2")[: len(found)])


def test_the_kinds_of_audiosocket_are_those_it_understands():
    listed = {}
    for kind, payload in table(TEXT, "kind"):
        rate = re.search(r"at ([\d,]+) Hz", payload)
        listed[int(code_spans(kind)[0], 16)] = None if rate is None else int(rate[1].replace(",", ""))
    assert {kind: rate for kind, rate in listed.items() if rate} == dict(audiosocket.AUDIO_RATES)
    others = {value for name, value in vars(audiosocket.Kind).items() if not name.startswith("_")}
    assert {kind for kind, rate in listed.items() if not rate} == others


def test_the_options_of_a_websocket_leg_are_those_there_are():
    rows = table(TEXT, "option")
    assert {name for row in rows for name in code_spans(row[0])} == websocket_legs.OPTIONS
    values = {code_spans(row[0])[0]: set(code_spans(row[2])) | set(code_spans(row[1])) for row in rows}
    assert values["encoding"] == set(encodings.NAMES)
    assert values["sample_rate"] - {"pcm16"} == {str(rate) for rate in websocket_legs.RATES}


def test_the_counts_are_those_that_are_kept():
    listed = {name for row in table(TEXT, "count") for name in code_spans(row[0])}
    sources = "".join(
        (ROOT / "src" / "callreel" / "service" / f"{name}.py").read_text("utf-8")
        for name in ("links", "audiosocket", "websocket_legs")
    )
    kept = set(re.findall(r'counts\["(\w+)"\]', sources))
    kept |= {
        name for pair in re.findall(r'counts\["(\w+)" if [^\]]*? else "(\w+)"\]', sources) for name in pair
    }
    assert listed == kept


def test_its_numbers_are_those_of_the_code():
    codes = {int(code_spans(row[0])[0]) for row in table(TEXT, "code")}
    assert codes - {1009} == {
        websocket_media.NORMAL,
        websocket_media.NOT_UNDERSTOOD,
        websocket_media.POLICY,
        relays.GONE,
    }
    for words in (
        f"by {links.AHEAD_S} s",
        f"more than {audiosocket.UNSENT_S:.0f} s waiting",
        f"more than {links.KEYS_PER_S} messages of keys in a second",
        f"takes nothing for {links.STALLED_S:.0f} s",
        f"or {websocket_legs.MARK_S:.0f} s later",
        f"have {audiosocket.IDENTIFIED_S:.0f} s to do so",
        f"{audiosocket.STRANGERS_OF_ONE_ADDRESS} of them from one address and {audiosocket.STRANGERS_MAX:,} in all",
        f"at most {websocket_media.MESSAGE_BYTES >> 10} KiB",
        f"at most {prompts.LONGEST_S:.0f} s and {prompts.DECODED_BYTES >> 20} MiB",
        f"kept for {prompts.KEPT_S:.0f} s, {prompts.KEPT_BYTES >> 20} MiB of it",
        f"{addresses.PROMPTS.total_s:.0f} s and {addresses.PROMPTS.max_bytes >> 20} MiB",
    ):
        assert words in " ".join(TEXT.split()), words
    assert websocket_media.START_S == audiosocket.IDENTIFIED_S
    assert websocket_media.STRANGERS_MAX == audiosocket.STRANGERS_MAX
    assert websocket_media.STRANGERS_OF_ONE_ADDRESS == audiosocket.STRANGERS_OF_ONE_ADDRESS
    assert websocket_legs.UNSENT_MESSAGES / encodings.FRAMES_PER_S == audiosocket.UNSENT_S


def test_the_dialplan_begins_a_call_with_what_the_api_takes(tmp_path):
    """What the line of the dialplan sends is taken as it is, with a UUID in the place of the variable."""
    (body,) = re.findall(r"-d '(\{.*?\})' http", section(TEXT, "## AudioSocket: Asterisk"))
    identity = "40325ec2-5efd-4bd3-805f-53576e581d13"
    with listening(Service(settings_in(tmp_path, audiosocket_port=0))) as running:
        answer = running.client().post(
            "/v1/calls",
            content=body.replace("${ID}", identity),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 201, answer.text
        assert answer.json()["legs"][0]["media"]["uuid"] == identity
