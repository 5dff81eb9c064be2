"""A call between two SIP endpoints of `sipp`, each of which plays a file of G.711 when the call is answered."""

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
