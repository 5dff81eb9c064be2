"""The waveform below the player: lanes alone, which stretch to any width, with what happened marked in them.

An SVG for an `<img>`: places along the time are shares of the width, so nothing of it depends on how wide it is shown,
and no letter is stretched. Its size is bounded whatever the length of the recording. What it shows is told in words
beside it, on the page. `callreel.waveform` draws the picture that stands for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

__all__ = ["COLUMNS", "draw_message", "draw_strip", "gaps_of", "height_of"]

COLUMNS: Final = 1000
"""Of the outline: the most a screen shows of it."""
LANE, HEAD, BETWEEN = 88, 24, 8
LABELS_MAX: Final = 200
LABEL_COLUMNS: Final = 20
"""The least distance of two symbols; of those that are nearer the first one is written."""
ZOOM_MAX: Final = 64.0

# Colours that can be seen on white and on black; letters follow the reader's setting.
STYLE: Final = (
    "text{font:600 12px system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif;fill:#3d4855}"
    ".lane{fill:#8794a3;fill-opacity:.1}.zero{stroke:#8794a3;stroke-opacity:.6}"
    ".c0{fill:#2f7fd1}.c1{fill:#1f9a72}.peak{fill-opacity:.4}"
    ".digit{fill:#8a5cf6}text.digit{fill:#6a35e0;text-anchor:middle;font-size:13px}"
    ".gap{fill:#dc3f4b;fill-opacity:.4}.pause{fill:#7b8794;fill-opacity:.35}"
    "@media(prefers-color-scheme:dark){text{fill:#c3ccd6}text.digit{fill:#bfa5ff}}"
)


class _Span(NamedTuple):
    """A stretch, in shares of the whole."""

    begin: float
    end: float


def height_of(channels: int) -> int:
    """How high the picture of so many channels is, in pixels."""
    return max(1, channels) * (HEAD + LANE + BETWEEN)


def gaps_of(manifest: Mapping[str, Any], channel: int | None = None) -> list[tuple[float, float]]:
    """The stretches whose audio was lost, of a channel or of all, in seconds from and to."""
    return sorted(
        (gap["from"], gap["to"])
        for track in manifest.get("tracks", ())
        if channel in (None, track["channel"])
        for gap in track.get("gaps", ())
    )


def draw_strip(outline: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Draw what `AudioReader.waveform` gives, with the marks of the manifest."""
    channels, duration_s = outline["channels"], float(outline["duration"])
    parts = [_open(height_of(len(channels)))]
    zoom = _zoom(channels)
    for lane, channel in enumerate(channels):
        top = lane * (HEAD + LANE + BETWEEN) + HEAD
        parts.append(f'<rect class="lane" y="{top}" width="100%" height="{LANE}" rx="4"/>')
        parts.append(
            f'<svg y="{top}" width="100%" height="{LANE}" viewBox="0 -1 1 2" preserveAspectRatio="none">'
        )
        peaks = _area(channel["high"], channel["low"], zoom)
        levels = _area(channel["rms"], [-value for value in channel["rms"]], zoom)
        parts.append(
            f'<path class="c{lane % 2} peak" d="{peaks}"/><path class="c{lane % 2}" d="{levels}"/></svg>'
        )
        parts.append(f'<path class="zero" d="M0 {top + LANE / 2}h100000"/>')
        parts += _bands("gap", _spans(gaps_of(manifest, lane), duration_s), top)
        pauses = [(pause["from"], pause["to"]) for pause in manifest.get("pauses", ())]
        parts += _bands("pause", _spans(pauses, duration_s), top)
        parts += _digits(manifest, lane, duration_s, top)
        parts.append(f'<text x="6" y="{top + LANE - 7}">{escape(str(channel["name"]))}</text>')
    parts.append("</svg>")
    return "".join(parts)


def draw_message(words: str) -> str:
    """A picture that says why there is none."""
    return f'{_open(height_of(1))}<text x="6" y="{HEAD + LANE // 2}">{escape(words)}</text></svg>'


def _open(height: int) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="{height}"><style>{STYLE}</style>'


def _zoom(channels: Sequence[Mapping[str, Any]]) -> float:
    """How much the quiet are enlarged: alike for all channels, so that they can be compared."""
    highest = max((abs(value) for one in channels for value in (*one["high"], *one["low"])), default=0.0)
    return min(ZOOM_MAX, 0.96 / highest) if highest else 1.0


def _area(upper: Sequence[float], lower: Sequence[float], zoom: float) -> str:
    if not upper:
        return ""
    step = 1 / len(upper)
    forth = [f"{_n((n + 0.5) * step)} {_n(-max(0.01, value * zoom))}" for n, value in enumerate(upper)]
    back = [f"{_n((n + 0.5) * step)} {_n(-min(-0.01, value * zoom))}" for n, value in enumerate(lower)]
    return "M" + "L".join(forth + back[::-1]) + "Z"


def _spans(stretches: Iterable[tuple[float, float]], duration_s: float) -> list[_Span]:
    """In order, each wide enough to be seen, those that touch as one."""
    spans: list[_Span] = []
    for begin_s, end_s in sorted(stretches):
        begin = _share(begin_s, duration_s)
        end = max(begin + 1 / COLUMNS, _share(end_s, duration_s))
        if spans and begin <= spans[-1].end:
            spans[-1] = _Span(spans[-1].begin, max(end, spans[-1].end))
        else:
            spans.append(_Span(begin, end))
    return spans


def _bands(kind: str, spans: Iterable[_Span], top: int) -> list[str]:
    return [
        f'<rect class="{kind}" x="{_n(100 * one.begin)}%" y="{top}" width="{_n(100 * (one.end - one.begin))}%"'
        f' height="{LANE}"/>'
        for one in spans
    ]


def _digits(manifest: Mapping[str, Any], lane: int, duration_s: float, top: int) -> list[str]:
    """A line for each key of this lane, and its symbol where there is room."""
    lanes = {track["direction"]: track["channel"] for track in manifest.get("tracks", ())}
    places: dict[int, str] = {}
    for digit in manifest.get("digits", ()):
        if lanes.get(digit["track"], 0) == lane:
            places.setdefault(round(COLUMNS * _share(digit["at"], duration_s)), str(digit["symbol"]))
    parts, free_from, labels = [], 0, 0
    for column, symbol in sorted(places.items()):
        x = f"{_n(100 * column / COLUMNS)}%"
        parts.append(f'<rect class="digit" x="{x}" y="{top - 4}" width="1.5" height="{LANE + 4}"/>')
        if column >= free_from and labels < LABELS_MAX:
            parts.append(f'<text class="digit" x="{x}" y="{top - 8}">{escape(symbol[:1])}</text>')
            free_from, labels = column + LABEL_COLUMNS, labels + 1
    return parts


def _share(at_s: float, duration_s: float) -> float:
    return min(1.0, max(0.0, at_s / duration_s)) if duration_s > 0 else 0.0


def _n(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") or "0"
