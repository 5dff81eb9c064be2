"""SIP messages out of datagrams and TCP streams."""

import contextlib
import itertools
import time

import pytest
import sipmessage
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel import sip
from callreel.errors import SipError
from callreel.sip import StreamAssembler

INVITE = (
    b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP client.atlanta.example.com:5060;branch=z9hG4bK74bf9\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice, of Atlanta" <sip:alice@atlanta.example.com;transport=tcp>;tag=9fxced76sl\r\n'
    b"To: Bob <sip:bob@biloxi.example.com>\r\n"
    b"Call-ID: 2xTb9vxSit55XU7p8@atlanta.example.com\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@client.atlanta.example.com>\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: 89\r\n"
    b"\r\n"
    b"v=0\r\n"
    b"o=alice 1 1 IN IP4 192.0.2.101\r\n"
    b"s=-\r\n"
    b"c=IN IP4 192.0.2.101\r\n"
    b"m=audio 49172 RTP/AVP 0\r\n"
)
RINGING = (
    b"SIP/2.0 180 Ringing\r\n"
    b"Via: SIP/2.0/UDP client.atlanta.example.com:5060;branch=z9hG4bK74bf9;received=192.0.2.101\r\n"
    b"From: <sip:alice@atlanta.example.com>;tag=9fxced76sl\r\n"
    b"To: <sip:bob@biloxi.example.com>;tag=8321234356\r\n"
    b"Call-ID: 2xTb9vxSit55XU7p8@atlanta.example.com\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Content-Length: 0\r\n"
    b"\r\n"
)


def with_body(body: bytes, *headers: str) -> bytes:
    """An INVITE with these headers besides those it must have."""
    head = INVITE.partition(b"Content-Type")[0]
    return head + "".join(header + "\r\n" for header in headers).encode() + b"\r\n" + body


# --- recognising ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        b"INVITE sip:bob@example.com SIP/2.0\r\n",
        b"INVITE sip:bob@example.com SIP/2.0\n",
        b"REGISTER sips:example.com SIP/2.0\r\nVia",
        b"INVITE tel:+358-555-1234567;postd=pp22 SIP/2.0\r\n",
        b"INVITE SIP:bob@example.com sip/2.0\r\n",
        b"!interesting-Method0123456789_*+`.%indeed'~ sip:a@example.com SIP/2.0\r\n",
        b"SIP/2.0 200 OK\r\n",
        b"SIP/2.0 200\r\n",
        b"SIP/2.0 100 Trying",
        b"\r\n\r\nBYE sip:a@b SIP/2.0\r\n",
    ],
)
def test_a_start_line_looks_like_sip_in_any_buffer(start):
    assert sip.looks_like_sip(start)
    assert sip.looks_like_sip(bytearray(start))
    assert sip.looks_like_sip(memoryview(start))


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x80\x00\x12\x34INVITE sip:a@b SIP/2.0\r\n",
        b"\r\n\r\n",
        b"hello",
        b"GET / HTTP/1.1\r\n",
        b"GET sip:a@b HTTP/1.1\r\n",
        b"INVITE sip:a@b\r\n SIP/2.0\r\n",
        b"SIP/2.0 999 No\r\n",
        b"SIP/2.0 2000 OK\r\n",
        b"SIP/3.0 200 OK\r\n",
        b"INVITE http://example.com SIP/2.0\r\n",
        b"NOTAMETHOD" * 7 + b" sip:a@b SIP/2.0\r\n",
    ],
)
def test_other_traffic_does_not_look_like_sip(start):
    assert not sip.looks_like_sip(start)


# --- messages -------------------------------------------------------------------------------------------


def test_a_request_is_read():
    message = sip.parse(INVITE)
    assert (message.method, message.status, message.uri) == ("INVITE", None, "sip:bob@biloxi.example.com")
    assert message.call_id == "2xTb9vxSit55XU7p8@atlanta.example.com"
    assert message.cseq == 1
    assert message.sender == ("sip:alice@atlanta.example.com;transport=tcp", "9fxced76sl")
    assert message.recipient == ("sip:bob@biloxi.example.com", "")
    assert message.branch == "z9hG4bK74bf9"
    assert message.body.startswith(b"v=0\r\n")
    assert message.body.endswith(b"RTP/AVP 0\r\n")


def test_a_response_has_the_method_of_its_cseq():
    message = sip.parse(RINGING)
    assert (message.method, message.status, message.uri) == ("INVITE", 180, "")
    assert message.recipient.tag == "8321234356"


