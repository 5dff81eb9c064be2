"""One recording: commands and the PCM of a leg's tracks in, the writes of a file out.

A recording lives on two clocks. What is asked of it (start, pause, resume, stop) happens now, and `state` follows at
once:

    armed ──> prompting ──> beeping ──> recording <──> paused ──> finished
      │           │            │            │            │
      └───────────┴────────────┴────────────┴────────────┴──────> failed

    from \\ trigger   PROMPT      BEEP      BEGIN       PAUSE    RESUME      END        FAIL
    armed            prompting   beeping   recording   -        -           finished   failed
    prompting        -           beeping   recording   -        -           finished   failed
    beeping          -           -         recording   -        -           finished   failed
    recording        -           -         -           paused   recording   finished   failed
    paused           -           -         -           paused   recording   finished   failed

Its audio comes later, when the timeline can no longer change, or, where somebody waits for the end, when nothing of it
is missing. It is cut where the commands were given: each is kept with the position on the timeline that its moment was.
The stop rules are looked at there as well, so that the outcome depends on what was said and pressed when, and not on
how fast it came to us.

Rules of the end:

1. The earliest on the timeline wins; at one sample, the order of `EndReason`.
2. A key ends a recording where its tone ends, or, when the tone is not to be kept, where it begins.
3. Silence is counted in whole frames of 20 ms from the first sample; a pause is not silence of the participant.
4. The maximum duration counts from the first sample, pauses included.
5. What has been written stays: a key that is known too late ends the recording where it is.

Rules of the pause:

6. From the moment of the pause a tone, then silence; from the moment of the resumption a tone over the audio.
7. Audio of a pause is never handed to a recording that pauses, so none of it can reach a buffer, a file or a log.
8. Keys pressed in a pause are neither marked in the file nor listed in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from callreel.actions import EndReason, Layout, RecordingKind, StartRecording
from callreel.errors import UsageError
from callreel.formats import FORMATS, Format, Mark, Wav, Write
from callreel.kernels import pcm, tone
from callreel.legs import Digit, Direction, Leg
from callreel.silence import silence_meter
from callreel.takes import degradation, digit_entry, rfc3339, track_entry

__all__ = ["LAYOUT_DIRECTIONS", "NEXT", "Recording", "State", "Trigger"]

LAYOUT_DIRECTIONS: dict[Layout, tuple[Direction, ...]] = {
    Layout.STEREO: (Direction.INCOMING, Direction.OUTGOING),
    Layout.INCOMING: (Direction.INCOMING,),
    Layout.OUTGOING: (Direction.OUTGOING,),
    Layout.MIX: (Direction.INCOMING, Direction.OUTGOING),
}
"""The tracks a layout holds, in channel order."""


class State(StrEnum):
    """What a recording is doing, by what was asked of it."""

    ARMED = "armed"
    PROMPTING = "prompting"
    BEEPING = "beeping"
    RECORDING = "recording"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"


class Trigger(StrEnum):
    """What may happen to a recording."""

    PROMPT = "prompt"
    BEEP = "beep"
    BEGIN = "begin"
    PAUSE = "pause"
    RESUME = "resume"
    END = "end"
    FAIL = "fail"


NEXT: Mapping[tuple[State, Trigger], State] = {
    (State.ARMED, Trigger.PROMPT): State.PROMPTING,
    (State.ARMED, Trigger.BEEP): State.BEEPING,
    (State.ARMED, Trigger.BEGIN): State.RECORDING,
    (State.PROMPTING, Trigger.BEEP): State.BEEPING,
    (State.PROMPTING, Trigger.BEGIN): State.RECORDING,
    (State.BEEPING, Trigger.BEGIN): State.RECORDING,
    (State.RECORDING, Trigger.PAUSE): State.PAUSED,
    (State.RECORDING, Trigger.RESUME): State.RECORDING,
    (State.PAUSED, Trigger.PAUSE): State.PAUSED,
    (State.PAUSED, Trigger.RESUME): State.RECORDING,
    **{(state, Trigger.END): State.FINISHED for state in State if state not in ("finished", "failed")},
    **{(state, Trigger.FAIL): State.FAILED for state in State if state not in ("finished", "failed")},
}
"""The table above."""

END_ORDER = {reason: order for order, reason in enumerate(EndReason)}

FAR = 1 << 62
"""A position that no timeline reaches, in samples."""

PREVIEWED_AGAIN_MS = 100
"""So much of a preview the next one looks at again: more than a network's jitter."""
SETTLED_MS = 40
"""The first part of that, which should be as it was. If it is not, a late packet has come, or all packets have moved
because the first one turns out to have been late: then all is written again that is not final."""
CALM_MS = 60
"""The part of it that is as it was while nothing comes later than most: then only what is behind it is written."""

