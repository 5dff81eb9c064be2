"""A voice agent of Pipecat whose calls are recorded: the caller left, the agent right.

    CALLREEL_CONFIG=callreel.toml uvicorn --app-dir examples pipecat_agent:app --port 8090

A platform's media stream (Twilio's protocol) comes to ws://HOST:8090/media. The agent of this example says what it
hears; a real one has its speech recognition, model and voice in the place of `Echo`. Needs `pipecat-ai[websocket]`.
"""

import os
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, WebSocket
from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport

from callreel.actions import StartRecording
from callreel.recorder import Recorder
from callreel.recorder.configuration import Configuration


class Recorded(FrameProcessor):
    """Gives a call what goes by; it stands behind the transport's output, where what the agent says is paced."""

    def __init__(self, call):
        """`call` has a LEG-A that takes PCM."""
        super().__init__()
        self._call = call

    async def process_frame(self, frame, direction):
        """Hand on every frame."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self._call.receive_pcm("LEG-A", frame.audio, sample_rate=frame.sample_rate)
        elif isinstance(frame, OutputAudioRawFrame):
            self._call.receive_pcm("LEG-A", frame.audio, sample_rate=frame.sample_rate, direction="outgoing")
        await self.push_frame(frame, direction)


class Echo(FrameProcessor):
    """The agent."""

    async def process_frame(self, frame, direction):
        """Say what was heard."""
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            said = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
            await self.push_frame(said, direction)


@asynccontextmanager
async def recording(app):
    """One recorder for all calls."""
    with Recorder(Configuration(Path(os.environ["CALLREEL_CONFIG"])).settings()) as app.state.recorder:
        yield


app = FastAPI(lifespan=recording)


@app.websocket("/media")
async def media(socket: WebSocket):
    """A call."""
    await socket.accept()
    _, stream = await parse_telephony_websocket(socket)
    transport = FastAPIWebsocketTransport(
        socket,
        FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            serializer=TwilioFrameSerializer(
                stream["stream_id"], params=TwilioFrameSerializer.InputParams(auto_hang_up=False)
            ),
        ),
    )
    call = app.state.recorder.add_call(stream["call_id"])
    call.add_leg("LEG-A", host_frames=True)  # PCM, not RTP
    call.start_recording(StartRecording())
    steps = [transport.input(), Echo(), transport.output(), Recorded(call)]
    rates = PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000)
    task = PipelineTask(Pipeline(steps), params=rates)

    @transport.event_handler("on_client_disconnected")
    async def gone(*_):
        await task.cancel()

    try:
        await PipelineRunner(handle_sigint=False).run(task)
    finally:
        call.end()
