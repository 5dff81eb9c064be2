"""SDP: any bytes as an offer and an answer, and what the two agree on.

Input: offer, a NUL byte, answer.

Accepted: SipError, when not one line is that of a session description.
"""

from callreel import sdp
from callreel.errors import SipError

DICTIONARY = [
    b"v=0\r\n",
    b"c=IN IP4 10.0.0.1\r\n",
    b"c=IN IP6 ::1\r\n",
    b"m=audio 4000 RTP/AVP 0 8 101\r\n",
    b"m=image 5000 udptl t38\r\n",
    b"a=rtpmap:101 telephone-event/8000\r\n",
    b"a=rtpmap:",
    b"a=fmtp:",
    b"a=ptime:",
    b"a=maxptime:",
    b"a=rtcp:",
    b"a=rtcp-mux\r\n",
    b"a=sendonly\r\n",
    b"a=recvonly\r\n",
    b"a=inactive\r\n",
    b"a=crypto:",
    b"a=label:",
]
TURNED = {"sendonly": "recvonly", "recvonly": "sendonly", "sendrecv": "sendrecv", "inactive": "inactive"}


def run(data: bytes) -> None:
    first, _, second = data.partition(b"\0")
    offer, answer = description(first), description(second)
    for theirs in (answer, None):
        ours = sdp.agree(offer, theirs, participant_offered=True)
        for one, other in zip(ours, sdp.agree(theirs, offer, participant_offered=False), strict=True):
            same_from_both_sides(one, other)
    alone = sdp.agree(None, answer, participant_offered=True)
    assert all(line.participant is None for line in alone)


def description(data: bytes) -> sdp.Description | None:
    try:
        found = sdp.parse(data)
    except SipError:
        return None
    assert len(found.media) <= sdp.MAX_MEDIA
    assert found.size_bytes == len(data)
    assert sdp.parse(data) == found
    for line in found.media:
        assert 0 <= line.port <= 65535
        assert len(line.codecs) <= sdp.MAX_FORMATS
        assert all(0 <= number <= 127 for number in line.codecs)
        assert line.endpoint is None or 0 < line.endpoint.port <= 65535
    assert len(found.addresses) <= len(found.media)
    return found


def same_from_both_sides(ours: sdp.AgreedMedia, theirs: sdp.AgreedMedia) -> None:
    assert (ours.participant, ours.server) == (theirs.server, theirs.participant)
    assert (ours.to_participant, ours.to_server) == (theirs.to_server, theirs.to_participant)
    assert ours.direction == TURNED[theirs.direction]
    assert (ours.kind, ours.transport, ours.declined) == (theirs.kind, theirs.transport, theirs.declined)
    assert (ours.encrypted, ours.rtcp_mux) == (theirs.encrypted, theirs.rtcp_mux)
