"""The picture of a recording: an SVG with a lane per channel, a time axis and everything that happened on it.

The picture stands for itself (no scripts, no fonts, no links), follows the reader's light or dark setting,
and has a bounded size whatever the length of the recording. Nothing here opens a file.

    ┌ title, format, call ──────────────────────────────┐
    │            5  #                            digits │
    │ incoming  ▁▃▅▃▁▂▃▁   ▒▒▒ lost    ▤▤▤ pause        │
    │ outgoing  ▁▁▃▅▃▁▁▁▃                               │
    │           0:00    0:10    0:20               time │
    └ legend ───────────────────────────────────────────┘
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from callreel.inspection import Channel, Envelope, Inspection
from callreel.manifest import SYMBOLS

__all__ = ["COLUMNS", "clock", "draw"]

COLUMNS = 1080
"""Width of the time axis in units of the picture, and the most columns an envelope needs."""

LEFT, RIGHT = 128, 32
TOP, CALL_HEIGHT = 68, 20
LANE_HEIGHT, STRIP_HEIGHT, LANE_GAP = 112, 24, 14
AXIS_HEIGHT, LEGEND_HEIGHT = 34, 40
WIDTH = LEFT + COLUMNS + RIGHT

MARKS_MAX = 1000
"""Digits drawn per lane; a line below the title says how many more there are."""

LABEL_WIDTH = 12.0
"""Room that a digit's symbol takes; one that has less is drawn as a line alone."""

TEXT_MAX = 110
"""Characters of a line of text, names of files among them."""

TICKS_MAX = 11
TICK_STEPS_S = (
    *(
        1e-5,
        2e-5,
        5e-5,
        1e-4,
        2e-4,
        5e-4,
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1,
        2,
        5,
        10,
        15,
        30,
    ),
    *(60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400),
)

OUTLINE_COLUMN_S = 0.01
"""The shortest column that has a level of its own: a period of the deepest voices."""

ZOOM_MAX = 64
"""The quietest recording that is still drawn at full height peaks 36 dB below full scale."""

