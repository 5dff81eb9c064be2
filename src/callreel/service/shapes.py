"""What the native API answers, for the OpenAPI document: it is told by these, and never made or checked with them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ActionAnswer",
    "CallAnswer",
    "CallDetails",
    "CallsAnswer",
    "ChannelAnswer",
    "DigitAnswer",
    "LegAnswer",
    "ManifestAnswer",
    "PacketsAnswer",
    "PauseAnswer",
    "RecordingAnswer",
    "RecordingsAnswer",
    "TrackAnswer",
    "VendorAnswer",
    "WaveformAnswer",
]

MOMENT = "RFC 3339, UTC"
SHA256 = r"^[0-9a-f]{64}$"


class LegAnswer(BaseModel):
    """A participant's connection."""

    name: str
    status: Literal["dialed", "offered", "ringing", "connected", "disconnected"]
    to: str
    from_: str = Field(alias="from")
    sip_headers: dict[str, str] = Field({}, description="of a leg that is to be dialled")
    media: dict[str, Any] | None = Field(
        description="where its audio is sent: `kind`, and with rtp `host` and `port`, with websocket `path`; "
        "null for a leg whose audio nobody sends"
    )


class CallAnswer(BaseModel):
    """A call."""

    call_id: str
    dialect: Literal["chime", "sinch", "graph"] | None
    started_at: str = Field(description=MOMENT)
    ended_at: str | None = Field(description=MOMENT)
    legs: list[LegAnswer]
    recordings: dict[str, Literal["recording", "ended", "delivered", "failed"]] = Field(
        description="how far each is, by recording_id"
    )


class CallDetails(CallAnswer):
    """A call, with figures of its media."""

    media: dict[str, dict[str, Any]] = Field(description="by leg: packets, bytes, what was refused, ...")


class CallsAnswer(BaseModel):
    """Calls, the latest first."""

    calls: list[CallAnswer]


class VendorAnswer(BaseModel):
    """What a vendor's customer would be answered."""

    status: int = Field(ge=200, le=599)
    body: dict[str, Any] | None
    headers: dict[str, str]


class ActionAnswer(BaseModel):
    """What came of an action."""

    recording_id: str | None = Field(None, description="of start_recording")
    response: VendorAnswer | None = Field(None, description="of request")


class RecordingAnswer(BaseModel):
    """A recording that has ended."""

    take_id: str
    call_id: str
    started_at: str = Field(description=MOMENT + "; empty for one of which nothing was recorded")
    ended_s: float = Field(description="when that was told, in seconds since 1970")
    duration_s: float = Field(ge=0)
    end_reason: str
    location: str | None = Field(description="a URL; null when it was not delivered")
    error: str | None = Field(description="why it was not delivered; null also for what was called off")
    is_degraded: bool
    dialect: str
    key: str


class RecordingsAnswer(BaseModel):
    """A page of recordings, the latest first."""

    recordings: list[RecordingAnswer]
    total: int = Field(ge=0, description="on all pages")
    page: int = Field(ge=1)
    page_size: int = Field(ge=1, le=200)


class PacketsAnswer(BaseModel):
    """RTP packets by what became of them; late and duplicate ones are received, too."""

    model_config = ConfigDict(extra="allow")

    received: int = Field(ge=0)
    lost: int = Field(ge=0)
    duplicate: int = Field(ge=0)
    late: int = Field(ge=0)
    malformed: int = Field(ge=0)
    reordered: int = Field(ge=0)


class TrackAnswer(BaseModel):
    """One direction of a leg, as it was recorded."""

    model_config = ConfigDict(extra="allow")

    leg: str
    direction: Literal["incoming", "outgoing"]
    channel: int | None = Field(description="of the file; null where channels are mixed")
    codec: str | None
    ssrc: list[int]
    packets: PacketsAnswer
    concealed_ms: float
    silence_filled_ms: float
    drift_ppm: float | None


class DigitAnswer(BaseModel):
    """A key that was pressed."""

    model_config = ConfigDict(extra="allow")

    symbol: str
    at: float = Field(description="seconds from the beginning")
    duration: float
    track: str
    source: str


class PauseAnswer(BaseModel):
    """A stretch that was not recorded."""

    from_: float = Field(alias="from", description="seconds from the beginning")
    to: float


class ManifestAnswer(BaseModel):
    """All there is to say of a recording; one of which nothing was recorded has less."""

    model_config = ConfigDict(extra="allow")

    version: int = 1
    call_id: str = ""
    transaction_id: str | None = None
    dialect: str | None = None
    action: str | None = None
    tracks: list[TrackAnswer] = []
    started_at: str = Field("", description=MOMENT)
    duration: float = Field(0.0, description="seconds")
    sample_rate: int = 8000
    channels: int = 2
    frames: int = 0
    format: str = "wav"
    layout: str | None = None
    bytes: int = 0
    sha256: str = Field("", pattern=SHA256)
    end_reason: str = ""
    degraded: Literal[False] | dict[str, Any] | None = False
    alignment_error_ms: float = 0.0
    digits: list[DigitAnswer] = []
    pauses: list[PauseAnswer] = []
    destination: Any = None
    key: str = ""
    metadata: dict[str, str] | None = None
    media_type: str = ""


class ChannelAnswer(BaseModel):
    """The outline of one channel, a value a column; empty for one without audio. 1.0 is full scale."""

    name: str
    low: list[float]
    high: list[float]
    rms: list[float]


class WaveformAnswer(BaseModel):
    """The outline of a recording."""

    duration: float = Field(ge=0, description="seconds")
    sample_rate: int
    channels: list[ChannelAnswer]