PAUSE_TONE = {"hz": 1000.0, "seconds": 0.2, "dbm0": -18.0}
"""The tone of pause and resumption; Amazon Chime names none. 1 kHz is heard through every telephone codec."""


class Recording:
    """A recording of one leg: commands at once, audio when it is final, `writes` in between."""

    __slots__ = (
        "_again_samples",
        "_as_it_is",
        "_calm",
        "_calm_samples",
        "_counts_after",
        "_counts_before",
        "_end",
        "_filled_before",
        "_format",
        "_grown",
        "_last_media",
        "_media_timeout_ms",
        "_meter",
        "_passed",
        "_pauses",
        "_preview",
        "_previewed",
        "_resamplers",
        "_settled_samples",
        "_tone",
        "_toned",
        "action",
        "channels",
        "directions",
        "end_at",
        "end_reason",
        "ends_only",
        "is_called_off",
        "is_message",
        "key",
        "leg",
        "position",
        "recording_id",
        "sample_rate",
        "start_position",
        "started_at",
        "state",
        "tags",
        "terminator",
        "trims_keys",
    )

    def __init__(
        self,
        action: StartRecording,
        *,
        recording_id: str,
        leg: Leg,
        key: str,
        tags: dict[str, str],
        as_pcm: bool = False,
    ) -> None:
        """Prepare what `action` asks for; nothing is recorded before `begin`.

        With `as_pcm` the file is WAV at the leg's rate, without marks, and `preview` writes ahead.
        """
        self.action = action
        self.recording_id = recording_id
        self.leg = leg
        self.key = key
        self.state = State.ARMED
        self.sample_rate = action.sample_rate or leg.incoming.sample_rate
        self.directions = LAYOUT_DIRECTIONS[action.layout]
        self.channels = 2 if action.layout is Layout.STEREO else 1
        self.started_at: datetime | None = None
        self.start_position = FAR
        """Where on the leg's timeline it begins."""
        self.position = FAR
        """The next sample of the timeline it takes."""
        self.end_reason: EndReason | None = None
        """Why it ended, once its audio has."""
        self.is_called_off = False
        """Whether the customer was told that there is none, whatever its audio says when it is final."""
        self.terminator: str | None = None
        self.tags = tags
        leg_rate = leg.incoming.sample_rate
        self._preview = Wav(sample_rate=leg_rate, channels=self.channels, tags=tags) if as_pcm else None
        self._previewed = 0
        self._again_samples = PREVIEWED_AGAIN_MS * leg_rate // 1000
        self._settled_samples = SETTLED_MS * leg_rate // 1000
        self._calm_samples = CALM_MS * leg_rate // 1000
        self._calm = b""  # of the last preview, CALM_MS from PREVIEWED_AGAIN_MS before its end on
        self._format: Format = self._preview or FORMATS[action.format](
            sample_rate=self.sample_rate, channels=self.channels, tags=tags
        )
        self._media_timeout_ms = action.rules.media_timeout_ms
        self._end: tuple[int, int, EndReason, str | None] = (FAR, len(END_ORDER), EndReason.FAILED, None)
        self.end_at = FAR
        """Where it ends by all that is known."""
        self._pauses: tuple[tuple[int, int], ...] = ()  # (from, to) on the timeline; the last may be open
        self.ends_only = False
        """Whether nothing but its end lies ahead by what is known, so that `boundary` is `end_at`."""
        self._passed = 0  # how many of them lie behind
        self._toned = 0  # ... with the tone that follows
        self._tone = b""
        self._grown = False
        self.trims_keys = bool(action.rules.terminators) and not action.rules.keep_terminator
        """Whether a key may end it where the key begins."""
        self.is_message = action.kind is RecordingKind.MESSAGE
        """Whether a list of actions waits for it."""
        self._meter = silence_meter(action.rules, leg_rate)
        self._last_media = 0
        self._resamplers: list[pcm.Resampler] = []
        if self.sample_rate != leg_rate and not as_pcm:
            self._resamplers = [pcm.Resampler(leg_rate, self.sample_rate) for _ in range(self.channels)]
        self._as_it_is = action.layout is Layout.STEREO and not self._resamplers  # outside of pauses
        self._counts_before: dict[Direction, dict[str, int]] = {}
        self._counts_after: dict[Direction, dict[str, int]] = {}
        self._filled_before: dict[Direction, tuple[int, int]] = {}

    # -- commands, at their moment -------------------------------------------------------------------------------

    def trigger(self, trigger: Trigger) -> None:
        """Move to the next state; UsageError when there is none."""
        following = NEXT.get((self.state, trigger))
        if following is None:
            raise UsageError(f"a recording that is {self.state} cannot {trigger}")
        self.state = following

    def begin(self, position: int, started_at: datetime) -> list[Write]:
        """Record from `position` on, which is the moment `started_at`."""
        self.trigger(Trigger.BEGIN)
        self.start_position = self.position = self._last_media = position
        self.started_at = started_at
        self._counts_before = self._counts()
        duration_ms = self.action.rules.max_duration_ms
        if duration_ms is not None:
            self._propose_end(position + self._samples(duration_ms), EndReason.MAX_DURATION)
        return self._format.start()

    def pause(self, position: int) -> None:
        """Hold from `position` on; while paused it does nothing."""
        was = self.state
        self.trigger(Trigger.PAUSE)
        if was is State.RECORDING:
            self.ends_only = False
            self._pauses += ((max(position, self.position), FAR),)

    def resume(self, position: int) -> None:
        """Go on from `position`; while not paused it does nothing."""
        was = self.state
        self.trigger(Trigger.RESUME)
        if was is State.PAUSED:
            begin, _ = self._pauses[-1]
            self._pauses = (*self._pauses[:-1], (begin, max(begin, position)))

    def end(self, position: int, reason: EndReason) -> None:
        """End at `position`, unless a rule ends it sooner."""
        if self.started_at is None:
            self.trigger(Trigger.FAIL)
            self.end_reason = reason
            return
        self.trigger(Trigger.END)
        self._propose_end(position, reason)

    def cut(self, position: int) -> None:
        """Nothing comes behind `position`: what was to end later, for whatever reason, ends there."""
        _, _, reason, terminator = self._end
        self._propose_end(position, reason, terminator)

    def press(self, digit: Digit) -> None:
        """The participant has pressed a key."""
        rules = self.action.rules
        end = digit.position + (digit.duration_samples if rules.keep_terminator else 0)
        if digit.symbol in rules.terminators and digit.position >= self.start_position:
            self._propose_end(end, EndReason.TERMINATOR, digit.symbol)

    def _propose_end(self, position: int, reason: EndReason, terminator: str | None = None) -> None:
        proposal = (max(position, self.position), END_ORDER[reason], reason, terminator)
        self._end = min(self._end, proposal, key=lambda end: end[:2])
        self.end_at = self._ending[0]

    @property
    def is_ended(self) -> bool:
        """Whether its end has been asked for, or has come."""
        return self.state in (State.FINISHED, State.FAILED)

    def is_over(self, position: int) -> bool:
        """Whether a key or the duration has ended it by `position`, and only its audio is still to come."""
        return self._end[0] <= position

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for its end, so that it takes audio as soon as nothing of it is missing.

        Where a key is to be cut off, only once it has come: what has been taken stays.
        """
        if not self.is_message or self.started_at is None:
            return False
        return not self.trims_keys or self._end[2] is EndReason.TERMINATOR

    def note_time(self, position: int) -> None:
        """It is `position` now: packets that come when the end has passed are none of this recording's."""
        if self._end[0] <= position and not self._counts_after:
            self._counts_after = self._counts()

    def _counts(self) -> dict[Direction, dict[str, int]]:
        return {direction: self.leg.track(direction).counts for direction in self.directions}

    # -- audio, when it is final ---------------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """Whether the audio at `position` is to be recorded, not a pause."""
        return not self._pauses or not any(
            begin <= self.position < end for begin, end in self._pauses_to_come()
        )

    def boundary(self, at: int) -> int:
        """The next position from `at` on where it, or a pause of it, begins or ends: it is fed up to there."""
        if self.position > at:
            return self.position
        if not self._filled_before:
            tracks = [(direction, self.leg.track(direction)) for direction in self.directions]
            self._filled_before = {
                direction: (track.concealed_samples, track.silence_samples) for direction, track in tracks
            }
        if self._media_timeout_ms is not None:
            last_media = self.leg.incoming.end
            if last_media > at:
                self._last_media = last_media
            self.end_at = self._ending[0]
        if not self._pauses:
            self.ends_only = self._media_timeout_ms is None
            return max(at, self.end_at)
        edges = [edge for pause in self._pauses_to_come() for edge in pause if edge > self.position]
        return max(at, min([self.end_at, *edges]))

    def _pauses_to_come(self) -> tuple[tuple[int, int], ...]:
        """Pauses that `position` has not passed."""
        while self._passed < len(self._pauses) and self._pauses[self._passed][1] <= self.position:
            self._passed += 1
        return self._pauses[self._passed :]

    @property
    def _ending(self) -> tuple[int, int, EndReason, str | None]:
        """Where it ends by all that is known, the place in `EndReason`, why, and by which key."""
        timeout_ms = self._media_timeout_ms
        if timeout_ms is None:
            return self._end
        reason = EndReason.MEDIA_TIMEOUT
        position = max(self._last_media + self._samples(timeout_ms), self.position)
        return min(self._end, (position, END_ORDER[reason], reason, None), key=lambda end: end[:2])

    def add(self, audio: bytes) -> list[Write]:
        """A piece of the leg's timelines from `position` on, not beyond `boundary`: stereo, incoming on the left."""
        samples = len(audio) // 4
        if self._meter is not None:
            ended = self._meter.feed(audio)
            if ended is not None:
                kept, spoken = ended
                reason = EndReason.TRAILING_SILENCE if spoken else EndReason.INITIAL_SILENCE
                if (self.position + kept, END_ORDER[reason]) < self._ending[:2]:
                    self._propose_end(self.position + kept, reason)
                    samples, audio = kept, audio[: 4 * kept]
        if self._as_it_is and not self._pauses:
            self.position += samples
            self._grown = True
            return self._format.add(audio)
        return self._write_channels(self._channels(audio), samples)

    def _channels(self, audio: bytes) -> list[bytes]:
        """What the layout makes of stereo."""
        incoming, outgoing = pcm.deinterleave(audio)
        match self.action.layout:
            case Layout.STEREO:
                return [incoming, outgoing]
            case Layout.MIX:
                return [pcm.mix((incoming, outgoing))]
            case Layout.INCOMING:
                return [incoming]
            case Layout.OUTGOING:
                return [outgoing]

    def pass_over(self, samples: int) -> list[Write]:
        """Samples of a pause: silence in the file."""
        if self._meter is not None:
            self._meter.restart()
        return self._write_channels([bytes(2 * samples)] * self.channels, samples)

    def _write_channels(self, channels: list[bytes], samples: int) -> list[Write]:
        if self._pauses:
            channels = [self._with_tones(channel) for channel in channels]
        if self._resamplers:
            channels = [
                resampler.feed(channel) for resampler, channel in zip(self._resamplers, channels, strict=True)
            ]
        return self._write(_woven(channels), samples)

    def _write(self, frames: bytes, samples: int) -> list[Write]:
        self.position += samples
        self._grown = True
        return self._format.add(frames)

    def _with_tones(self, channel: bytes) -> bytes:
        """The piece at `position` with what belongs into it of the tones of pauses."""
        if not self._tone:
            self._tone = tone.sine(**PAUSE_TONE, sample_rate=self.leg.incoming.sample_rate)
        sound = self._tone
        tone_samples, samples = len(sound) // 2, len(channel) // 2
        while (
            self._toned < len(self._pauses) and self._pauses[self._toned][1] + tone_samples <= self.position
        ):
            self._toned += 1
        for pause in self._pauses[self._toned :]:
            for edge in pause:
                begin = max(edge, self.position)
                end = min(edge + tone_samples, self.position + samples)
                if begin < end:
                    at, part = 2 * (begin - self.position), sound[2 * (begin - edge) : 2 * (end - edge)]
                    mixed = pcm.mix((channel[at : at + len(part)], part))
                    channel = channel[:at] + mixed + channel[at + len(part) :]
        return channel

    def preview(self, until: int) -> list[Write]:
        """What has come by now up to `until` and is not final, so that a process that dies leaves it behind.

        The last of it is written again the next time, because packets may have come in between.
        """
        preview, previewed, position = self._preview, self._previewed, self.position
        if until > self.end_at:
            until = self.end_at
        if preview is None or until <= previewed or until <= position or self.started_at is None:
            return []
        frame_bytes = 2 * self.channels
        begin, calm = previewed - self._again_samples, self._calm
        calm_bytes = self._calm_samples * frame_bytes
        audio = self._ahead(max(begin, position), until)
        from_end = len(audio) - self._again_samples * frame_bytes
        self._calm = audio[from_end : from_end + calm_bytes] if from_end >= 0 else b""
        if begin < position:
            begin = position
        elif calm and audio.startswith(calm):
            begin += self._calm_samples
            audio = audio[calm_bytes:]
        elif not audio.startswith(calm[: self._settled_samples * frame_bytes]):
            begin = position
            audio = self._ahead(begin, until)
        self._previewed = until
        self._grown = True
        return preview.preview(begin - self.start_position, audio)

    def _ahead(self, begin: int, until: int) -> bytes:
        """What has come from `begin` up to `until`, silent in pauses."""
        if not self._pauses:
            return self._previewed_audio(begin, until)
        pieces, at = [], begin
        for pause_begin, pause_end in self._pauses_to_come():
            if pause_begin < until and pause_end > at:
                pieces.append(self._previewed_audio(at, max(at, pause_begin)))
                pieces.append(bytes(2 * self.channels * (min(until, pause_end) - max(at, pause_begin))))
                at = min(until, pause_end)
        pieces.append(self._previewed_audio(at, until))
        return b"".join(pieces)

    def _previewed_audio(self, begin: int, until: int) -> bytes:
        if begin == until:
            return b""
        audio = self.leg.timelines.preview(begin, until)
        return audio if self.channels == 2 else _woven(self._channels(audio))

    def flush(self) -> list[Write]:
        """What makes the file so far valid, when it has grown."""
        if not self._grown:
            return []
        self._grown = False
        return self._format.flush()

    def finish(self, digits: list[tuple[Direction, Digit]]) -> list[Write]:
        """The file's end, with marks for the keys and pauses that fell into it."""
        _, _, self.end_reason, self.terminator = self._ending
        self.state = State.FAILED if self.end_reason is EndReason.FAILED else State.FINISHED
        writes: list[Write] = []
        if self._preview is not None:
            return self._preview.finish()
        if self._resamplers:
            writes += self._format.add(_woven([resampler.flush() for resampler in self._resamplers]))
        marks = [
            Mark(
                frame=self._frames(digit.position - self.start_position),
                duration_frames=self._frames(digit.duration_samples),
                label=f"{digit.symbol} {direction.value}",
            )
            for direction, digit in self._own(digits)
        ]
        marks += [
            Mark(
                frame=self._frames(begin - self.start_position),
                duration_frames=self._frames(min(end, self.position) - begin),
                label="pause",
            )
            for begin, end in self._pauses
            if begin < self.position
        ]
        return [*writes, *self._format.finish(marks=sorted(marks))]

    # -- what it says of itself ----------------------------------------------------------------------------------

    @property
    def frames(self) -> int:
        """Frames so far of the file that was asked for."""
        return self._format.frames if self._preview is None else self._frames(self._format.frames)

    @property
    def size_bytes(self) -> int:
        """Length of the file that the writes make."""
        return self._format.size_bytes

    @property
    def media_type(self) -> str:
        """Internet media type of the file that was asked for."""
        return FORMATS[self.action.format].media_type

    @property
    def duration_s(self) -> float:
        """Length in seconds, pauses included."""
        if self.started_at is None:
            return 0.0
        return (self.position - self.start_position) / self.leg.incoming.sample_rate

    def manifest(self, digits: list[tuple[Direction, Digit]]) -> dict[str, Any]:
        """What the manifest says of the audio; the call adds who, the destination where."""
        assert self.started_at is not None
        leg_rate = self.leg.incoming.sample_rate
        samples = self.position - self.start_position
        stereo = self.action.layout is Layout.STEREO
        tracks = [
            track_entry(
                self.leg,
                direction,
                channel=channel if stereo else 0,
                start_position=self.start_position,
                samples=samples,
                counts_before=self._counts_before[direction],
                counts_after=self._counts_after.get(direction),
                filled_before=self._filled_before.get(direction, (0, 0)),
            )
            for channel, direction in enumerate(self.directions)
        ]
        return {
            "tracks": tracks,
            "started_at": rfc3339(self.started_at),
            "duration": round(self.duration_s, 6),
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "frames": self.frames,
            "format": self.action.format,
            "layout": self.action.layout.value,
            "end_reason": str(self.end_reason),
            "degraded": degradation(tracks),
            "alignment_error_ms": max(
                round(self.leg.track(direction).alignment_error_ms, 3) for direction in self.directions
            ),
            "digits": [
                digit_entry(digit, direction, start_position=self.start_position, sample_rate=leg_rate)
                for direction, digit in self._own(digits)
            ],
            "pauses": [
                {
                    "from": round((begin - self.start_position) / leg_rate, 6),
                    "to": round((min(end, self.position) - self.start_position) / leg_rate, 6),
                }
                for begin, end in self._pauses
                if begin < self.position
            ],
        }

    def _own(self, digits: list[tuple[Direction, Digit]]) -> list[tuple[Direction, Digit]]:
        """The keys that fell into what is recorded, not into a pause."""
        return [
            (direction, digit)
            for direction, digit in digits
            if direction in self.directions
            and self.start_position <= digit.position < max(self.start_position + 1, self.position)
            and not any(begin - digit.duration_samples < digit.position < end for begin, end in self._pauses)
        ]

    def _samples(self, milliseconds: int) -> int:
        return milliseconds * self.leg.incoming.sample_rate // 1000

    def _frames(self, samples: int) -> int:
        return samples * self.sample_rate // self.leg.incoming.sample_rate


def _woven(channels: list[bytes]) -> bytes:
    """Frames of one or two channels."""
    return pcm.interleave(channels[0], channels[1]) if len(channels) == 2 else channels[0]
