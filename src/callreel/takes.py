"""What a finished recording says of itself: the manifest, apart from what only a stored file can tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from callreel.legs import Digit, Direction, Leg, Track

__all__ = ["MANIFEST_VERSION", "degradation", "digit_entry", "rfc3339", "track_entry"]

MANIFEST_VERSION = 1

AUDIBLE_LOSS = 0.01
"""Share of a track's packets that may be lost before the recording counts as degraded: concealment hides single packets
of speech up to about here (ITU-T G.113 Appendix I: G.711 with concealment)."""


def rfc3339(moment: datetime) -> str:
    """Write a moment as the manifest does: UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def track_entry(
    leg: Leg,
    direction: Direction,
    *,
    channel: int,
    start_position: int,
    samples: int,
    counts_before: dict[str, int],
    counts_after: dict[str, int] | None = None,
    filled_before: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """One track of a recording of `samples` from `start_position` on; positions are the leg's.

    `counts_before` and `counts_after` are the track's packets at the moments of its beginning and its end, which is now
    when None; `filled_before` the samples concealed and filled with silence before its first one.
    """
    track = leg.track(direction)
    drift_ppm = track.drift_ppm
    return {
        "leg": leg.name,
        "direction": direction.value,
        "channel": channel,
        "codec": _audio_codec(track),
        "ssrc": list(track.ssrcs),
        "packets": _packets(counts_before, track.counts if counts_after is None else counts_after),
        "concealed_ms": _milliseconds(track, track.concealed_samples - filled_before[0]),
        "silence_filled_ms": _milliseconds(track, track.silence_samples - filled_before[1]),
        "drift_ppm": None if drift_ppm is None else round(drift_ppm, 2),
        "gaps": _gaps(track, start_position, samples),
    }


def _packets(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Packets by fate while it was recorded; one that was missing at the beginning may have come later."""
    return {fate: max(0, count - before[fate]) for fate, count in after.items()}


def _gaps(track: Track, start_position: int, samples: int) -> list[dict[str, float]]:
    """Where audio of the track was lost, in seconds since the recording began."""
    found = []
    for position, lost_samples in track.gaps:
        begin = max(0, position - start_position)
        end = min(samples, position + lost_samples - start_position)
        if begin < end:
            found.append(
                {"from": round(begin / track.sample_rate, 6), "to": round(end / track.sample_rate, 6)}
            )
    return found


def _audio_codec(track: Track) -> str | None:
    names = [name for name in track.heard_codecs if name not in ("CN", "telephone-event")]
    return "+".join(names) or None


def _milliseconds(track: Track, samples: int) -> float:
    return round(1000 * samples / track.sample_rate, 3)


def digit_entry(
    digit: Digit, direction: Direction, *, start_position: int, sample_rate: int
) -> dict[str, Any]:
    """One key of a recording that began at `start_position` of a leg at `sample_rate`."""
    return {
        "symbol": digit.symbol,
        "at": round((digit.position - start_position) / sample_rate, 6),
        "duration": round(digit.duration_samples / sample_rate, 6),
        "track": direction.value,
        "source": digit.source.value,
    }


def degradation(tracks: Sequence[dict[str, Any]]) -> bool | dict[str, Any]:
    """What of the sent audio is missing from a recording of these tracks, or False."""
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
