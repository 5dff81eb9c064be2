"""Media streams: any text as a message of a platform, and what is sent back.

Input: UTF-8, of which what is none is replaced, as a WebSocket's text never is.

Accepted: ValueError, for what is no message.
"""

import json

from callreel.service import media_streams
from callreel.service.media_streams import Audio, Key, Mark, Other, Start, Stop

DICTIONARY = [
    b'{"event":"connected","protocol":"Call","version":"1.0.0"}',
    b'{"event":"start","start":{',
    b'"streamSid":"MZ1"',
    b'"stream_id":"1"',
    b'"callSid":"CA1"',
    b'"tracks":["inbound","outbound"]',
    b'"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}',
    b'"media_format":{"encoding":"PCMA","sample_rate":8000}',
    b'{"event":"media","media":{"track":"inbound","payload":"',
    b'{"event":"dtmf","dtmf":{"digit":"1"}}',
    b'{"event":"mark","mark":{"name":"',
    b'{"event":"stop"}',
]


def run(data: bytes) -> None:
    try:
        one = media_streams.read(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert isinstance(one, Audio | Key | Mark | Other | Start | Stop)
    match one:
        case Audio():
            assert one.direction in ("incoming", "outgoing")
        case Start():
            assert len(one.stream_sid) <= media_streams.SID_CHARACTERS
            assert one.encoding is None or one.encoding.sample_rate in (8_000, 16_000, 24_000, 48_000)
            back = json.loads(media_streams.mark(one.sid_name, one.stream_sid, "m"))
            assert back == {"event": "mark", one.sid_name: one.stream_sid, "mark": {"name": "m"}}
            played = media_streams.read(media_streams.media(one.sid_name, one.stream_sid, data))
            assert played == Audio("incoming", data)
            assert isinstance(media_streams.read(media_streams.clear(one.sid_name, one.stream_sid)), Other)
