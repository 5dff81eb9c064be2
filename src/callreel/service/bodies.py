"""What the native API takes and gives, as pydantic and the OpenAPI document have it."""

import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from callreel.actions import Layout, Prompt, RecordingKind, StartRecording, StopRules
from callreel.events import LegStatus
from callreel.service.host import LegWish

__all__ = ["ActionBody", "CallBody", "ErrorBody", "Failed", "LegBody", "RecordingBody"]


class _Strict(BaseModel):
    """Nothing but what is named, and nothing that only resembles it: 0 is not false."""

    model_config = ConfigDict(extra="forbid", strict=True)


PayloadType = Annotated[int, Field(ge=0, le=127, strict=False)]
"""As JSON has it: text of a number."""


class LegBody(_Strict):
    """A participant's connection."""

    name: str = Field("LEG-A", pattern=r"^LEG-[A-Z]{1,2}$")
    media: Literal["rtp", "audiosocket", "websocket", "none"] = "rtp"
    options: dict[str, Any] = Field(default_factory=dict, description="what that kind of media wants to know")
    to: str = Field("", max_length=256)
    from_: str = Field("", alias="from", max_length=256)
    inbound: bool = True
    status: Literal["offered", "ringing", "connected"] = "connected"
    payload_types: dict[PayloadType, str] | None = Field(
        None,
        description="of RTP, to names of codecs",
        json_schema_extra={"propertyNames": {"pattern": "^([0-9]|[1-9][0-9]|1[01][0-9]|12[0-7])$"}},
    )
    detect_digits: bool = True

    def wish(self) -> LegWish:
        """The same for the host."""
        return LegWish(
            self.name,
            self.media,
            self.options,
            self.to,
            self.from_,
            self.inbound,
            LegStatus(self.status),
            self.payload_types,
            self.detect_digits,
        )


class RecordingBody(_Strict):
    """A recording that is to begin."""

    leg: str = "LEG-A"
    layout: Literal["stereo", "incoming", "outgoing", "mix"] = "stereo"
    format: Literal["wav", "mp3"] = "wav"
    sample_rate: Literal[8000, 16000, 24000, 48000] | None = None
    prefix: str | None = Field(None, max_length=512)
    prompt: str | None = Field(None, max_length=2048, description="URL of a prompt that is played first")
    beep: bool = False
    terminators: str = Field("", pattern=r"^[0-9*#]*$")
    keep_terminator: bool = True
    max_duration_ms: int | None = Field(None, ge=1)
    initial_silence_ms: int | None = Field(None, ge=1)
    trailing_silence_ms: int | None = Field(None, ge=1)
    message: bool = Field(False, description="a recording of one message, beside that of the call")

    def action(self) -> StartRecording:
        """The same for the call."""
        return StartRecording(
            leg=self.leg,
            action_id=uuid.uuid4().hex,
            kind=RecordingKind.MESSAGE if self.message else RecordingKind.CALL,
            layout=Layout(self.layout),
            format=self.format,
            sample_rate=self.sample_rate,
            prefix=self.prefix,
            prompt=None if self.prompt is None else Prompt(uri=self.prompt),
            beep=self.beep,
            rules=StopRules(
                terminators=frozenset(self.terminators),
                keep_terminator=self.keep_terminator,
                max_duration_ms=self.max_duration_ms,
                initial_silence_ms=self.initial_silence_ms,
                trailing_silence_ms=self.trailing_silence_ms,
            ),
        )


class CallBody(_Strict):
    """A call that is to be recorded."""

    call_id: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:@-]{1,128}$")
    dialect: Literal["chime", "sinch", "graph"] | None = None
    dialect_options: dict[str, Any] = Field(default_factory=dict)
    legs: list[LegBody] = Field(default_factory=lambda: [LegBody()], min_length=1, max_length=26)
    record: RecordingBody | None = None


class ActionBody(_Strict):
    """Something that is asked of a call."""

    action: Literal[
        "start_recording",
        "stop_recording",
        "pause_recording",
        "resume_recording",
        "hang_up",
        "answered",
        "ringing",
        "digit",
        "performed",
        "request",
    ]
    leg: str = "LEG-A"
    recording: RecordingBody | None = Field(None, description="with start_recording")
    message: bool = Field(False, description="with stop, pause, resume: that of a message")
    symbol: str | None = Field(None, pattern=r"^[0-9A-D*#]$", description="with digit")
    action_id: str | None = Field(None, description="with performed")
    error: str | None = Field(None, max_length=1000, description="with performed: why it could not be done")
    result: dict[str, Any] | None = Field(
        None, description="with performed: what came of it; of Sinch's runMenu a menuResult"
    )
    document: Any = Field(None, description="with request: what the vendor's customer would send")


class Failed(BaseModel):
    """What is wrong."""

    code: str
    message: str


class ErrorBody(BaseModel):
    """An error."""

    error: Failed
