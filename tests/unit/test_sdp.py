"""Session descriptions, and what an offer and its answer agree on."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel import sdp
from callreel.errors import SipError
from callreel.sdp import Codec, Endpoint


def describe(*lines: str, address: str = "192.0.2.1") -> sdp.Description:
    family = "IP6" if ":" in address else "IP4"
    head = ["v=0", f"o=- 1 1 IN {family} {address}", "s=-", f"c=IN {family} {address}", "t=0 0"]
    return sdp.parse("".join(line + "\r\n" for line in [*head, *lines]).encode())


def audio(*lines: str, address: str = "192.0.2.1") -> sdp.MediaDescription:
    (media,) = describe(*lines, address=address).media
    return media


OFFER = describe("m=audio 4000 RTP/AVP 0 8 101", "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15")
ANSWER = describe("m=audio 6000 RTP/AVP 8 96", "a=rtpmap:96 telephone-event/8000", address="192.0.2.2")


def agreed(offer: sdp.Description, answer: sdp.Description | None) -> sdp.AgreedMedia:
    (media,) = sdp.agree(offer, answer, participant_offered=True)
    return media


# --- one description ------------------------------------------------------------------------------------


def test_a_media_line_has_its_address_port_and_codecs():
    media = audio(
        "m=audio 49170/2 rtp/avp 0 97",
        "a=rtpmap:97 iLBC/8000/1",
        "a=fmtp:97 mode=30",
        "a=ptime:30",
        "a=maxptime:60.0",
    )
    assert (media.kind, media.transport, media.port) == ("audio", "RTP/AVP", 49170)
    assert media.endpoint == Endpoint("192.0.2.1", 49170, 49171)
    assert media.direction == "sendrecv"
    assert media.codecs == {0: Codec("PCMU", 8000), 97: Codec("ILBC", 8000, 1, "mode=30")}
    assert (media.ptime_ms, media.maxptime_ms) == (30, 60)


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_any_line_end_will_do(end):
    text = end.join(["v=0", "c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 8", "a=sendonly", ""])
    (media,) = sdp.parse(text.encode()).media
    assert (media.endpoint, media.direction, [*media.codecs]) == (
        Endpoint("192.0.2.1", 4000, 4001),
        "sendonly",
        [8],
    )


@pytest.mark.parametrize(
    ("number", "codec"),
    [
        (0, Codec("PCMU", 8000)),
        (3, Codec("GSM", 8000)),
        (4, Codec("G723", 8000)),
        (8, Codec("PCMA", 8000)),
        (9, Codec("G722", 8000)),
        (10, Codec("L16", 44100, 2)),
        (11, Codec("L16", 44100)),
        (13, Codec("CN", 8000)),
        (18, Codec("G729", 8000)),
        (26, Codec("JPEG", 90000)),
        (31, Codec("H261", 90000)),
        (34, Codec("H263", 90000)),
    ],
)
def test_static_payload_types_need_no_rtpmap(number, codec):
    assert audio(f"m=audio 4000 RTP/AVP {number}").codecs == {number: codec}


def test_an_rtpmap_says_more_than_the_static_table():
    media = audio("m=audio 4000 RTP/AVP 0 18", "a=rtpmap:0 pcma/8000", "a=fmtp:18 annexb=no")
    assert media.codecs == {0: Codec("PCMA", 8000), 18: Codec("G729", 8000, 1, "annexb=no")}


@pytest.mark.parametrize("formats", ["99", "128", "999", "*", "t38", ""])
def test_payload_types_that_stand_for_nothing_are_left_out(formats):
    assert audio(f"m=audio 4000 RTP/AVP {formats}").codecs == {}


def test_an_rtpmap_for_a_number_that_the_media_line_does_not_list_is_nothing():
    assert [*audio("m=audio 4000 RTP/AVP 0", "a=rtpmap:101 telephone-event/8000").codecs] == [0]


def test_session_lines_hold_for_media_that_do_not_say_otherwise():
    one, other = describe(
        "a=recvonly",
        "m=audio 4000 RTP/AVP 0",
        "m=audio 5000 RTP/AVP 0",
        "c=IN IP4 198.51.100.9",
        "a=sendonly",
    ).media
    assert (one.endpoint.ip, one.direction) == ("192.0.2.1", "recvonly")
    assert (other.endpoint.ip, other.direction) == ("198.51.100.9", "sendonly")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2001:DB8:0:0::0:1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("media.example.com", "media.example.com"),
    ],
)
def test_addresses_are_compared_in_canonical_form(written, canonical):
    assert audio("m=audio 4000 RTP/AVP 0", f"c=IN IP6 {written}").endpoint.ip == canonical


def test_a_multicast_address_has_a_ttl_behind_it():
    assert audio("m=audio 4000 RTP/AVP 0", "c=IN IP4 224.2.1.1/127/3").endpoint.ip == "224.2.1.1"


@pytest.mark.parametrize(
    ("attributes", "port"),
    [([], 4001), (["a=rtcp:5555"], 5555), (["a=rtcp:5555 IN IP4 192.0.2.7"], 5555), (["a=rtcp:x"], 4001)],
)
def test_rtcp_is_the_next_port_or_the_one_told(attributes, port):
    assert audio("m=audio 4000 RTP/AVP 0", *attributes).endpoint.rtcp_port == port


def test_the_last_port_has_no_next():
    assert audio("m=audio 65535 RTP/AVP 0").endpoint == Endpoint("192.0.2.1", 65535, None)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
@pytest.mark.parametrize(
    ("told", "meant"), [("sendrecv", "sendonly"), ("sendonly", "sendonly"), ("recvonly", "inactive")]
)
def test_an_unspecified_address_is_a_hold(address, told, meant):
    media = audio("m=audio 4000 RTP/AVP 0", f"a={told}", address=address)
    assert media.endpoint is None
    assert media.direction == meant


@pytest.mark.parametrize("line", ["m=audio 0 RTP/AVP 0", "m=audio 70000 RTP/AVP 0"])
def test_a_port_that_is_none_receives_nothing(line):
    assert audio(line).endpoint is None
    assert audio(line).port == 0


def test_t38_has_neither_codecs_nor_rtcp():
    media = audio("m=image 4000 udptl t38", "a=T38FaxVersion:0")
    assert (media.kind, media.transport, media.codecs) == ("image", "UDPTL", {})
    assert media.endpoint == Endpoint("192.0.2.1", 4000, None)


@pytest.mark.parametrize(
    "line", ["a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", "a=fingerprint:sha-256 AA:BB"]
)
def test_keys_are_seen_in_the_session_and_in_the_media(line):
    assert audio("m=audio 4000 RTP/AVP 0", line).has_keys
    assert audio(line, "m=audio 4000 RTP/AVP 0").has_keys
    assert not audio("m=audio 4000 RTP/AVP 0").has_keys


def test_an_unreadable_media_line_keeps_its_place_and_is_counted():
    description = describe("m=audio x RTP/AVP 0", "a=sendonly", "m=audio 4000 RTP/AVP 8")
    assert [media.port for media in description.media] == [0, 4000]
    assert description.dropped == 1


def test_lines_beyond_the_bound_are_counted_and_do_not_fall_to_the_last_line_kept():
    lines = ["m=audio 4000 RTP/AVP 0"] * (sdp.MAX_MEDIA + 3)
    description = describe(*lines, "a=inactive", "c=IN IP4 198.51.100.1")
    assert len(description.media) == sdp.MAX_MEDIA
    assert description.dropped == 3
    assert description.media[-1].direction == "sendrecv"
    assert description.media[-1].endpoint.ip == "192.0.2.1"


def test_lines_that_are_none_are_skipped():
    assert (
        audio(
            "",
            "garbage",
            "=",
            "m",
            "xx=y",
            "k=prompt",
            "c=IN IP4",
            "m=audio 4000 RTP/AVP 0",
            "a=",
            "a=rtpmap:",
        ).port
        == 4000
    )


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff\x00\xfe", b"<recording/>", b"k=prompt"])
def test_what_has_no_line_of_a_description_is_refused(body):
    with pytest.raises(SipError):
        sdp.parse(body)


# --- offer and answer -----------------------------------------------------------------------------------


def test_packets_to_each_side_have_the_numbers_that_side_announced():
    media = agreed(OFFER, ANSWER)
    assert media.participant == Endpoint("192.0.2.1", 4000, 4001)
    assert media.server == Endpoint("192.0.2.2", 6000, 6001)
    assert media.to_participant == {8: Codec("PCMA", 8000), 101: Codec("TELEPHONE-EVENT", 8000, 1, "0-15")}
    assert media.to_server == {8: Codec("PCMA", 8000), 96: Codec("TELEPHONE-EVENT", 8000)}


def test_the_participant_may_be_the_one_who_answered():
    (media,) = sdp.agree(ANSWER, OFFER, participant_offered=False)
    assert media.participant.port == 6000
    assert media.server.port == 4000
    assert [*media.to_participant] == [8, 96]
    assert [*media.to_server] == [8, 101]


def test_one_codec_under_several_numbers_keeps_those_of_the_answer():
    offer = describe(
        "m=audio 4000 RTP/AVP 100 101 102",
        "a=rtpmap:100 AMR/8000",
        "a=fmtp:100 octet-align=1",
        "a=rtpmap:101 AMR/8000",
        "a=rtpmap:102 telephone-event/8000",
    )
    answer = describe(
        "m=audio 6000 RTP/AVP 101 102", "a=rtpmap:101 AMR/8000", "a=rtpmap:102 telephone-event/8000"
    )
    assert [*agreed(offer, answer).to_participant] == [101, 102]


def test_the_same_name_at_another_clock_is_another_codec():
    offer = describe(
        "m=audio 4000 RTP/AVP 0 101 102",
        "a=rtpmap:101 telephone-event/16000",
        "a=rtpmap:102 telephone-event/8000",
    )
    answer = describe("m=audio 4000 RTP/AVP 0 101", "a=rtpmap:101 telephone-event/8000")
    media = agreed(offer, answer)
    assert [*media.to_participant] == [0, 102]
    assert [*media.to_server] == [0, 101]


def test_sides_that_name_no_codec_alike_keep_their_own_lists():
    media = agreed(describe("m=audio 4000 RTP/AVP 0"), describe("m=audio 6000 RTP/AVP 8"))
    assert ([*media.to_participant], [*media.to_server]) == ([0], [8])


@pytest.mark.parametrize(
    ("offered", "answered", "direction"),
    [
        ("sendrecv", "sendrecv", "sendrecv"),
        ("sendonly", "recvonly", "sendonly"),
        ("recvonly", "sendonly", "recvonly"),
        ("sendrecv", "recvonly", "sendonly"),
        ("sendrecv", "sendonly", "recvonly"),
        ("sendonly", "sendrecv", "sendonly"),
        ("sendonly", "sendonly", "inactive"),
        ("inactive", "sendrecv", "inactive"),
    ],
)
def test_the_direction_is_what_both_sides_allow_seen_by_the_participant(offered, answered, direction):
    offer = describe("m=audio 4000 RTP/AVP 0", f"a={offered}")
    answer = describe("m=audio 6000 RTP/AVP 0", f"a={answered}")
    assert agreed(offer, answer).direction == direction
    (mirrored,) = sdp.agree(answer, offer, participant_offered=False)
    swap = {"sendonly": "recvonly", "recvonly": "sendonly"}
    assert mirrored.direction == swap.get(direction, direction)


def test_a_hold_with_address_zero_leaves_the_way_from_the_holder_open():
    media = agreed(describe("m=audio 4000 RTP/AVP 0", address="0.0.0.0"), ANSWER)
    assert media.participant is None
    assert media.server is not None
    assert media.direction == "sendonly"
    assert media.active


@pytest.mark.parametrize(
    ("offer", "answer"),
    [("m=audio 4000 RTP/AVP 0", "m=audio 0 RTP/AVP 0"), ("m=audio 0 RTP/AVP 0", "m=audio 6000 RTP/AVP 0")],
)
def test_port_zero_on_either_side_declines(offer, answer):
    media = agreed(describe(offer), describe(answer))
    assert media.declined
    assert not media.active
    assert (media.participant, media.server, media.direction) == (None, None, "inactive")


def test_a_media_line_without_an_answer_is_declined_and_one_without_an_offer_is_nothing():
    offer = describe("m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 31")
    answer = describe("m=audio 6000 RTP/AVP 0")
    first, second = sdp.agree(offer, answer, participant_offered=True)
    assert (first.declined, second.declined, second.kind) == (False, True, "video")
    assert len(sdp.agree(answer, offer, participant_offered=True)) == 1


def test_an_answer_that_cannot_be_read_leaves_the_transport_that_was_offered():
    offer, answer = describe("m=audio 4000 RTP/AVP 0"), describe("m=audio")
    for participant, server, offered in ((offer, answer, True), (answer, offer, False)):
        (media,) = sdp.agree(participant, server, participant_offered=offered)
        assert (media.transport, media.declined) == ("RTP/AVP", True)


@pytest.mark.parametrize(
    ("offer", "answer", "encrypted"),
    [
        (["m=audio 4000 RTP/SAVP 0"], ["m=audio 6000 RTP/SAVP 0"], True),
        (["m=audio 4000 UDP/TLS/RTP/SAVPF 0"], ["m=audio 6000 UDP/TLS/RTP/SAVPF 0"], True),
        (["m=audio 4000 RTP/AVP 0", "a=crypto:1 x"], ["m=audio 6000 RTP/AVP 0", "a=crypto:1 y"], True),
        (["m=audio 4000 RTP/AVP 0", "a=crypto:1 x"], ["m=audio 6000 RTP/AVP 0"], False),
        (["m=audio 4000 RTP/AVP 0"], ["m=audio 6000 RTP/AVP 0"], False),
    ],
)
def test_media_is_encrypted_when_both_sides_have_keys(offer, answer, encrypted):
    assert agreed(describe(*offer), describe(*answer)).encrypted is encrypted


def test_rtcp_shares_the_port_only_when_both_say_so():
    mux = describe("m=audio 4000 RTP/AVP 0", "a=rtcp-mux")
    plain = describe("m=audio 6000 RTP/AVP 0")
    assert agreed(mux, mux).participant.rtcp_port == 4000
    assert agreed(mux, mux).rtcp_mux
    assert agreed(mux, plain).participant.rtcp_port == 4001
    assert not agreed(mux, plain).rtcp_mux


def test_packet_time_is_what_the_answer_asks_for_else_the_offer():
    twenty, thirty = (describe("m=audio 4000 RTP/AVP 0", f"a=ptime:{ms}") for ms in (20, 30))
    assert agreed(twenty, thirty).ptime_ms == 30
    assert agreed(twenty, ANSWER).ptime_ms == 20
    assert agreed(OFFER, ANSWER).ptime_ms is None


def test_labels_are_kept():
    media = agreed(describe("m=audio 4000 RTP/AVP 0", "a=label:16777227"), ANSWER)
    assert media.label == "16777227"


def test_without_an_answer_the_numbers_of_the_offer_stand_for_both_ways():
    media = agreed(OFFER, None)
    assert media.participant.port == 4000
    assert media.server is None
    assert [*media.to_participant] == [*media.to_server] == [0, 8, 101]
    assert not media.declined
    assert sdp.agree(None, None, participant_offered=True) == ()


# --- hostile bytes --------------------------------------------------------------------------------------

GOOD = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000/2 RTP/AVP 0 96"
    b" 101\r\n"
    b"a=rtpmap:96 opus/48000/2\r\na=fmtp:96 x=1\r\na=rtpmap:101 telephone-event/8000\r\na=rtcp:4009\r\n"
    b"a=ptime:20\r\n"
    b"m=image 4002 udptl t38\r\nc=IN IP6 2001:db8::1\r\na=inactive\r\n"
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 9), st.binary(max_size=9)), max_size=9),
    st.booleans(),
)
def test_any_bytes_are_read_or_refused(changes, participant_offered):
    data = bytearray(GOOD)
    for at, size, new in changes:
        data[at : at + size] = new
    try:
        description = sdp.parse(bytes(data))
    except SipError:
        return
    for other in (description, sdp.parse(GOOD), None):
        for media in sdp.agree(description, other, participant_offered=participant_offered):
            assert all(0 < end.port < 65536 for end in (media.participant, media.server) if end)
            assert all(0 <= number < 128 for number in (*media.to_participant, *media.to_server))


@pytest.mark.parametrize(
    "body",
    [
        b"v=0\r\n" + b"m=audio 1 RTP/AVP 0\r\n" * 3000,
        b"v=0\r\nm=audio 1 RTP/AVP" + b" 0" * 30000,
        b"v=0\r\nm=audio 1 RTP/AVP 96\r\n" + b"a=rtpmap:96 x/8000\r\n" * 3000,
        b"v=0\r\nm=" + b" " * 60000,
        b"v=0\r\nm=audio 1 RTP/AVP 96\r\na=rtpmap:96 " + b"/" * 60000,
        b"v=0\r\nm=audio 1 RTP/AVP 96\r\na=fmtp:96 " + b" " * 60000 + b"x",
    ],
)
def test_reading_takes_time_and_memory_in_proportion_to_the_length(body):
    begin = time.perf_counter()
    description = sdp.parse(body)
    assert time.perf_counter() - begin < 0.5
    assert len(description.media) <= sdp.MAX_MEDIA
    assert all(len(media.codecs) <= sdp.MAX_FORMATS for media in description.media)
    assert all(
        len(codec.fmtp) <= sdp.MAX_FMTP_CHARS
        for media in description.media
        for codec in media.codecs.values()
    )
