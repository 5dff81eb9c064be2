"""One recording: the PCM of a leg's tracks in, the writes of a file out, and what the manifest says of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from callreel.actions import Layout
from callreel.formats import FORMATS, Format, Mark, Write
from callreel.kernels import pcm
from callreel.legs import Digit, Direction, Leg, Track

__all__ = ["LAYOUT_DIRECTIONS", "Recording", "rfc3339"]

MANIFEST_VERSION = 1

AUDIBLE_LOSS = 0.01
"""Share of a track's packets that may be lost before the recording counts as degraded: concealment hides single packets
of speech up to about here (ITU-T G.113 Appendix I: G.711 with concealment)."""

LAYOUT_DIRECTIONS: dict[Layout, tuple[Direction, ...]] = {
    Layout.STEREO: (Direction.INCOMING, Direction.OUTGOING),
    Layout.INCOMING: (Direction.INCOMING,),
    Layout.OUTGOING: (Direction.OUTGOING,),
    Layout.MIX: (Direction.INCOMING, Direction.OUTGOING),
}
"""The tracks a layout holds, in channel order."""


def rfc3339(moment: datetime) -> str:
    """Write a moment as the manifest does: UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Recording:
    """A recording in progress: `add` what the tracks hold, in order, then `finish`; both answer with writes."""

    def __init__(
        self,
        *,
        recording_id: str,
        leg: Leg,
        layout: Layout,
        format_name: str,
        key: str,
        start_position: int,
        started_at: datetime,
        sample_rate: int,
        tags: dict[str, str],
    ) -> None:
        """Begin at timeline position `start_position` of the leg, which is the moment `started_at`."""
        self.recording_id = recording_id
        self.leg = leg
        self.layout = layout
        self.format_name = format_name
        self.key = key
        self.start_position = start_position
        self.started_at = started_at
        self.sample_rate = sample_rate
        self.directions = LAYOUT_DIRECTIONS[layout]
        self.channels = 2 if layout is Layout.STEREO else 1
        self.frames = 0
        self._counts_before = {direction: leg.track(direction).counts for direction in self.directions}
        self._format: Format = FORMATS[format_name](
            sample_rate=sample_rate, channels=self.channels, tags=tags
        )

    def start(self) -> list[Write]:
        """The file's beginning."""
        return self._format.start()

    def add(self, incoming: bytes, outgoing: bytes) -> list[Write]:
        """Equally long pieces of the leg's two tracks; what the layout does not hold is left out."""
        self.frames += len(incoming) // 2
        match self.layout:
            case Layout.STEREO:
                audio = pcm.interleave(incoming, outgoing)
            case Layout.MIX:
                audio = pcm.mix((incoming, outgoing))
            case Layout.INCOMING:
                audio = incoming
            case Layout.OUTGOING:
                audio = outgoing
        return self._format.add(audio)

    def flush(self) -> list[Write]:
        """What makes the file so far valid."""
        return self._format.flush()

    def finish(self, digits: list[tuple[Direction, Digit]]) -> list[Write]:
        """The file's end, with marks for the digits that fell into it."""
        marks = [
            Mark(
                frame=digit.position - self.start_position,
                duration_frames=digit.duration_samples,
                label=f"{digit.symbol} {direction.value}",
            )
            for direction, digit in self._own(digits)
        ]
        return self._format.finish(marks=marks)

    def manifest(self, digits: list[tuple[Direction, Digit]], end_reason: str) -> dict[str, Any]:
        """What the manifest says of the audio; the call adds who, the destination where."""
        tracks = [self._track_entry(channel, direction) for channel, direction in enumerate(self.directions)]
        return {
            "tracks": tracks,
            "started_at": rfc3339(self.started_at),
            "duration": round(self.frames / self.sample_rate, 6),
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "frames": self.frames,
            "format": self.format_name,
            "layout": self.layout.value,
            "end_reason": end_reason,
            "degraded": self._degraded(tracks),
            "alignment_error_ms": max(
                round(self.leg.track(direction).alignment_error_ms, 3) for direction in self.directions
            ),
            "digits": [
                {
                    "symbol": digit.symbol,
                    "at": round((digit.position - self.start_position) / self.sample_rate, 6),
                    "duration": round(digit.duration_samples / self.sample_rate, 6),
                    "track": direction.value,
                    "source": digit.source.value,
                }
                for direction, digit in self._own(digits)
            ],
            "pauses": [],
        }

    def _own(self, digits: list[tuple[Direction, Digit]]) -> list[tuple[Direction, Digit]]:
        return [
            (direction, digit)
            for direction, digit in digits
            if direction in self.directions
            and 0 <= digit.position - self.start_position < max(1, self.frames)
        ]

    def _track_entry(self, channel: int, direction: Direction) -> dict[str, Any]:
        track = self.leg.track(direction)
        drift_ppm = track.drift_ppm
        return {
            "leg": self.leg.name,
            "direction": direction.value,
            "channel": channel if self.layout is Layout.STEREO else 0,
            "codec": self._audio_codec(track),
            "ssrc": list(track.ssrcs),
            "packets": self._packets(direction),
            "concealed_ms": self._milliseconds(track.concealed_samples),
            "silence_filled_ms": self._milliseconds(track.silence_samples),
            "drift_ppm": None if drift_ppm is None else round(drift_ppm, 2),
            "gaps": self._gaps(track),
        }

    def _packets(self, direction: Direction) -> dict[str, int]:
        """Packets by fate since the recording began; one that was missing then may have come later."""
        before = self._counts_before[direction]
        counts = self.leg.track(direction).counts
        return {fate: max(0, count - before[fate]) for fate, count in counts.items()}

    def _gaps(self, track: Track) -> list[dict[str, float]]:
        """Where audio of the track was lost, in seconds since the recording began."""
        found = []
        for position, samples in track.gaps:
            begin = max(0, position - self.start_position)
            end = min(self.frames, position + samples - self.start_position)
            if begin < end:
                found.append(
                    {
                        "from": round(begin / self.sample_rate, 6),
                        "to": round(end / self.sample_rate, 6),
                    }
                )
        return found

    @staticmethod
    def _audio_codec(track: Track) -> str | None:
        names = [name for name in track.heard_codecs if name not in ("CN", "telephone-event")]
        return "+".join(names) or None

    def _milliseconds(self, samples: int) -> float:
        return round(1000 * samples / self.sample_rate, 3)

    @staticmethod
    def _degraded(tracks: list[dict[str, Any]]) -> bool | dict[str, Any]:
        """What of the sent audio is missing from the recording, or False."""
        reasons: dict[str, Any] = {}
        for entry in tracks:
            packets = entry["packets"]
            expected = packets["received"] - packets["duplicate"] + packets["lost"]
            if packets["lost"] > AUDIBLE_LOSS * expected:
                reasons["lost_packets"] = reasons.get("lost_packets", 0) + packets["lost"]
            for fate in ("late", "undecoded", "discarded", "malformed"):
                if packets[fate]:
                    reasons[f"{fate}_packets"] = reasons.get(f"{fate}_packets", 0) + packets[fate]
        return reasons or False