# Each class has its colour for light and for dark surroundings.
COLOURS = {
    "bg": ("fill", "#ffffff", "#0d1117"),
    "lane": ("fill", "#f5f7fa", "#161c24"),
    "text": ("fill", "#1f2933", "#e6edf3"),
    "dim": ("fill", "#5a6775", "#9aa7b4"),
    "grid": ("stroke", "#dde3ea", "#27313d"),
    "zero": ("stroke", "#b8c2cc", "#3d4855"),
    "peak0": ("fill", "#9cc3ec", "#2f5f94"),
    "rms0": ("fill", "#2868b0", "#79b4f2"),
    "peak1": ("fill", "#96d3bf", "#226652"),
    "rms1": ("fill", "#17805f", "#62cfa9"),
    "edge0": ("stroke", "#2868b0", "#79b4f2"),
    "edge1": ("stroke", "#17805f", "#62cfa9"),
    "digit": ("fill", "#8a3ffc", "#be95ff"),
    "tone": ("fill", "#8a3ffc", "#be95ff"),
    "gap": ("fill", "#d92d3a", "#ff6b74"),
    "gap-hatch": ("stroke", "#d92d3a", "#ff6b74"),
    "pause": ("fill", "#8d99a6", "#7c8896"),
    "pause-hatch": ("stroke", "#8d99a6", "#7c8896"),
    "alarm": ("fill", "#b3202c", "#ff8b92"),
}
FIXED_STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-size:12px}"
    ".cr-title{font-size:17px;font-weight:600}.cr-name{font-size:13px;font-weight:600}"
    ".cr-digit{font-size:13px;font-weight:700}.cr-small{font-size:11px}"
    ".cr-tone{fill-opacity:.3}.cr-gap{fill-opacity:.22}.cr-pause{fill-opacity:.2}"
    ".cr-grid,.cr-zero,.cr-edge0,.cr-edge1{stroke-width:1;stroke-linejoin:round}.cr-gap-hatch,.cr-pause-hatch{stroke-width:1.5;stroke-opacity:.7}"
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A digit, or another point with a name; on every lane when `lane` is None."""

    lane: int | None
    at_s: float
    duration_s: float
    symbol: str
    detail: str


def draw(inspection: Inspection) -> str:
    """Draw a file that was inspected with `columns=COLUMNS`; what could not be measured is an empty lane."""
    return _Picture(inspection).svg()


def clock(seconds: float, *, milliseconds: bool = True) -> str:
    """Write a time as h:mm:ss.mmm, or without the thousandths."""
    total_ms = round(seconds * 1000)
    rest, ms = divmod(total_ms, 1000)
    text = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{text}.{ms:03}" if milliseconds else text


class _Picture:
    def __init__(self, inspection: Inspection) -> None:
        self._of = inspection
        self._seconds = inspection.duration_s
        self._names = [channel.name for channel in inspection.measured] or ["audio"]
        self._first = TOP + (CALL_HEIGHT if inspection.manifest is not None else 0)
        self._height = self._first + len(self._names) * self._pitch - LANE_GAP + AXIS_HEIGHT + LEGEND_HEIGHT
        self._zoom = self._choose_zoom()
        self._marks = self._collect_marks()
        self._legend: dict[str, str] = {}  # words -> class of the sample
        self._out: list[str] = []

    @property
    def _pitch(self) -> int:
        return STRIP_HEIGHT + LANE_HEIGHT + LANE_GAP

    def svg(self) -> str:
        title = f"Waveform of {self._of.path.name}"
        self._out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" width="{WIDTH}"'
            f' height="{self._height}" role="img" aria-labelledby="cr-t cr-d">',
            f'<title id="cr-t">{_text(title)}</title>',
            f'<desc id="cr-d">{_text(self._description(), 1000)}</desc>',
            f"<style>{FIXED_STYLE}{_style(1)}@media (prefers-color-scheme:dark){{{_style(2)}}}</style>",
            "<defs>",
            _hatch("cr-pause-lines", "cr-pause-hatch", 8),
            _hatch("cr-gap-lines", "cr-gap-hatch", 5),
            "</defs>",
            f'<rect class="cr-bg" width="{WIDTH}" height="{self._height}"/>',
        ]
        self._head()
        ticks = self._ticks()
        for lane in range(len(self._names)):
            self._lane(lane, ticks)
        self._pauses()
        for lane in range(len(self._names)):
            self._digits(lane)
        self._axis(ticks)
        self._foot()
        self._out.append("</svg>\n")
        return "\n".join(self._out)

    # -- what there is to show ---------------------------------------------------------------------------

    def _choose_zoom(self) -> int:
        outlines = [channel.envelope for channel in self._of.measured if channel.envelope is not None]
        highest = max((abs(value) for one in outlines for value in (*one.low, *one.high)), default=0.0)
        zoom = 1
        while highest and zoom < ZOOM_MAX and highest * zoom * 2 <= 1:
            zoom *= 2
        return zoom

    def _lane_of(self, direction: str) -> int | None:
        for lane, name in enumerate(self._names):
            if direction in name.split(" + "):
                return lane
        # The order of the channels in a stereo recording, also without its manifest.
        usual = {"incoming": 0, "outgoing": 1}.get(direction)
        return usual if usual is not None and len(self._names) == 2 else None

    def _collect_marks(self) -> list[_Mark]:
        """Digits as the manifest has them, else the marks in the file, else what was heard."""
        if self._of.manifest is not None:
            return [
                _Mark(
                    self._lane_of(digit["track"]),
                    digit["at"],
                    digit["duration"],
                    digit["symbol"],
                    f"{digit['track']}, {digit['source']}",
                )
                for digit in self._of.manifest["digits"]
            ]
        if self._of.wav is not None and self._of.wav.cues:
            return [self._mark_of_cue(cue.frame, cue.duration_frames, cue.label) for cue in self._of.wav.cues]
        return [
            _Mark(lane, digit.at_s, digit.duration_s, digit.symbol, f"heard, {digit.level_dbm0:.1f} dBm0")
            for lane, channel in enumerate(self._of.measured)
            for digit in channel.digits or ()
        ]

    def _mark_of_cue(self, frame: int, duration_frames: int, label: str) -> _Mark:
        """Labels of ours are `5 incoming`; any other text is a mark for all lanes."""
        symbol, _, direction = label.partition(" ")
        rate = self._of.sample_rate
        if len(symbol) == 1 and symbol in SYMBOLS and direction in ("", "incoming", "outgoing"):
            lane = self._lane_of(direction)
            return _Mark(
                lane, frame / rate, duration_frames / rate, symbol, f"{direction} mark in the file".strip()
            )
        return _Mark(None, frame / rate, duration_frames / rate, label[:20], "mark in the file")

    def _description(self) -> str:
        parts = [f"{clock(self._seconds)} of audio in {len(self._of.measured)} channels."]
        parts += [
            f"{channel.name}: {_level(channel.rms_dbm0)} dBm0 RMS, peak {_level(channel.peak_dbm0)} dBm0."
            for channel in self._of.measured
        ]
        if self._marks:
            parts.append(
                "Marks: " + ", ".join(f"{m.symbol} at {clock(m.at_s)}" for m in self._marks[:20]) + "."
            )
        if self._of.manifest is not None and self._of.manifest["pauses"]:
            parts.append(f"{len(self._of.manifest['pauses'])} pauses.")
        return " ".join(parts)

    # -- parts of the picture ----------------------------------------------------------------------------

    def _x(self, at_s: float) -> float:
        return LEFT + COLUMNS * min(1.0, max(0.0, at_s / self._seconds if self._seconds else 0.0))

    def _top(self, lane: int) -> int:
        return self._first + lane * self._pitch + STRIP_HEIGHT

    def _head(self) -> None:
        of = self._of
        facts = [
            "MP3" if of.format == "mp3" else f"WAV ({of.container})",
            of.encoding,
            f"{of.sample_rate} Hz",
            f"{of.channels} channel{'s' if of.channels != 1 else ''}",
            clock(self._seconds),
            f"amplitude × {self._zoom}" if self._zoom > 1 else "",
        ]
        self._write(24, 30, of.path.name, "cr-text cr-title")
        self._write(24, 50, " · ".join(filter(None, facts)), "cr-dim")
        if of.manifest is not None:
            call = [
                f"call {of.manifest['call_id']}",
                f"began {of.manifest['started_at']}",
                f"ended by {of.manifest['end_reason']}",
            ]
            self._write(24, 68, " · ".join(call), "cr-dim")
        troubles = []
        if of.manifest is not None and of.manifest["degraded"] is not False:
            troubles.append("degraded")
        if of.damage or of.manifest_problems:
            troubles.append("damaged")
        if troubles:
            self._write(WIDTH - RIGHT, 30, " and ".join(troubles), "cr-alarm cr-name", anchor="end")
        hidden = of.channels - len(of.measured)
        if of.measured and hidden > 0:
            self._write(WIDTH - RIGHT, 50, f"{hidden} more channels", "cr-dim", anchor="end")

    def _lane(self, lane: int, ticks: Sequence[float]) -> None:
        top, middle = self._top(lane), self._top(lane) + LANE_HEIGHT / 2
        self._out.append(
            f'<rect class="cr-lane" x="{LEFT}" y="{top}" width="{COLUMNS}" height="{LANE_HEIGHT}" rx="3"/>'
        )
        lines = "".join(f"M{_n(self._x(at))} {top}v{LANE_HEIGHT}" for at in ticks if 0 < at < self._seconds)
        if lines:
            self._out.append(f'<path class="cr-grid" d="{lines}"/>')
        self._out.append(f'<path class="cr-zero" d="M{LEFT} {_n(middle)}h{COLUMNS}"/>')
        self._write(24, middle - 12, self._names[lane], "cr-text cr-name", limit=15)
        if self._of.not_measured is not None:
            self._write(LEFT + COLUMNS / 2, middle - 8, self._of.not_measured, "cr-dim", anchor="middle")
        if lane >= len(self._of.measured):
            return
        channel = self._of.measured[lane]
        self._levels(lane, channel, middle)
        if channel.envelope is not None:
            self._outline(lane, channel.envelope, middle)
        self._gaps(lane)

    def _levels(self, lane: int, channel: Channel, middle: float) -> None:
        self._write(24, middle + 5, f"{_level(channel.rms_dbm0)} dBm0 RMS", "cr-dim cr-small")
        self._write(24, middle + 20, f"{_level(channel.peak_dbm0)} dBm0 peak", "cr-dim cr-small")
        if channel.clipped_samples:
            self._write(24, middle + 35, f"{channel.clipped_samples} clipped", "cr-alarm cr-small")

    def _outline(self, lane: int, envelope: Envelope, middle: float) -> None:
        colour = lane % 2
        scale = (LANE_HEIGHT / 2 - 2) * self._zoom
        columns = len(envelope.low)
        x = [LEFT + COLUMNS * (column + 0.5) / columns for column in range(columns)]
        if self._seconds < OUTLINE_COLUMN_S * columns:
            # Columns shorter than a period of speech: the waveform itself.
            upper = [middle - value * scale for value in envelope.high]
            lower = [middle - value * scale for value in envelope.low]
            style = f"cr-rms{colour} cr-edge{colour}"
            self._out.append(f'<path class="{style}" d="{_area(x, upper, lower)}"/>')
            return
        for name, high, low in (
            ("peak", envelope.high, envelope.low),
            ("rms", envelope.rms, [-value for value in envelope.rms]),
        ):
            # Silence is a line and not nothing.
            upper = [middle - max(0.5, value * scale) for value in high]
            lower = [middle - min(-0.5, value * scale) for value in low]
            self._out.append(f'<path class="cr-{name}{colour}" d="{_area(x, upper, lower)}"/>')
            self._legend.setdefault("peak" if name == "peak" else "RMS", f"cr-{name}{colour}")

    def _gaps(self, lane: int) -> None:
        manifest = self._of.manifest
        gaps = [
            (gap["from"], gap["to"])
            for track in (manifest["tracks"] if manifest is not None else ())
            if track["channel"] == lane
            for gap in track.get("gaps", ())
        ]
        for begin, end in self._bands(gaps):
            self._band("gap", begin, end, self._top(lane), LANE_HEIGHT, "lost or concealed audio")

    def _pauses(self) -> None:
        pauses = [(pause["from"], pause["to"]) for pause in (self._of.manifest or {"pauses": []})["pauses"]]
        for begin, end in self._bands(pauses):
            for lane in range(len(self._names)):
                self._band("pause", begin, end, self._top(lane), LANE_HEIGHT, "pause")
                if end - begin > 44:
                    middle = (begin + end) / 2
                    self._write(middle, self._top(lane) + 14, "pause", "cr-text cr-small", anchor="middle")

    def _bands(self, spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Spans as places in the picture, a unit wide at least, those that touch as one: at most COLUMNS."""
        bands: list[tuple[float, float]] = []
        for begin_s, end_s in sorted(spans):
            begin = math.floor(self._x(begin_s))
            end = max(begin + 1, math.ceil(self._x(end_s)))
            if bands and begin <= bands[-1][1]:
                bands[-1] = (bands[-1][0], max(end, bands[-1][1]))
            else:
                bands.append((begin, end))
        return bands

    def _band(self, kind: str, begin: float, end: float, top: float, height: float, words: str) -> None:
        place = f'x="{_n(begin)}" y="{_n(top)}" width="{_n(end - begin)}" height="{_n(height)}"'
        since = clock(self._seconds * (begin - LEFT) / COLUMNS)
        lasts = clock(self._seconds * (end - begin) / COLUMNS)
        self._out.append(
            f"<g><title>{words} from {since} for {lasts}</title>"
            f'<rect class="cr-{kind}" {place}/><rect fill="url(#cr-{kind}-lines)" {place}/></g>'
        )
        self._legend.setdefault(words, f"cr-{kind}")

    def _digits(self, lane: int) -> None:
        marks = [mark for mark in self._marks if mark.lane == lane or (mark.lane is None and lane == 0)]
        marks.sort(key=lambda mark: mark.at_s)
        top = self._top(lane)
        free_from = 0.0
        for mark in marks[:MARKS_MAX]:
            x = self._x(mark.at_s)
            height = LANE_HEIGHT
            if mark.lane is None:  # a line through all lanes
                height = self._top(len(self._names) - 1) + LANE_HEIGHT - top
            width = max(1.5, self._x(mark.at_s + mark.duration_s) - x)
            detail = (
                f"{mark.symbol} at {clock(mark.at_s)} for {round(1000 * mark.duration_s)} ms, {mark.detail}"
            )
            self._out.append(
                f'<g class="cr-mark"><title>{_text(detail)}</title>'
                f'<rect class="cr-tone" x="{_n(x)}" y="{top}" width="{_n(width)}" height="{height}"/>'
                f'<rect class="cr-digit" x="{_n(x)}" y="{top - 6}" width="1.5" height="{height + 6}"/>'
            )
            room = LABEL_WIDTH if len(mark.symbol) == 1 else 7.0 * len(mark.symbol)
            if x >= free_from:
                self._write(
                    x, top - 9, mark.symbol, "cr-digit", anchor="middle" if len(mark.symbol) == 1 else "start"
                )
                free_from = x + room
            self._out.append("</g>")
            self._legend.setdefault("mark" if mark.lane is None else "digit", "cr-digit")
        if len(marks) > MARKS_MAX:
            self._write(
                LEFT + COLUMNS,
                top - 9,
                f"{len(marks) - MARKS_MAX} more digits",
                "cr-alarm cr-small",
                anchor="end",
            )

    def _ticks(self) -> list[float]:
        if not self._seconds:
            return [0.0]
        step = next((step for step in TICK_STEPS_S if self._seconds / step <= TICKS_MAX), 0.0)
        if not step:
            step = 86400 * math.ceil(self._seconds / TICKS_MAX / 86400)
        return [number * step for number in range(math.floor(self._seconds / step + 1e-9) + 1)]

    def _axis(self, ticks: Sequence[float]) -> None:
        y = self._top(len(self._names) - 1) + LANE_HEIGHT
        self._out.append(
            f'<path class="cr-zero" d="{"".join(f"M{_n(self._x(at))} {y}v6" for at in ticks)}"/>'
        )
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        for at in ticks:
            if step < 1:
                label = f"{at:.{math.ceil(-math.log10(step) - 1e-9)}f} s"
            elif self._seconds < 60:
                label = f"{at:.0f} s"
            elif self._seconds < 3600:
                label = f"{int(at) // 60}:{int(at) % 60:02}"
            else:
                label = clock(at, milliseconds=False)
            self._write(self._x(at), y + 20, label, "cr-dim", anchor="middle")

    def _foot(self) -> None:
        x, y = float(LEFT), self._height - 18
        for words, sample in self._legend.items():
            swatch = f'x="{_n(x)}" y="{y - 10}" width="14" height="12" rx="2"'
            self._out.append(f'<rect class="{sample}" {swatch}/>')
            if sample in ("cr-gap", "cr-pause"):
                self._out.append(f'<rect fill="url(#{sample}-lines)" {swatch}/>')
            self._write(x + 20, y, words, "cr-dim")
            x += 20 + 6.3 * len(words) + 18

    def _write(
        self, x: float, y: float, words: str, style: str, *, anchor: str = "start", limit: int = TEXT_MAX
    ) -> None:
        place = f'x="{_n(x)}" y="{_n(y)}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
        self._out.append(f'<text class="{style}" {place}>{_text(words, limit)}</text>')