@pytest.mark.parametrize("data", [INVITE, RINGING])
def test_well_formed_messages_are_read_as_a_strict_parser_does(data):
    ours, theirs = sip.parse(data), sipmessage.Message.parse(data)
    assert ours.call_id == theirs.call_id
    assert (ours.cseq, ours.method) == (theirs.cseq.sequence, theirs.cseq.method)
    assert ours.sender == (str(theirs.from_address.uri), theirs.from_address.parameters["tag"])
    assert ours.recipient.uri == str(theirs.to_address.uri)
    assert ours.branch == theirs.via[0].parameters["branch"]
    assert ours.body == theirs.body
    assert {
        name.lower(): theirs.headers.getlist(name) for name in list(theirs.headers.keys())
    } == ours.headers


def test_compact_header_names_mean_the_long_ones():
    data = INVITE
    for long, compact in [
        (b"Via", b"v"),
        (b"From", b"f"),
        (b"To", b"t"),
        (b"Call-ID", b"i"),
        (b"Contact", b"m"),
        (b"Content-Type", b"c"),
        (b"Content-Length", b"l"),
    ]:
        data = data.replace(b"\r\n" + long + b":", b"\r\n" + compact + b" :")
    assert sip.parse(data) == sip.parse(INVITE)


def test_header_names_have_no_case_and_line_ends_may_be_bare_line_feeds():
    head, _, body = INVITE.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    shouted = [lines[0], *(b":".join([n.upper(), v]) for n, _, v in (x.partition(b":") for x in lines[1:]))]
    data = b"\n".join(shouted) + b"\n\n" + body
    assert sip.parse(data) == sip.parse(INVITE)


def test_folded_headers_are_one_line():
    data = INVITE.replace(b'From: "Alice, of Atlanta" ', b'From:\r\n  "Alice,\r\n\tof Atlanta"\r\n ')
    assert sip.parse(data).sender == sip.parse(INVITE).sender


def test_the_branch_is_that_of_the_topmost_of_several_vias_in_one_line():
    data = INVITE.replace(
        b"Via: ", b"Via: SIP/2.0/UDP [2001:db8::9]:15060 ; branch = z9hG4bKtop;received=2001:db8::9, "
    )
    assert sip.parse(data).branch == "z9hG4bKtop"


def test_a_via_without_a_branch_does_not_borrow_that_of_the_next():
    data = INVITE.replace(b"Via: ", b"Via: SIP/2.0/UDP old.example.com,")
    assert sip.parse(data).branch == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<sip:a@b>;tag=x", ("sip:a@b", "x")),
        ("sip:a@b;tag=x", ("sip:a@b", "x")),
        ("A B <sip:a@b;user=phone> ; TAG = x;lr", ("sip:a@b;user=phone", "x")),
        (r'"say \"<hi>\"" <sip:a@b>;tag=x', ("sip:a@b", "x")),
        (r"\"arik\" <sip:a@b>;tag=x", ("sip:a@b", "x")),
        ('"no end <sip:a@b>;tag=x', ("sip:a@b", "x")),
        ("Änna <sip:a@b>;tag=x", ("sip:a@b", "x")),
        ("<sip:a@b;tag=no>", ("sip:a@b;tag=no", "")),
        ("<sip:#31#1@host_name>;tag=x", ("sip:#31#1@host_name", "x")),
        ("<sip:a@b", ("sip:a@b", "")),
        ("<urn:service:sos>;tag=", ("urn:service:sos", "")),
    ],
)
def test_addresses_are_read_however_they_are_written(value, expected):
    data = INVITE.replace(b"To: Bob <sip:bob@biloxi.example.com>", b"To: " + value.encode())
    assert sip.parse(data).recipient == expected


def test_bytes_that_are_not_utf_8_keep_their_differences():
    one = sip.parse(INVITE.replace(b"2xTb", b"2x\xe4b")).call_id
    other = sip.parse(INVITE.replace(b"2xTb", b"2x\xe5b")).call_id
    assert one.startswith("2xäb")
    assert one != other


