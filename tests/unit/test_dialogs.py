"""From SIP messages to calls, legs and media sessions."""

import itertools
import pickle
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel import dialogs, sip
from callreel.dialogs import Dialogs, SipCall

MS = 1_000_000
ALICE, BOB, CAROL = ("192.0.2.1", 5060), ("203.0.113.1", 5060), ("203.0.113.2", 5060)
PROXY, OUTER = ("198.51.100.1", 5060), ("198.51.100.1", 5080)


def sdp(ip: str, port: int, formats: str = "0 101", *attributes: str, version: int = 1) -> str:
    lines = [
        "v=0",
        f"o=- 7 {version} IN IP4 {ip}",
        "s=-",
        f"c=IN IP4 {ip}",
        "t=0 0",
        f"m=audio {port} RTP/AVP {formats}",
    ]
    if "101" in formats.split():
        lines += ["a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15"]
    return "".join(line + "\r\n" for line in (*lines, *attributes))


A_SDP, B_SDP, C_SDP = sdp("192.0.2.1", 4000), sdp("203.0.113.1", 6000), sdp("203.0.113.2", 7000)
RELAY_TO_A, RELAY_TO_B, RELAY_TO_C = (sdp("198.51.100.9", port) for port in (30000, 30002, 30004))


def branch_of(method: str, cseq: int, source: tuple, destination: tuple) -> str:
    return "z9hG4bK-" + "-".join(map(str, (method, cseq, *source, *destination)))


