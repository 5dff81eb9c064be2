"""A call between two SIP endpoints of `sipp`, each of which plays a file of G.711 when the call is answered."""

import socket
import subprocess

SDP = """
v=0
o=- 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio [rtpstream_audio_port] RTP/AVP {payload_type}
a=rtpmap:{payload_type} {codec}/8000
"""
ROUTED = """
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:{caller}@[local_ip]>;tag=[pid]caller
To: <sip:{callee}@[remote_ip]>[peer_tag_param]
Call-ID: [call_id]
[routes]
Contact: <sip:{caller}@[local_ip]:[local_port]>
Max-Forwards: 70
"""
CALLER = """<?xml version="1.0"?>
<scenario name="caller">
<send retrans="500"><![CDATA[
INVITE sip:{callee}@[remote_ip]:[remote_port] SIP/2.0
{routed}
CSeq: 1 INVITE
Content-Type: application/sdp
Content-Length: [len]
{sdp}
]]></send>
<recv response="100" optional="true"/>
<recv response="200" rrs="true"/>
<send><![CDATA[
ACK [next_url] SIP/2.0
{routed}
CSeq: 1 ACK
Content-Length: 0

]]></send>
<pause milliseconds="{wait_ms}"/>
<nop><action><exec rtp_stream="{audio},1,{payload_type}"/></action></nop>
<pause milliseconds="{talk_ms}"/>
<send retrans="500"><![CDATA[
BYE [next_url] SIP/2.0
{routed}
CSeq: 2 BYE
Content-Length: 0

]]></send>
<recv response="200"/>
</scenario>
"""
CALLEE = """<?xml version="1.0"?>
<scenario name="callee">
<recv request="INVITE" rrs="true"/>
<send retrans="500"><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_Record-Route:]
[last_From:]
[last_To:];tag=[pid]callee
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:{callee}@[local_ip]:[local_port]>
Content-Type: application/sdp
Content-Length: [len]
{sdp}
]]></send>
<recv request="ACK"/>
<pause milliseconds="{wait_ms}"/>
<nop><action><exec rtp_stream="{audio},1,{payload_type}"/></action></nop>
<recv request="BYE"/>
<send><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>
</scenario>
"""
CODECS = {0: "PCMU", 8: "PCMA", 9: "G722"}


def scenario(template, path, *, audio, payload_type=0, wait_ms=1000, talk_ms=3000):
    """Write what sipp is to do; `audio` is a file of G.711, played `wait_ms` after the call was answered."""
    names = {"caller": "+15551230001", "callee": "+15559870002"}
    sdp = SDP.format(payload_type=payload_type, codec=CODECS[payload_type])
    path.write_text(
        template.format(
            **names,
            routed=ROUTED.format(**names).strip(),
            sdp=sdp,
            audio=audio,
            payload_type=payload_type,
            wait_ms=wait_ms,
            talk_ms=talk_ms,
        )
    )
    return path


# ---- captures that sipp plays ------------------------------------------------------------------------------------

ANSWERS_WITH = """
v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
c=IN IP4 127.0.0.1
t=0 0
m=audio {port} RTP/AVP {numbers}
"""
OFFERS = """
v=0
o=- 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio [media_port] RTP/AVP {numbers}
"""
PLAY = '<nop><action><exec play_pcap_audio="{path}"/></action></nop>\n<pause milliseconds="{wait_ms}"/>\n'


def plays_captures(folder, port, *, audio, keys, audio_ms, payload_types):
    """Have one sipp call another, which says that media goes to `port`, and play a capture and then keys there."""
    numbers = " ".join(map(str, payload_types))
    names = {"caller": "+15551230001", "callee": "+15559870002"}
    routed = ROUTED.format(**names).strip()
    plays = PLAY.format(path=audio, wait_ms=audio_ms)
    plays += "".join(PLAY.format(path=key, wait_ms=700) for key in keys)
    caller, callee = folder / "caller.xml", folder / "callee.xml"
    text = CALLER.replace(
        '<nop><action><exec rtp_stream="{audio},1,{payload_type}"/></action></nop>\n', plays
    )
    caller.write_text(
        text.replace('<pause milliseconds="{talk_ms}"/>\n', "").format(
            **names, routed=routed, sdp=OFFERS.format(numbers=numbers), wait_ms=300
        )
    )
    text = CALLEE.replace('<nop><action><exec rtp_stream="{audio},1,{payload_type}"/></action></nop>\n', "")
    text = text.replace('<pause milliseconds="{wait_ms}"/>\n', "")
    callee.write_text(text.format(**names, sdp=ANSWERS_WITH.format(port=port, numbers=numbers)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        called = free.getsockname()[1]
    common = ("-i", "127.0.0.1", "-m", "1", "-nostdin", "-timeout", "60", "-timeout_error")
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    listens = subprocess.Popen(["sipp", "-sf", callee, "-p", str(called), *common], **quiet)
    try:
        result = subprocess.run(
            ["sipp", "-sf", caller, f"127.0.0.1:{called}", "-mi", "127.0.0.1", *common],
            check=False,
            timeout=90,
            **quiet,
        )
        assert result.returncode == 0, result.stderr
        listens.wait(10)
    finally:
        listens.kill()
        listens.communicate()