def test_control_characters_do_not_get_through_to_a_terminal():
    message = sip.parse(INVITE.replace(b"sip:bob@", b"sip:b\x1b[31m\x00ob\x7f@"))
    assert message.uri == message.recipient.uri == "sip:b�[31m�ob�@biloxi.example.com"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"INVITE sip", b"INVITE http", "no SIP start line"),
        (b"Call-ID:", b"X-ID:", "no call-id header"),
        (b"2xTb9vxSit55XU7p8@atlanta.example.com", b"", "no call-id header"),
        (b"2xTb9vxSit55XU7p8@", b"x" * 2000, "call-id too long"),
        (b"CSeq:", b"Seq:", "no cseq header"),
        (b"1 INVITE", b"one INVITE", "unreadable cseq header"),
        (b"1 INVITE", b"9" * 5000 + b" INVITE", "unreadable cseq header"),
        (b"From:", b"X-From:", "no from header"),
        (b"To:", b"X-To:", "no to header"),
    ],
)
def test_a_message_that_cannot_be_placed_is_refused_with_the_reason(old, new, reason):
    with pytest.raises(SipError, match=reason):
        sip.parse(INVITE.replace(old, new))


def test_a_header_without_a_colon_is_left_alone():
    assert sip.parse(INVITE.replace(b"Max-Forwards: 70", b"Max-Forwards 70")).call_id


def test_a_message_cut_off_within_its_headers_is_read_as_far_as_it_goes():
    message = sip.parse(INVITE[: INVITE.index(b"Contact")])
    assert message.cseq == 1
    assert message.body == b""


@pytest.mark.parametrize("value", ["bad", "-5", "", "9999999999999999999999", "4000", "٣"])
def test_a_useless_content_length_leaves_all_of_the_body(value):
    body = sip.parse(INVITE).body
    assert sip.parse(INVITE.replace(b"Content-Length: 89", f"Content-Length: {value}".encode())).body == body


def test_what_follows_the_body_in_a_datagram_is_discarded():
    body = sip.parse(INVITE).body
    assert sip.parse(INVITE + b"m=audio 6666 RTP/AVP 0\r\n").body == body
    assert sip.parse(RINGING + b"junk").body == b""


def test_a_content_length_that_cuts_a_line_in_two_was_miscounted():
    body = sip.parse(INVITE).body
    for length in (85, 82, 60):
        assert sip.parse(INVITE.replace(b"Length: 89", b"Length: %d" % length)).body == body


# --- bodies ---------------------------------------------------------------------------------------------

SDP = b"v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\na=label:1\r\n"


def multipart(*parts: bytes, boundary: bytes = b"unique-1") -> bytes:
    return (
        b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    )


METADATA = b"Content-Type: application/rs-metadata+xml\r\n\r\n<recording>v=0</recording>"
SDP_PART = b"Content-Disposition: session\r\nCONTENT-TYPE: Application/SDP; charset=utf-8\r\n\r\n" + SDP


@pytest.mark.parametrize("parts", [(SDP_PART, METADATA), (METADATA, SDP_PART)])
@pytest.mark.parametrize(
    "content_type", ["multipart/mixed;boundary=unique-1", 'Multipart/Mixed; boundary="unique-1"']
)
def test_the_description_is_found_in_a_multipart_body(parts, content_type):
    message = sip.parse(with_body(multipart(*parts), f"Content-Type: {content_type}", "MIME-Version: 1.0"))
    assert sip.sdp_body(message).split() == SDP.split()


def test_the_description_is_found_in_a_multipart_within_a_multipart():
    inner = b"c: multipart/alternative;boundary=in\r\n\r\n" + multipart(SDP_PART, boundary=b"in")
    message = sip.parse(with_body(multipart(METADATA, inner), "c: multipart/mixed;boundary=unique-1"))
    assert sip.sdp_body(message).split() == SDP.split()


def test_a_multipart_body_that_does_not_name_its_boundary_shows_it():
    message = sip.parse(with_body(multipart(METADATA, SDP_PART), "Content-Type: multipart/mixed"))
    assert sip.sdp_body(message).split() == SDP.split()


def test_an_early_session_of_its_own_is_not_the_session():
    early = SDP_PART.replace(b"session\r\n", b"early-session\r\n", 1).replace(b"4000", b"6000")
    message = sip.parse(with_body(multipart(early, SDP_PART), "c: multipart/mixed;boundary=unique-1"))
    assert b"m=audio 4000" in sip.sdp_body(message)