class Wire:
    """A capture in the making: every message is 1 ms after the one before."""

    def __init__(self, call_id: str = "call-1") -> None:
        self.dialogs = Dialogs()
        self.call_id = call_id
        self.now_ms = 0
        self.last: tuple = ()

    def message(
        self, start: str, cseq: str, *, to_tag: str, by_callee: bool, branch: str, body: str, extra: tuple
    ) -> bytes:
        ends = ["<sip:alice@example.org>;tag=a", f"<sip:bob@example.net>{';tag=' if to_tag else ''}{to_tag}"]
        if by_callee:
            ends.reverse()
        lines = [
            start,
            f"Via: SIP/2.0/UDP host;branch={branch}" if branch else "Via: SIP/2.0/UDP host",
            f"From: {ends[0]}",
            f"To: {ends[1]}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq}",
            *extra,
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def send(self, message: bytes, source, destination, *, copies: int = 1) -> None:
        self.now_ms += 1
        for _ in range(copies):
            self.dialogs.receive(message, time_ns=self.now_ms * MS, source=source, destination=destination)

    def request(
        self,
        method,
        source,
        destination,
        body="",
        *,
        cseq=1,
        to_tag="",
        by_callee=False,
        branch=None,
        extra=(),
        copies=1,
    ):
        branch = branch_of(method, cseq, source, destination) if branch is None else branch
        data = self.message(
            f"{method} sip:bob@example.net SIP/2.0",
            f"{cseq} {method}",
            to_tag=to_tag,
            by_callee=by_callee,
            branch=branch,
            body=body,
            extra=extra,
        )
        self.send(data, source, destination, copies=copies)

    def response(
        self,
        status,
        source,
        destination,
        body="",
        *,
        cseq=1,
        method="INVITE",
        to_tag="b",
        by_callee=False,
        branch=None,
        copies=1,
    ):
        """`source` answers; `by_callee`: the request was the callee's."""
        branch = branch_of(method, cseq, destination, source) if branch is None else branch
        data = self.message(
            f"SIP/2.0 {status} Whatever",
            f"{cseq} {method}",
            to_tag=to_tag,
            by_callee=by_callee,
            branch=branch,
            body=body,
            extra=(),
        )
        self.send(data, source, destination, copies=copies)

    def answered(self, a=ALICE, b=BOB, offer=A_SDP, answer=B_SDP) -> None:
        self.request("INVITE", a, b, offer)
        self.response(180, b, a)
        self.response(200, b, a, answer)
        self.request("ACK", a, b, to_tag="b")

    def calls(self) -> list[SipCall]:
        calls = self.dialogs.calls()
        assert calls == self.dialogs.calls()  # asking changes nothing
        return calls

    def call(self) -> SipCall:
        (call,) = self.calls()
        return call

    def leg(self) -> dialogs.SipLeg:
        (leg,) = self.call().legs
        return leg

    def ports(self, leg: int = 0) -> list[tuple]:
        """Of each session of a leg: where participant and server receive audio."""
        return [
            (line.participant and line.participant.port, line.server and line.server.port)
            for session in self.call().legs[leg].sessions
            for line in [session.audio]
        ]


@pytest.fixture
def wire() -> Wire:
    return Wire()


# --- life of a call -------------------------------------------------------------------------------------


def test_a_call_from_invite_to_bye(wire):
    wire.answered()
    wire.request("BYE", ALICE, BOB, cseq=2, to_tag="b")
    wire.response(200, BOB, ALICE, cseq=2, method="BYE")
    call = wire.call()
    assert (call.call_id, call.caller, call.callee) == (
        "call-1",
        "sip:alice@example.org",
        "sip:bob@example.net",
    )
    assert (call.state, call.end_cause) == ("answered", "bye")
    times = (call.started_at_ns, call.ringing_at_ns, call.answered_at_ns, call.ended_at_ns)
    assert times == (1 * MS, 2 * MS, 3 * MS, 5 * MS)
    leg = wire.leg()
    assert (leg.name, leg.participant, leg.hops) == ("LEG-A", "caller", ((ALICE, BOB),))
    (session,) = leg.sessions
    assert (session.valid_from_ns, session.answered, session.early, session.dialog) == (
        3 * MS,
        True,
        False,
        "b",
    )
    audio = session.audio
    assert audio.participant == ("192.0.2.1", 4000, 4001)
    assert audio.server == ("203.0.113.1", 6000, 6001)
    assert {number: codec.name for number, codec in audio.to_server.items()} == {
        0: "PCMU",
        101: "TELEPHONE-EVENT",
    }


def test_the_callee_may_end_the_call(wire):
    wire.answered()
    wire.request("BYE", BOB, ALICE, cseq=9, to_tag="b", by_callee=True)
    assert (wire.call().end_cause, wire.call().ended_at_ns) == ("bye", 5 * MS)
    assert wire.leg().hops == ((ALICE, BOB),)


def test_a_call_that_the_capture_leaves_has_no_end(wire):
    wire.answered()
    assert (wire.call().ended_at_ns, wire.call().end_cause) == (None, None)


def test_a_cancelled_call(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.request("CANCEL", ALICE, BOB, copies=3)
    assert (wire.call().ended_at_ns, wire.call().end_cause) == (2 * MS, "cancel")
    wire.response(200, BOB, ALICE, method="CANCEL")
    wire.response(487, BOB, ALICE)
    wire.response(487, BOB, ALICE)
    call = wire.call()
    assert (call.state, call.ended_at_ns, call.end_cause, call.answered_at_ns) == (
        "unanswered",
        4 * MS,
        "cancel",
        None,
    )


def test_a_cancel_that_came_too_late_ends_nothing(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.request("CANCEL", ALICE, BOB)
    wire.response(200, BOB, ALICE, B_SDP)
    assert (wire.call().state, wire.call().end_cause) == ("answered", None)


def test_a_487_says_cancel_although_the_cancel_was_not_captured(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.response(487, BOB, ALICE)
    assert wire.call().end_cause == "cancel"


@pytest.mark.parametrize("status", [302, 404, 486, 503, 603])
def test_a_rejected_call(wire, status):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.response(status, BOB, ALICE, copies=2)
    wire.request("ACK", ALICE, BOB, to_tag="b")
    call = wire.call()
    assert (call.state, call.ended_at_ns, call.end_cause) == ("unanswered", 2 * MS, f"rejected {status}")
    (session,) = wire.leg().sessions
    assert (session.answered, session.early) == (False, True)
    assert (session.audio.participant.port, session.audio.server) == (4000, None)


def test_an_invite_after_a_challenge_is_the_same_call(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.response(407, BOB, ALICE)
    assert wire.call().end_cause == "rejected 407"
    wire.request("ACK", ALICE, BOB, to_tag="b")
    wire.request("INVITE", ALICE, BOB, A_SDP, cseq=2)
    wire.response(407, BOB, ALICE)  # a late copy
    assert wire.call().end_cause is None
    wire.response(200, BOB, ALICE, B_SDP, cseq=2)
    assert (wire.call().state, wire.call().started_at_ns, wire.ports()) == (
        "answered",
        1 * MS,
        [(4000, 6000)],
    )


def test_without_its_invite_a_call_is_unknown(wire):
    wire.request("BYE", ALICE, BOB, cseq=7, to_tag="b")
    call = wire.call()
    assert (call.state, call.started_at_ns, call.end_cause) == ("unknown", 1 * MS, "bye")
    assert wire.leg().sessions == ()


def test_a_capture_that_begins_in_mid_call_learns_the_media_from_a_re_invite(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP, cseq=5, to_tag="b")
    wire.response(200, BOB, ALICE, B_SDP, cseq=5)
    assert (wire.call().state, wire.call().answered_at_ns, wire.ports()) == ("unknown", None, [(4000, 6000)])
    assert not wire.leg().sessions[0].early


def test_an_answer_alone_tells_where_the_callee_receives(wire):
    wire.response(200, BOB, ALICE, B_SDP)
    assert (wire.call().state, wire.ports()) == ("unknown", [(None, 6000)])
    assert not wire.leg().sessions[0].answered


def test_the_call_id_may_be_used_again_after_the_call(wire):
    wire.answered()
    wire.request("BYE", ALICE, BOB, cseq=2, to_tag="b")
    wire.request("INVITE", ALICE, BOB, A_SDP)  # a late copy
    assert len(wire.calls()) == 1
    again = wire.message(
        "INVITE sip:b@c SIP/2.0",
        "1 INVITE",
        to_tag="",
        by_callee=False,
        branch="z9hG4bK-n",
        body=A_SDP,
        extra=(),
    )
    wire.send(again.replace(b";tag=a", b";tag=new"), ALICE, BOB)
    assert [call.end_cause for call in wire.calls()] == ["bye", None]


def test_two_calls_at_once_are_kept_apart(wire):
    other = Wire("call-2")
    other.dialogs = wire.dialogs
    wire.request("INVITE", ALICE, BOB, A_SDP)
    other.request("INVITE", ALICE, BOB, C_SDP)
    wire.response(200, BOB, ALICE, B_SDP)
    other.response(486, BOB, ALICE)
    assert [(call.call_id, call.state) for call in wire.calls()] == [
        ("call-1", "answered"),
        ("call-2", "unanswered"),
    ]


@pytest.mark.parametrize("method", ["REGISTER", "OPTIONS", "SUBSCRIBE", "NOTIFY", "MESSAGE", "INFO", "REFER"])
def test_other_requests_make_no_call(wire, method):
    wire.request(method, ALICE, BOB)
    wire.response(200, BOB, ALICE, method=method)
    assert wire.calls() == []
    assert (wire.dialogs.other, wire.dialogs.messages) == (2, 2)


# --- offers and answers ---------------------------------------------------------------------------------


def test_retransmissions_and_mirrored_copies_change_nothing(wire):
    plain = Wire()
    for talk, copies in ((plain, 1), (wire, 3)):
        talk.request("INVITE", ALICE, BOB, A_SDP, copies=copies)
        talk.response(183, BOB, ALICE, B_SDP, copies=copies)
        talk.response(200, BOB, ALICE, B_SDP, copies=copies)
        talk.request("ACK", ALICE, BOB, to_tag="b", copies=copies)
        talk.request("INVITE", ALICE, BOB, sdp("192.0.2.1", 4002), cseq=2, to_tag="b", copies=copies)
        talk.response(200, BOB, ALICE, B_SDP, cseq=2, copies=copies)
        talk.request("BYE", ALICE, BOB, cseq=3, to_tag="b", copies=copies)
    assert wire.calls() == plain.calls()
    assert wire.ports() == [(4000, 6000), (4002, 6000)]


def test_a_late_copy_of_an_old_answer_does_not_bring_the_old_session_back(wire):
    wire.answered()
    wire.request("INVITE", ALICE, BOB, sdp("192.0.2.1", 4002), cseq=2, to_tag="b")
    wire.response(200, BOB, ALICE, sdp("203.0.113.1", 6002), cseq=2)
    wire.response(200, BOB, ALICE, B_SDP)
    assert wire.ports() == [(4000, 6000), (4002, 6002)]


def test_a_copy_seen_behind_a_nat_is_on_the_same_hop(wire):
    public = ("192.0.2.77", 1024)
    for source in (ALICE, public):
        wire.request("INVITE", source, BOB, A_SDP, branch="z9hG4bK-one")
    for destination in (public, ALICE):
        wire.response(200, BOB, destination, B_SDP, branch="z9hG4bK-one")
    assert wire.leg().hops == ((ALICE, BOB),)
    assert wire.ports() == [(4000, 6000)]


def test_early_media_is_a_session_of_its_own(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.response(183, BOB, ALICE, sdp("203.0.113.1", 6100, "8"))
    wire.response(200, BOB, ALICE, B_SDP)
    assert wire.ports() == [(4000, 6100), (4000, 6000)]
    assert [(session.valid_from_ns, session.early) for session in wire.leg().sessions] == [
        (2 * MS, True),
        (3 * MS, False),
    ]
    assert wire.call().ringing_at_ns == 2 * MS


def test_an_answer_repeated_in_the_200_is_valid_from_the_183_on(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.response(183, BOB, ALICE, B_SDP)
    wire.response(200, BOB, ALICE, B_SDP)
    (session,) = wire.leg().sessions
    assert (session.valid_from_ns, session.early) == (2 * MS, True)


def test_the_offer_may_be_in_the_200_and_the_answer_in_the_ack(wire):
    wire.request("INVITE", ALICE, BOB)
    wire.response(200, BOB, ALICE, B_SDP, copies=2)
    wire.request("ACK", ALICE, BOB, A_SDP, to_tag="b", copies=2)
    assert wire.ports() == [(4000, 6000)]
    assert wire.leg().sessions[0].valid_from_ns == 3 * MS


def test_an_offer_in_the_200_without_its_ack_is_half_a_session(wire):
    wire.request("INVITE", ALICE, BOB)
    wire.response(200, BOB, ALICE, B_SDP)
    assert wire.ports() == [(None, 6000)]
    assert not wire.leg().sessions[0].answered


def test_the_offer_may_be_in_a_reliable_183_and_the_answer_in_its_prack(wire):
    wire.request("INVITE", ALICE, BOB)
    wire.response(183, BOB, ALICE, B_SDP)
    wire.request("PRACK", ALICE, BOB, A_SDP, cseq=2, to_tag="b", extra=("RAck: 1 1 INVITE",), copies=2)
    wire.response(200, BOB, ALICE, cseq=2, method="PRACK")
    wire.response(200, BOB, ALICE)
    wire.request("ACK", ALICE, BOB, to_tag="b")
    assert wire.ports() == [(4000, 6000)]


def test_a_prack_may_carry_a_new_offer(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.response(183, BOB, ALICE, B_SDP)
    wire.request("PRACK", ALICE, BOB, sdp("192.0.2.1", 4002), cseq=2, to_tag="b", extra=("RAck: 1 1 INVITE",))
    wire.response(200, BOB, ALICE, sdp("203.0.113.1", 6002), cseq=2, method="PRACK")
    assert wire.ports() == [(4000, 6000), (4002, 6002)]


def test_update_changes_the_session_from_either_side(wire):
    wire.answered()
    wire.request("UPDATE", ALICE, BOB, sdp("192.0.2.1", 4002), cseq=2, to_tag="b")
    wire.response(200, BOB, ALICE, B_SDP, cseq=2, method="UPDATE")
    wire.request("UPDATE", BOB, ALICE, sdp("203.0.113.1", 6002), cseq=2, to_tag="b", by_callee=True)
    wire.response(200, ALICE, BOB, sdp("192.0.2.1", 4002), cseq=2, method="UPDATE", by_callee=True)
    assert wire.ports() == [(4000, 6000), (4002, 6000), (4002, 6002)]


def test_a_re_invite_may_change_the_codec(wire):
    wire.answered(offer=sdp("192.0.2.1", 4000, "0 8 9"), answer=sdp("203.0.113.1", 6000, "0"))
    wire.request("INVITE", ALICE, BOB, sdp("192.0.2.1", 4000, "9 0"), cseq=2, to_tag="b")
    wire.response(200, BOB, ALICE, sdp("203.0.113.1", 6000, "9"), cseq=2)
    assert [
        [codec.name for codec in session.audio.to_server.values()] for session in wire.leg().sessions
    ] == [["PCMU"], ["G722"]]


def test_a_rejected_re_invite_changes_nothing(wire):
    wire.answered()
    wire.request("INVITE", ALICE, BOB, sdp("192.0.2.1", 4002), cseq=2, to_tag="b")
    wire.response(488, BOB, ALICE, C_SDP, cseq=2)
    assert wire.ports() == [(4000, 6000)]
    assert (wire.call().state, wire.call().end_cause) == ("answered", None)


@pytest.mark.parametrize(
    ("hold", "answer", "participant"),
    [
        (sdp("203.0.113.1", 6000, "0", "a=sendonly"), sdp("192.0.2.1", 4000, "0", "a=recvonly"), 4000),
        (sdp("0.0.0.0", 6000, "0"), sdp("192.0.2.1", 4000, "0"), 4000),
    ],
    ids=["sendonly", "address 0.0.0.0"],
)
def test_the_callee_holds_and_takes_back(wire, hold, answer, participant):
    wire.answered()
    wire.request("INVITE", BOB, ALICE, hold, cseq=11, to_tag="b", by_callee=True)
    wire.response(200, ALICE, BOB, answer, cseq=11, by_callee=True)
    wire.request("INVITE", BOB, ALICE, B_SDP, cseq=12, to_tag="b", by_callee=True)
    wire.response(200, ALICE, BOB, A_SDP, cseq=12, by_callee=True)
    assert [session.audio.direction for session in wire.leg().sessions] == [
        "sendrecv",
        "recvonly",
        "sendrecv",
    ]
    assert wire.ports()[1][0] == participant
    assert wire.ports()[2] == (4000, 6000)


def test_session_timers_that_change_nothing_make_no_sessions_and_take_no_room(wire):
    wire.answered()
    for cseq in range(2, 1000):
        wire.request("INVITE", ALICE, BOB, A_SDP, cseq=cseq, to_tag="b")
        wire.response(200, BOB, ALICE, B_SDP, cseq=cseq)
    wire.request("INVITE", ALICE, BOB, sdp("192.0.2.1", 4002), cseq=1000, to_tag="b")
    wire.response(200, BOB, ALICE, B_SDP, cseq=1000)
    assert wire.ports() == [(4000, 6000), (4002, 6000)]
    assert not wire.dialogs.dropped


def test_declined_and_further_media_lines_are_kept_in_order(wire):
    video = "m=video 4002 RTP/AVP 31\r\n"
    second = "m=audio 4004 RTP/AVP 8\r\n"
    offer = sdp("192.0.2.1", 0, "0") + video + second + "m=image 4006 udptl t38\r\n"
    answer = sdp("203.0.113.1", 0, "0") + video.replace("4002", "0") + second.replace("4004", "6004")
    wire.answered(offer=offer, answer=answer)
    (session,) = wire.leg().sessions
    assert [(line.kind, line.declined) for line in session.media] == [
        ("audio", True),
        ("video", True),
        ("audio", False),
        ("image", True),
    ]
    assert session.audio is session.media[2]


def test_the_main_audio_line_is_the_first_even_if_none_is_active(wire):
    wire.answered(offer=sdp("192.0.2.1", 4000, "0", "a=inactive"))
    (session,) = wire.leg().sessions
    assert session.audio is session.media[0]
    wire = Wire()
    wire.answered(offer="v=0\r\nc=IN IP4 192.0.2.1\r\nm=image 4000 udptl t38\r\n")
    assert wire.leg().sessions[0].audio is None


def test_siprec_lines_keep_their_labels(wire):
    parts = [f"Content-Type: application/sdp\r\n\r\n{sdp('192.0.2.1', 4000, '0', 'a=sendonly', 'a=label:1')}"]
    parts[0] += "m=audio 4002 RTP/AVP 0\r\na=sendonly\r\na=label:2\r\n"
    parts.append("Content-Type: application/rs-metadata+xml\r\n\r\n<recording/>")
    body = "".join(f"--x\r\n{part}\r\n" for part in parts) + "--x--\r\n"
    data = wire.message(
        "INVITE sip:srs@e SIP/2.0", "1 INVITE", to_tag="", by_callee=False, branch="z1", body=body, extra=()
    )
    wire.send(data.replace(b"application/sdp", b"multipart/mixed;boundary=x", 1), ALICE, BOB)
    answer = sdp("203.0.113.1", 6000, "0", "a=recvonly") + "m=audio 6002 RTP/AVP 0\r\na=recvonly\r\n"
    wire.response(200, BOB, ALICE, answer)
    (session,) = wire.leg().sessions
    assert [(line.label, line.direction, line.server.port) for line in session.media] == [
        ("1", "sendonly", 6000),
        ("2", "sendonly", 6002),
    ]


# --- hops and legs --------------------------------------------------------------------------------------


def through_proxy(wire: Wire, *, to_b: str = A_SDP, to_a: str = B_SDP) -> None:
    """Alice calls Bob through a proxy; `to_b` and `to_a` are the descriptions as the proxy passes them on."""
    wire.request("INVITE", ALICE, PROXY, A_SDP)
    wire.request("INVITE", PROXY, BOB, to_b)
    wire.response(180, BOB, PROXY)
    wire.response(180, PROXY, ALICE)
    wire.response(200, BOB, PROXY, B_SDP)
    wire.response(200, PROXY, ALICE, to_a)


def test_hops_of_a_proxy_are_one_leg(wire):
    through_proxy(wire)
    wire.request("ACK", ALICE, BOB, to_tag="b")  # straight to the contact
    wire.request("BYE", BOB, ALICE, cseq=1, to_tag="b", by_callee=True)
    assert wire.leg().hops == ((ALICE, PROXY), (PROXY, BOB))
    assert wire.ports() == [(4000, 6000)]
    assert (wire.call().answered_at_ns, wire.call().end_cause) == (5 * MS, "bye")


def test_hops_of_a_media_relay_are_two_legs(wire):
    through_proxy(wire, to_b=RELAY_TO_B, to_a=RELAY_TO_A)
    caller, callee = wire.call().legs
    assert (caller.name, caller.participant, caller.hops) == ("LEG-A", "caller", ((ALICE, PROXY),))
    assert (callee.name, callee.participant, callee.hops) == ("LEG-B", "callee", ((PROXY, BOB),))
    assert wire.ports(0) == [(4000, 30000)]
    assert wire.ports(1) == [(6000, 30002)]


def test_a_relay_between_two_proxies_still_makes_two_legs(wire):
    inner, third = ("198.51.100.2", 5060), ("198.51.100.3", 5060)
    path = [ALICE, PROXY, inner, third, BOB]
    offers = [A_SDP, A_SDP, RELAY_TO_B, RELAY_TO_B]
    answers = [RELAY_TO_A, RELAY_TO_A, B_SDP, B_SDP]
    for (source, destination), offer in zip(itertools.pairwise(path), offers, strict=True):
        wire.request("INVITE", source, destination, offer)
    for (source, destination), answer in reversed([*zip(itertools.pairwise(path), answers, strict=True)]):
        wire.response(200, destination, source, answer)
    assert [len(leg.hops) for leg in wire.call().legs] == [2, 2]
    assert (wire.ports(0), wire.ports(1)) == ([(4000, 30000)], [(6000, 30002)])


def test_a_relay_that_leaves_the_media_path_later_leaves_the_legs_apart(wire):
    through_proxy(wire, to_b=RELAY_TO_B, to_a=RELAY_TO_A)
    wire.request("INVITE", ALICE, PROXY, A_SDP, cseq=2, to_tag="b")
    wire.request("INVITE", PROXY, BOB, A_SDP, cseq=2, to_tag="b")
    wire.response(200, BOB, PROXY, B_SDP, cseq=2)
    wire.response(200, PROXY, ALICE, B_SDP, cseq=2)
    assert wire.ports(0) == [(4000, 30000), (4000, 6000)]
    assert wire.ports(1) == [(6000, 30002), (6000, 4000)]


def test_a_proxy_that_sends_the_call_back_to_the_same_address_makes_two_hops(wire):
    wire.request("INVITE", ALICE, PROXY, A_SDP)
    wire.request("INVITE", PROXY, ALICE, RELAY_TO_B)
    wire.response(200, ALICE, PROXY, B_SDP)
    wire.response(200, PROXY, ALICE, RELAY_TO_A)
    assert [leg.hops for leg in wire.call().legs] == [((ALICE, PROXY),), ((PROXY, ALICE),)]
    assert (wire.ports(0), wire.ports(1)) == ([(4000, 30000)], [(6000, 30002)])


def test_everything_on_one_host_is_told_apart_by_ports(wire):
    a, proxy, b = (("127.0.0.1", port) for port in (5070, 5060, 5080))
    wire.request("INVITE", a, proxy, A_SDP)
    wire.request("INVITE", proxy, b, RELAY_TO_B)
    wire.response(200, b, proxy, B_SDP)
    wire.response(200, proxy, a, RELAY_TO_A)
    assert [leg.hops for leg in wire.call().legs] == [((a, proxy),), ((proxy, b),)]


def test_a_side_that_signals_from_another_port_stays_on_its_hop(wire):
    sending = ("203.0.113.1", 49152)
    wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.response(200, sending, ALICE, B_SDP, branch=branch_of("INVITE", 1, ALICE, BOB))
    wire.request(
        "INVITE", ("203.0.113.1", 50000), ALICE, sdp("203.0.113.1", 6002), cseq=5, to_tag="b", by_callee=True
    )
    wire.response(200, ALICE, ("203.0.113.1", 50000), A_SDP, cseq=5, by_callee=True)
    assert wire.leg().hops == ((ALICE, BOB),)
    assert wire.ports() == [(4000, 6000), (4000, 6002)]


def test_a_re_invite_that_goes_past_the_proxy_belongs_to_the_leg(wire):
    through_proxy(wire)
    wire.request("INVITE", ALICE, BOB, sdp("192.0.2.1", 4002), cseq=2, to_tag="b")
    wire.response(200, BOB, ALICE, B_SDP, cseq=2)
    assert len(wire.leg().hops) == 3
    assert wire.ports() == [(4000, 6000), (4002, 6000)]


def test_forks_without_a_relay_are_sessions_of_the_callers_leg(wire):
    wire.request("INVITE", ALICE, PROXY, A_SDP)
    wire.request("INVITE", PROXY, BOB, A_SDP)
    wire.request("INVITE", PROXY, CAROL, A_SDP)
    wire.response(183, BOB, PROXY, B_SDP, to_tag="b")
    wire.response(183, PROXY, ALICE, B_SDP, to_tag="b")
    wire.response(200, CAROL, PROXY, C_SDP, to_tag="c")
    wire.response(200, PROXY, ALICE, C_SDP, to_tag="c")
    wire.request("CANCEL", PROXY, BOB)
    wire.response(487, BOB, PROXY, to_tag="b")
    assert (wire.call().state, wire.call().end_cause) == ("answered", None)
    assert len(wire.leg().hops) == 3
    assert wire.ports() == [(4000, 6000), (4000, 7000)]
    assert [session.dialog for session in wire.leg().sessions] == ["b", "c"]


def test_forks_through_a_relay_are_legs_if_they_got_media(wire):
    silent = ("203.0.113.3", 5060)
    wire.request("INVITE", ALICE, PROXY, A_SDP)
    wire.request("INVITE", PROXY, silent, sdp("198.51.100.9", 30006))
    wire.request("INVITE", PROXY, BOB, RELAY_TO_B)
    wire.request("INVITE", PROXY, CAROL, RELAY_TO_C)
    wire.response(180, silent, PROXY, to_tag="s")
    wire.response(183, BOB, PROXY, B_SDP, to_tag="b")
    wire.response(183, PROXY, ALICE, RELAY_TO_A, to_tag="b")
    wire.response(200, CAROL, PROXY, C_SDP, to_tag="c")
    wire.response(200, PROXY, ALICE, RELAY_TO_A, to_tag="c")
    assert [leg.name for leg in wire.call().legs] == ["LEG-A", "LEG-B", "LEG-C"]
    assert (wire.ports(0), wire.ports(1), wire.ports(2)) == (
        [(4000, 30000)],
        [(6000, 30002)],
        [(7000, 30004)],
    )


def test_a_200_without_a_description_confirms_its_own_fork(wire):
    wire.request("INVITE", ALICE, PROXY, A_SDP)
    wire.response(183, PROXY, ALICE, C_SDP, to_tag="c")
    wire.response(183, PROXY, ALICE, B_SDP, to_tag="b")
    wire.response(200, PROXY, ALICE, to_tag="c")
    assert wire.ports() == [(4000, 7000), (4000, 6000), (4000, 7000)]


def test_a_bye_to_a_fork_that_answered_second_does_not_end_the_call(wire):
    wire.request("INVITE", ALICE, PROXY, A_SDP)
    wire.response(200, PROXY, ALICE, B_SDP, to_tag="b")
    wire.response(200, PROXY, ALICE, C_SDP, to_tag="c")
    wire.request("BYE", ALICE, PROXY, cseq=2, to_tag="c")
    assert wire.call().end_cause is None
    wire.request("BYE", ALICE, PROXY, cseq=2, to_tag="b")
    assert (wire.call().end_cause, wire.call().ended_at_ns) == ("bye", 5 * MS)


def test_rejections_of_single_forks_do_not_end_the_call(wire):
    wire.request("INVITE", ALICE, PROXY, A_SDP)
    wire.request("INVITE", PROXY, BOB, A_SDP)
    wire.response(486, BOB, PROXY)
    assert wire.call().end_cause is None
    wire.response(480, PROXY, ALICE)
    assert wire.call().end_cause == "rejected 480"


def test_messages_over_tcp_and_udp_make_one_call(wire):
    through_proxy(wire)
    other = Dialogs()
    source = Wire()
    source.dialogs = other
    real = other.receive
    other.receive = lambda message, **where: real(message, transport="tcp", **where)
    through_proxy(source)
    assert other.calls() == wire.calls()


def test_devices_without_tags_and_branches_are_told_apart_by_their_uris(wire):
    def old(data: bytes) -> bytes:
        return data.replace(b";tag=a", b"").replace(b";tag=b", b"")

    real = wire.dialogs.receive
    wire.dialogs.receive = lambda message, **where: real(old(message), **where)
    wire.request("INVITE", ALICE, BOB, A_SDP, branch="")
    wire.response(200, BOB, ALICE, B_SDP, branch="")
    wire.request("BYE", BOB, ALICE, cseq=3, to_tag="b", by_callee=True, branch="")
    assert (wire.leg().hops, wire.ports(), wire.call().end_cause) == (((ALICE, BOB),), [(4000, 6000)], "bye")


def test_calls_can_be_sent_to_another_process(wire):
    through_proxy(wire, to_b=RELAY_TO_B, to_a=RELAY_TO_A)
    assert pickle.loads(pickle.dumps(wire.calls())) == wire.calls()


def test_legs_are_named_like_columns():
    assert [dialogs._leg_name(index) for index in (0, 1, 25, 26, 27, 51, 52, 63)] == [
        f"LEG-{letters}" for letters in ("A", "B", "Z", "AA", "AB", "AZ", "BA", "BL")
    ]


# --- bounds and bad input -------------------------------------------------------------------------------


def test_malformed_messages_are_counted_by_reason(wire):
    wire.send(b"hello", ALICE, BOB)
    wire.send(b"INVITE sip:b@c SIP/2.0\r\nCall-ID: x\r\n\r\n", ALICE, BOB)
    wire.request("INVITE", ALICE, BOB, "no description")
    assert wire.dialogs.malformed == {
        "no SIP start line (at byte 0)": 1,
        "no from header": 1,
        "not a session description (at byte 0)": 1,
    }
    assert len(wire.calls()) == 1


def test_a_message_of_more_than_64_kib_is_read_up_to_there(wire):
    wire.request("INVITE", ALICE, BOB, A_SDP + "a=x\r\n" * 20_000)
    assert wire.ports() == [(4000, None)]
    assert wire.dialogs.dropped == {"ends of long messages": 1}


def test_calls_hops_and_descriptions_beyond_the_bounds_are_counted(wire, monkeypatch):
    monkeypatch.setattr(dialogs, "MAX_CALLS", 3)
    monkeypatch.setattr(dialogs, "MAX_HOPS", 4)
    monkeypatch.setattr(dialogs, "MAX_EXCHANGES", 5)
    for number in range(5):
        wire.call_id = f"call-{number}"
        wire.request("INVITE", ALICE, BOB, A_SDP)
    wire.call_id = "call-0"
    for port in range(6):
        wire.request("INVITE", ("192.0.2.9", port), BOB, A_SDP)
    for cseq in range(2, 10):
        wire.request("UPDATE", ALICE, BOB, sdp("192.0.2.1", 4000 + cseq), cseq=cseq, to_tag="b")
        wire.response(200, BOB, ALICE, B_SDP, cseq=cseq, method="UPDATE")
    assert wire.dialogs.dropped == {"calls": 2, "hops": 3, "descriptions": 3}
    assert len(wire.calls()) == 3
    assert len(wire.calls()[0].legs[0].sessions) == 5


def test_the_text_of_all_descriptions_kept_is_bounded(wire, monkeypatch):
    monkeypatch.setattr(dialogs, "MAX_KEPT_BYTES", 3 * len(A_SDP))
    for cseq in range(1, 9):
        wire.request("INVITE", ALICE, BOB, sdp("192.0.2.1", 4000 + cseq), cseq=cseq)
    assert wire.dialogs.dropped == {"descriptions": 5}


def test_many_messages_of_one_call_take_time_in_proportion(wire):
    def seconds(count: int) -> float:
        flood = Wire()
        begin = time.perf_counter()
        for number in range(count):
            flood.request(
                "INVITE",
                ("192.0.2.1", number % 5000),
                BOB,
                sdp("192.0.2.1", 1 + number % 60_000),
                cseq=number,
            )
            flood.response(183, BOB, ("192.0.2.1", number % 5000), B_SDP, cseq=number, to_tag=str(number))
        flood.calls()
        return time.perf_counter() - begin

    short = seconds(1000)
    assert seconds(8000) < 8 * 3 * short + 0.5


GOOD = Wire("good")
_talk: list[tuple[bytes, tuple, tuple]] = []
GOOD.send = lambda message, source, destination, **_: _talk.append((message, source, destination))  # type: ignore[method-assign]
through_proxy(GOOD, to_b=RELAY_TO_B, to_a=RELAY_TO_A)
GOOD.request("PRACK", ALICE, PROXY, C_SDP, cseq=2, to_tag="b", extra=("RAck: 1 1 INVITE",))
GOOD.request("ACK", ALICE, PROXY, A_SDP, to_tag="b")
GOOD.request("UPDATE", BOB, PROXY, B_SDP, cseq=9, to_tag="b", by_callee=True)
GOOD.request("CANCEL", ALICE, PROXY)
GOOD.request("BYE", ALICE, PROXY, cseq=3, to_tag="b")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_message_raises(data):
    table = Dialogs()
    for index in data.draw(st.lists(st.integers(0, len(_talk) - 1), max_size=25)):
        message, source, destination = _talk[index]
        if data.draw(st.booleans()):
            changed = bytearray(message)
            at = data.draw(st.integers(0, len(changed)))
            changed[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=8))
            message = bytes(changed)
        table.receive(message, time_ns=index, source=source, destination=destination)
    for call in table.calls():
        assert call.legs[0].name == "LEG-A"
        for leg in call.legs:
            assert [session.valid_from_ns for session in leg.sessions] == sorted(
                s.valid_from_ns for s in leg.sessions
            )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(_talk) - 1), st.integers(0, 9)), max_size=20))
def test_copies_of_any_messages_at_any_later_time_change_nothing(copies):
    once, often = Dialogs(), Dialogs()
    pending: dict[int, list[int]] = {}
    for index, delay in copies:
        pending.setdefault(index + delay, []).append(index)
    for now, (message, source, destination) in enumerate(_talk):
        for table in (once, often):
            table.receive(message, time_ns=now * MS, source=source, destination=destination)
        for copy in pending.get(now, []):
            message, source, destination = _talk[copy]
            often.receive(message, time_ns=now * MS + 1, source=source, destination=destination)
    assert often.calls() == once.calls()


# --- captures of others ---------------------------------------------------------------------------------


def from_capture(path) -> tuple[Dialogs, int]:
    """The calls of a little-endian pcap file, microseconds, Ethernet or loopback, whole IPv4 packets only."""
    data = path.read_bytes()
    magic, link_type = struct.unpack_from("<I16xI", data)
    assert magic == 0xA1B2C3D4
    table, streams, at = Dialogs(), {}, 24
    begin = None
    while at < len(data):
        seconds, micros, size = struct.unpack_from("<III", data, at)
        packet = data[at + 16 : at + 16 + size]
        at += 16 + size
        time_ns = seconds * 10**9 + micros * 1000
        begin = begin or time_ns
        ip = packet[{0: 4, 1: 14}[link_type] :]
        if ip[:1] not in (b"\x45",) or (link_type == 1 and packet[12:14] != b"\x08\x00"):
            continue
        ip = ip[: int.from_bytes(ip[2:4])]
        ports = struct.unpack_from(">HH", ip, 20)
        source, destination = (
            (".".join(map(str, host)), port) for host, port in zip((ip[12:16], ip[16:20]), ports, strict=True)
        )
        where = {"source": source, "destination": destination}
        if ip[9] == 17 and sip.looks_like_sip(ip[28:]):
            table.receive(ip[28:], time_ns=time_ns, **where)
        elif ip[9] == 6:
            stream = streams.setdefault((source, destination), sip.StreamAssembler())
            seq, offset, flags = struct.unpack_from(">IxxxxBB", ip, 24)
            payload = ip[20 + (offset >> 4) * 4 :]
            for message in stream.receive(
                payload, seq=seq, time_ns=time_ns, syn=bool(flags & 2), fin=bool(flags & 1)
            ):
                table.receive(message.data, time_ns=message.time_ns, transport="tcp", **where)
    return table, begin


def seconds(time_ns: int | None, begin: int) -> float | None:
    return None if time_ns is None else round((time_ns - begin) / 1e9, 3)


def summary(call: SipCall) -> list[tuple]:
    return [
        (
            line.participant and line.participant[:2],
            line.server and line.server[:2],
            [c.name for c in line.to_server.values()],
        )
        for session in call.legs[0].sessions
        for line in session.media
    ]


def test_capture_baresip_is_one_answered_call(test_data):
    table, begin = from_capture(test_data("pcap/calls/baresip-pcmu-47hash.pcap"))
    (call,) = table.calls()
    assert (call.state, call.end_cause, seconds(call.ended_at_ns, begin)) == ("answered", "bye", 13.011)
    assert summary(call) == [(("127.0.0.1", 10080), ("127.0.0.1", 10098), ["PCMU", "TELEPHONE-EVENT"])]
    assert call.legs[0].sessions[0].audio.ptime_ms == 20


def test_capture_sipnab_changes_from_pcmu_to_g722(test_data):
    table, begin = from_capture(test_data("pcap/calls/sipnab-codec-negotiation.pcap"))
    (call,) = table.calls()
    ends = ("127.0.0.1", 5084), ("127.0.0.1", 5094)
    assert summary(call) == [(*ends, ["PCMU"]), (*ends, ["G722"])]
    assert [seconds(session.valid_from_ns, begin) for session in call.legs[0].sessions] == [0.002, 3.009]


def test_capture_trex_is_a_g729_call_ended_by_the_callee(test_data):
    table, begin = from_capture(test_data("pcap/calls/trex-sip_call_g729.pcap"))
    (call,) = table.calls()
    assert (call.state, call.end_cause, seconds(call.ended_at_ns, begin)) == ("answered", "bye", 24.538)
    assert summary(call) == [(("21.0.0.61", 10018), ("22.0.0.6", 10018), ["G729"])]


def test_capture_sngrep_has_four_calls_that_nobody_answered(test_data):
    table, _ = from_capture(test_data("pcap/calls/sngrep-aaa.pcap"))
    calls = table.calls()
    assert {call.state for call in calls} == {"unanswered"}
    assert [call.end_cause for call in calls] == ["cancel", "rejected 403", "rejected 403", "rejected 480"]
    assert (table.messages, table.malformed, table.dropped) == (81, {}, {})
    assert summary(calls[3]) == [(("192.168.1.2", 30000), ("212.242.33.36", 40392), ["PCMA", "PCMU"])]
    assert calls[3].legs[0].sessions[0].early


def test_capture_with_a_large_body_over_tcp_is_read(test_data):
    table, _ = from_capture(test_data("pcap/sip/sip-body-large.pcap"))
    (call,) = table.calls()
    assert (call.caller, table.messages) == ("sip:alice@attacker.com", 2)
    assert table.dropped == {"ends of long messages": 1}


def test_capture_with_invalid_content_lengths_is_read(test_data):
    table, _ = from_capture(test_data("pcap/sip/invalid-content-length.pcap"))
    (call,) = table.calls()
    assert (call.state, table.malformed) == ("answered", {})


def test_capture_with_stray_quotes_and_compact_names_is_read(test_data):
    for name in ("sdp.pcap", "sip_compact_form.pcap"):
        table, _ = from_capture(test_data(f"pcap/sip/{name}"))
        (call,) = table.calls()
        assert call.caller == "sip:816666@voip.brurjula.net"
        assert call.legs[0].sessions[0].audio.participant == ("192.168.1.2", 30000, 30001)
