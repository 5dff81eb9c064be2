"""Dialogs: any messages between any of a few hosts, and the calls that come of them.

Input: messages with a NUL byte between them. The first byte of each says who sent it to whom, and how long after the
one before: source (2 bits), destination (2 bits), time (4 bits).

Accepted: nothing; what cannot be read is counted.
"""

from callreel.dialogs import MAX_EXCHANGES, MAX_HOPS, Dialogs

DICTIONARY = [
    b"\0",
    b"INVITE sip:b SIP/2.0\r\n",
    b"ACK sip:b SIP/2.0\r\n",
    b"BYE sip:b SIP/2.0\r\n",
    b"CANCEL sip:b SIP/2.0\r\n",
    b"PRACK sip:b SIP/2.0\r\n",
    b"UPDATE sip:b SIP/2.0\r\n",
    b"SIP/2.0 183 -\r\n",
    b"SIP/2.0 200 OK\r\n",
    b"SIP/2.0 487 -\r\n",
    b"From: <sip:a>;tag=1\r\n",
    b"To: <sip:b>;tag=2\r\n",
    b"Call-ID: 1\r\n",
    b"CSeq: 1 INVITE\r\n",
    b"RAck: 1 1 INVITE\r\n",
    b"Via: SIP/2.0/UDP a;branch=z9hG4bK1\r\n",
    b"Content-Type: application/sdp\r\n\r\nv=0\r\n",
    b"c=IN IP4 10.0.0.1\r\n",
    b"m=audio 4000 RTP/AVP 0 8 101\r\n",
]
TIMES_NS = [0, 1, 10**6, 2 * 10**7, 5 * 10**8, 10**9, 4 * 10**9, 32 * 10**9, 10**12, 10**15]


def run(data: bytes) -> None:
    dialogs = Dialogs()
    messages = [message for message in data.split(b"\0") if message]
    now_ns = 0
    for message in messages:
        way = message[0]
        now_ns += TIMES_NS[(way >> 4) % len(TIMES_NS)]
        source, destination = ((f"10.0.0.{way >> at & 3}", 5060) for at in (0, 2))
        dialogs.receive(message[1:], time_ns=now_ns, source=source, destination=destination)
    assert dialogs.messages == len(messages)
    calls = dialogs.calls()
    assert dialogs.other + len(calls) + dialogs.dropped["calls"] <= len(messages)
    assert calls == dialogs.calls()
    for call in calls:
        assert call.ended_at_ns is None or 0 <= call.ended_at_ns <= now_ns
        assert call.state in ("answered", "unanswered", "unknown")
        assert len({leg.name for leg in call.legs}) == len(call.legs) <= MAX_HOPS
        assert sum(len(leg.hops) for leg in call.legs) <= MAX_HOPS
        for number, leg in enumerate(call.legs):
            assert leg.participant == ("callee" if number else "caller")
            times = [session.valid_from_ns for session in leg.sessions]
            assert times == sorted(times)
            assert len(times) <= MAX_EXCHANGES