@pytest.mark.parametrize(
    ("headers", "body", "found"),
    [
        (["Content-Type: application/sdp"], SDP, True),
        (["c:APPLICATION/SDP;version=1"], SDP, True),
        ([], SDP, True),
        ([], b"hello", False),
        (["Content-Type: text/plain"], SDP, False),
        (["Content-Type: application/sdp"], b"\r\n", False),
        (["Content-Type: application/sdp", "Content-Encoding: gzip"], SDP, False),
        (["Content-Type: application/sdp", "e: identity"], SDP, True),
        (["Content-Type: multipart/mixed;boundary=x"], SDP, False),
        (["Content-Type: multipart/mixed"], b"\r\n", False),
        (["Content-Type: multipart/mixed"], b"--\r\n", False),
    ],
)
def test_what_counts_as_a_description(headers, body, found):
    assert (sip.sdp_body(sip.parse(with_body(body, *headers))) is not None) is found


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("acme-siprec-offer.txt", [b"16777227", b"16777228"]),
        ("cisco-siprec-offer.txt", [b"1", b"2"]),
        ("broadworks-offer.txt", [b"1"]),
    ],
)
def test_recorded_siprec_bodies_give_their_description(test_data, name, labels):
    body = test_data(f"siprec/{name}").read_bytes().lstrip()
    found = sip.sdp_body(sip.parse(with_body(body, "Content-Type: multipart/mixed")))
    assert [line[8:] for line in found.split(b"\n") if line.startswith(b"a=label:")] == labels


# --- streams --------------------------------------------------------------------------------------------

NO_LENGTH = with_body(SDP, "Content-Type: application/sdp")
BAD_LENGTH = with_body(SDP, "Content-Type: application/sdp", "Content-Length: many")
NO_BODY = with_body(b"")


def feed(assembler: StreamAssembler, stream: bytes, *, seq: int = 1000, size: int = 100) -> list[bytes]:
    out = []
    for at in range(0, len(stream), size):
        segment = stream[at : at + size]
        out += assembler.receive(segment, seq=(seq + at) & 0xFFFFFFFF, time_ns=at)
    return [message.data for message in out]


def started(isn: int = 999) -> StreamAssembler:
    assembler = StreamAssembler()
    assert assembler.receive(b"", seq=isn, time_ns=0, syn=True) == []
    return assembler


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1460, 100_000])
def test_messages_are_cut_by_content_length_for_any_segments(size):
    stream = INVITE + RINGING + b"\r\n\r\n" + RINGING.replace(b"Content-Length", b"l") + NO_BODY + INVITE
    assert feed(started(), stream, size=size) == [
        INVITE,
        RINGING,
        RINGING.replace(b"Content-Length", b"l"),
        NO_BODY,
        INVITE,
    ]


def test_a_message_has_the_time_of_the_segment_that_completed_it():
    assembler = started()
    assert assembler.receive(INVITE[:300], seq=1000, time_ns=5) == []
    (message,) = assembler.receive(INVITE[300:], seq=1300, time_ns=7)
    assert message.time_ns == 7


@pytest.mark.parametrize("first", [NO_LENGTH, BAD_LENGTH])
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_without_a_content_length_a_body_ends_at_the_next_start_line_or_the_end(first, size):
    assembler = started()
    assert feed(assembler, first + RINGING + first, size=size) == [first, RINGING]
    assert [message.data for message in assembler.close()] == [first]
    assert assembler.close() == []


def test_a_fin_ends_the_last_message():
    assembler = started()
    assert assembler.receive(NO_LENGTH, seq=1000, time_ns=1) == []
    (message,) = assembler.receive(b"", seq=1000 + len(NO_LENGTH), time_ns=9, fin=True)
    assert (message.data, message.time_ns) == (NO_LENGTH, 1)


def test_after_a_content_length_that_was_too_small_reading_goes_on_at_the_next_start_line():
    short = INVITE.replace(b"Length: 89", b"Length: 40")
    got = feed(started(), short + RINGING, size=33)
    assert got[0] == short[:-49]
    assert got[1] == RINGING


def test_retransmissions_and_overlaps_change_nothing():
    assembler = started()
    out = assembler.receive(INVITE[:200], seq=1000, time_ns=0)
    out += assembler.receive(INVITE[:200], seq=1000, time_ns=1)
    out += assembler.receive(b"?" * 100 + INVITE[200:400], seq=1100, time_ns=2)
    out += assembler.receive(INVITE[150:300], seq=1150, time_ns=3)
    out += assembler.receive(INVITE[400:], seq=1400, time_ns=4)
    out += assembler.receive(INVITE, seq=1000, time_ns=5)
    assert [message.data for message in out] == [INVITE]


