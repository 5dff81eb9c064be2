"""Of Pipecat what examples/pipecat_agent.py uses, for it is not installed beside the tests; not Pipecat itself.

A transport hears what it is given, at the pace at which it sounds. What is to be said it turns upside down, so that it
can be told from what was heard.
"""

import asyncio
import itertools
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

HEARD: list[bytes] = []
"""What comes in: 20 ms each, 8 kHz."""


class Frame:
    """Audio."""

    def __init__(self, audio: bytes, sample_rate: int, num_channels: int) -> None:
        self.audio, self.sample_rate, self.num_channels = audio, sample_rate, num_channels


class InputAudioRawFrame(Frame):
    """Heard."""


class OutputAudioRawFrame(Frame):
    """Said, or to be said."""


class FrameProcessor:
    """A step of a pipeline."""

    after = None

    async def process_frame(self, frame: Frame, direction: str) -> None:
        """Take note of it; handing it on is for those who inherit."""

    async def push_frame(self, frame: Frame, direction: str) -> None:
        """Hand it to the next step."""
        if self.after is not None:
            await self.after.process_frame(frame, direction)


class Said(FrameProcessor):
    """The end of the transport that plays."""

    async def process_frame(self, frame: Frame, direction: str) -> None:
        """Play it, and hand on what was played."""
        if isinstance(frame, OutputAudioRawFrame):
            audio = (-np.frombuffer(frame.audio, "<i2")).tobytes()
            frame = OutputAudioRawFrame(audio, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame, direction)


class Transport:
    """A platform's media stream."""

    def __init__(self, *_: object) -> None:
        pass

    def input(self) -> FrameProcessor:
        """Where what is heard comes in."""
        return FrameProcessor()

    def output(self) -> FrameProcessor:
        """Where what is said goes out."""
        return Said()

    def event_handler(self, _: str) -> object:
        """A decorator of what is called when something happens; nothing does."""
        return lambda function: function


class Runner:
    """What carries frames through the steps."""

    def __init__(self, **_: object) -> None:
        pass

    async def run(self, steps: list[FrameProcessor]) -> None:
        """All that is heard, as it comes."""
        for step, after in itertools.pairwise(steps):
            step.after = after
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, audio in enumerate(HEARD, 1):
            await asyncio.sleep(max(0.0, start + number * 0.02 - loop.time()))
            await steps[0].push_frame(InputAudioRawFrame(audio, 8000, 1), "downstream")


async def _parsed(_: object) -> tuple[str, dict[str, str]]:
    return "twilio", {"stream_id": "MZ-1", "call_id": "CA-1"}


MODULES = {
    "frames.frames": {"InputAudioRawFrame": InputAudioRawFrame, "OutputAudioRawFrame": OutputAudioRawFrame},
    "pipeline.pipeline": {"Pipeline": list},
    "pipeline.runner": {"PipelineRunner": Runner},
    "pipeline.task": {"PipelineParams": SimpleNamespace, "PipelineTask": lambda steps, params: steps},
    "processors.frame_processor": {"FrameProcessor": FrameProcessor},
    "runner.utils": {"parse_telephony_websocket": _parsed},
    "serializers.twilio": {
        "TwilioFrameSerializer": type(
            "Serializer", (), {"InputParams": SimpleNamespace, "__init__": lambda *_, **__: None}
        )
    },
    "transports.websocket.fastapi": {
        "FastAPIWebsocketParams": SimpleNamespace,
        "FastAPIWebsocketTransport": Transport,
    },
}


def modules() -> dict[str, ModuleType]:
    """What stands in for Pipecat in `sys.modules`."""
    made = {}
    for name, names in MODULES.items():
        parts = f"pipecat.{name}".split(".")
        for size in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:size]), ModuleType(".".join(parts[:size])))
        vars(made[f"pipecat.{name}"]).update(names)
    assert not set(made) & set(sys.modules)
    return made