# Everything XML 1.0 has no character for.
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(words: str, limit: int = TEXT_MAX) -> str:
    """Text as XML takes it: bounded, escaped, without the characters that XML does not have."""
    if len(words) > limit:
        words = words[: limit - 1] + "…"
    return escape(_NOT_XML.sub("\ufffd", words), {'"': "&quot;"})


def _n(value: float) -> str:
    """A number with at most one decimal place."""
    return f"{value:.1f}".removesuffix(".0")


def _level(dbm0: float) -> str:
    return "-∞" if dbm0 == -math.inf else f"{dbm0:z.1f}"


def _area(x: Sequence[float], upper: Sequence[float], lower: Sequence[float]) -> str:
    """A closed path: along the upper edge, back along the lower one."""
    there = [f"{_n(at)} {_n(y)}" for at, y in zip(x, upper, strict=True)]
    back = [f"{_n(at)} {_n(y)}" for at, y in zip(reversed(x), reversed(lower), strict=True)]
    return "M" + "L".join((*there, *back)) + "Z"


def _style(scheme: int) -> str:
    return "".join(f".cr-{name}{{{colour[0]}:{colour[scheme]}}}" for name, colour in COLOURS.items())


def _hatch(name: str, style: str, size: int) -> str:
    return (
        f'<pattern id="{name}" width="{size}" height="{size}" patternUnits="userSpaceOnUse"'
        f' patternTransform="rotate(45)"><path class="{style}" d="M0 0v{size}"/></pattern>'
    )