@pytest.mark.parametrize("size", [7, 400, 100_000])
def test_a_content_length_that_reaches_into_the_next_message_costs_that_one_only(size):
    long = with_body(b"", "Content-Length: 40")
    assert feed(started(), long + RINGING + INVITE, size=size) == [long + RINGING[:40], INVITE]


@pytest.mark.parametrize("tail", [b"SIP/2.0 1800 bottles", b"OPTIONS sip:x SIP/2.0?"])
def test_a_segment_that_ends_in_what_looks_like_a_start_line_does_not_end_the_body_before_it(tail):
    for cut in range(len(NO_LENGTH), len(NO_LENGTH + tail)):
        assembler = started()
        stream = NO_LENGTH + tail + b"\r\n" + INVITE
        out = assembler.receive(stream[:cut], seq=1000, time_ns=0)
        out += assembler.receive(stream[cut:], seq=1000 + cut, time_ns=0)
        assert [message.data for message in out] == [NO_LENGTH + tail + b"\r\n", INVITE]


@pytest.mark.parametrize("size", [7, 400, 100_000])
def test_line_ends_in_the_wrong_order_before_a_start_line_do_not_hide_it(size):
    long = with_body(b"", "Content-Length: 40")
    stream = long + RINGING[:40] + b"rest\n\r" + INVITE
    assert feed(started(), stream, size=size) == [long + RINGING[:40], INVITE]


@pytest.mark.parametrize("size", [18, 100_000])
def test_a_stray_carriage_return_in_a_status_line_is_no_reason_to_give_up_the_stream(size):
    stream = RINGING.replace(b"Ringing", b"Ring\ring")
    assert feed(started(), stream, size=size) == [stream]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_order_of_overlapping_segments_gives_the_same_messages(data):
    stream = INVITE + RINGING + INVITE
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))
    pieces = [(a, stream[a:b]) for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    pieces += [
        (a, stream[a : a + 200]) for a in data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=6))
    ]
    isn = data.draw(st.sampled_from([0, 999, 0xFFFFFF00, 0xFFFFFFFF]))
    assembler = started(isn)
    out = []
    for at, piece in data.draw(st.permutations(pieces)):
        out += assembler.receive(piece, seq=(isn + 1 + at) & 0xFFFFFFFF, time_ns=0)
    assert [message.data for message in out] == [INVITE, RINGING, INVITE]
    assert assembler.gaps == 0


def test_sequence_numbers_wrap():
    assert feed(started(0xFFFFFFFF - 300), INVITE * 3, seq=0xFFFFFFFF - 299) == [INVITE] * 3


def test_a_lost_segment_costs_its_message_only():
    stream = INVITE * 400
    assembler = started()
    lost = range(len(INVITE) * 3 + 200, len(INVITE) * 3 + 300)
    out = []
    for at in range(0, len(stream), 100):
        if not lost[0] <= at < lost[-1]:
            out += assembler.receive(stream[at : at + 100], seq=1000 + at, time_ns=at)
    out += assembler.close()
    assert assembler.gaps == 1
    whole = [message.data for message in out if message.data == INVITE]
    assert len(whole) == 399
    assert not assembler.hopeless


def test_a_hole_is_given_up_after_64_kib_and_later_messages_keep_their_own_times():
    assembler = started()
    assembler.receive(INVITE, seq=1000, time_ns=1)
    position, time_ns, out = 1000 + len(INVITE) + 500, 10, []
    while not out:
        out = assembler.receive(RINGING, seq=position, time_ns=time_ns)
        position += len(RINGING)
        time_ns += 1
        assert position < 80_000
    assert [message.data for message in out] == [RINGING] * len(out)
    assert [message.time_ns for message in out] == list(range(10, 10 + len(out)))


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"220 ProFTPD Server\r\n",
        b"\x80\x00",
        b"a" * 70,
        b"SIP/3.0 200 OK\r\n",
    ],
)
def test_a_stream_that_is_not_sip_is_hopeless_after_its_first_bytes(first):
    assembler = started()
    assert assembler.receive(first, seq=1000, time_ns=0) == []
    assert assembler.hopeless
    assert assembler.reason == "not SIP"
    assert assembler.receive(INVITE, seq=1000 + len(first), time_ns=0) == []


def test_the_first_bytes_of_a_start_line_are_no_reason_to_give_up():
    assembler = started()
    for at in range(len(INVITE)):
        out = assembler.receive(INVITE[at : at + 1], seq=1000 + at, time_ns=at)
        assert not assembler.hopeless
    assert [message.data for message in out] == [INVITE]


def test_a_capture_that_begins_within_a_message_gets_four_segments_to_find_a_start_line():
    assembler = StreamAssembler()
    assert feed(assembler, INVITE[420:] + RINGING * 2, size=len(INVITE) - 420) != []
    assert not assembler.hopeless
    assembler = StreamAssembler()
    for index in range(4):
        assert not assembler.hopeless
        assembler.receive(b"\x17\x03\x03" * 30, seq=index * 90, time_ns=0)
    assert assembler.hopeless


def test_a_new_connection_on_the_same_ports_begins_anew_but_a_copied_syn_does_not():
    assembler = started()
    assert feed(assembler, INVITE[:200]) == []
    assert assembler.receive(b"", seq=999, time_ns=0, syn=True) == []
    assert feed(assembler, INVITE[200:], seq=1200) == [INVITE]
    assert feed(assembler, INVITE[:200], seq=1000 + len(INVITE)) == []
    assert assembler.receive(b"", seq=77_000, time_ns=0, syn=True) == []
    assert feed(assembler, RINGING, seq=77_001) == [RINGING]


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        (INVITE.replace(b"Length: 89", b"Length: 99999999999"), "message too large"),
        (INVITE.replace(b"\r\n\r\n", b"\r\nX: ") + b"x" * 70_000, "headers without end"),
        (NO_LENGTH + b"a=x\r\n" * 220_000, "body without end"),
        (NO_LENGTH + b"x" * 1_100_000, "body without end"),
    ],
)
def test_a_message_beyond_the_buffer_gives_the_stream_up(flood, reason):
    assembler = started()
    assert feed(assembler, flood, size=1400) == []
    assert assembler.hopeless
    assert assembler.reason == reason


def test_memory_and_time_are_bounded_for_segments_of_one_byte():
    begin = time.perf_counter()
    assembler = started()
    feed(assembler, NO_LENGTH + b"x" * 40_000, size=1)
    for index in range(40_000):  # every one beyond another hole
        assembler.receive(b"x", seq=200_000 + 2 * index, time_ns=0)
        assert len(assembler._waiting) <= sip.MAX_WAITING_BYTES // sip.SEGMENT_COST_BYTES
    assert time.perf_counter() - begin < 10


# --- hostile bytes --------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(
        draw(st.sampled_from([INVITE, RINGING, NO_LENGTH, with_body(multipart(METADATA, SDP_PART))]))
    )
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 6))] = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from([b"\r\n", b"\n\n", b":", b"<", b'"', b";tag=", b"--", b"\xff"]),
            )
        )
    return bytes(data)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=200), damaged()))
def test_any_bytes_are_read_or_refused(data):
    sip.looks_like_sip(data)
    try:
        message = sip.parse(data)
    except SipError:
        return
    assert message.call_id
    assert message.method
    sip.sdp_body(message)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2000), st.one_of(st.binary(max_size=40), damaged()), st.booleans(), st.booleans()
        )
    )
)
def test_any_segments_are_taken(segments):
    assembler = StreamAssembler()
    for seq, payload, syn, fin in segments:
        assembler.receive(payload, seq=seq, time_ns=0, syn=syn, fin=fin)
    assembler.close()


@pytest.mark.parametrize(
    "data",
    [
        INVITE.replace(b"Bob", b" " * 60_000),
        INVITE.replace(b"Bob", b'"' + b"\\" * 60_000),
        INVITE.replace(b"Bob", b";" * 60_000),
        INVITE.replace(b"branch=", b";  " * 20_000),
        INVITE.replace(b"Max-Forwards: 70", b"\r\n" + b" " * 60_000),
        INVITE.replace(b"Max-Forwards: 70", b":\r\n" * 20_000),
        with_body(b"--x\r\n\r\n" * 8_000, "Content-Type: multipart/mixed;boundary=x"),
        with_body(b"x", "Content-Type: multipart/mixed;" + "boundary " * 6_000),
        b"INVITE sip:" + b" SIP/2.0" * 8_000 + b"x\r\n",
    ],
)
def test_reading_takes_time_in_proportion_to_the_length(data):
    begin = time.perf_counter()
    with contextlib.suppress(SipError):
        sip.sdp_body(sip.parse(data))
    assert time.perf_counter() - begin < 0.5
