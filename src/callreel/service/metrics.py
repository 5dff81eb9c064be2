"""Figures in the text format 0.0.4 of Prometheus.

Written by hand, and not by `prometheus_client`: nearly all figures are kept elsewhere and only read when they are asked
for, so that its counters and its registry would be passed over; and families that are plain data can be handed from a
worker process to another. The format is a page long, and its tests read it with that package's parser.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, Final, Literal, NamedTuple

__all__ = ["CONTENT_TYPE", "Family", "Histogram", "Sample", "histogram", "of_workers", "one", "text_of"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
NO_LABELS: Final[Labels] = {}


class Sample(NamedTuple):
    """A value of a family."""

    labels: Labels
    value: float
    suffix: str = ""
    """Behind the family's name: "_bucket", "_sum" and "_count" of a histogram."""


class Family(NamedTuple):
    """All values of one name. That of a counter ends in `_total`; units are base units."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    words: str
    samples: list[Sample]


class Histogram:
    """Counts values by bounds and labels; any thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` go up; what lies beyond the last one is counted too."""
        self.bounds = tuple(bounds)
        self._found: dict[tuple[tuple[str, str], ...], tuple[list[int], list[float]]] = {}
        self._lock = Lock()

    def add(self, value: float, **labels: str) -> None:
        """Count a value."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts, total = self._found.setdefault(key, ([0] * (len(self.bounds) + 1), [0.0]))
            counts[bisect_left(self.bounds, value)] += 1
            total[0] += value

    def samples(self) -> list[Sample]:
        """What has been counted."""
        with self._lock:
            found = {key: (list(counts), total[0]) for key, (counts, total) in self._found.items()}
        return [
            sample
            for key, (counts, total) in found.items()
            for sample in histogram(self.bounds, counts, total, dict(key))
        ]


def histogram(
    bounds: Sequence[float], counts: Sequence[int], total: float, labels: Labels = NO_LABELS
) -> Iterable[Sample]:
    """The samples of a histogram: `counts` of each bound, and of what lies beyond the last."""
    so_far = 0
    for bound, count in zip((*bounds, math.inf), counts, strict=True):
        so_far += count
        yield Sample({**labels, "le": _number(bound)}, so_far, "_bucket")
    yield Sample(labels, total, "_sum")
    yield Sample(labels, so_far, "_count")


def one(value: float, **labels: str) -> list[Sample]:
    """The only sample of a family."""
    return [Sample(labels, value)]


def of_workers(found: Sequence[Iterable[Sequence[Any]] | None]) -> list[Family]:
    """The families of several workers in one, each sample with the label of its worker; None: one has not answered.

    A family, and a sample in it, is what the classes here are, or the same from JSON.
    """
    together: dict[str, Family] = {}
    up: list[Sample] = []
    for index, families in enumerate(found):
        worker = {"worker": str(index)}
        up.append(Sample(worker, families is not None))
        for name, kind, words, samples in families or ():
            family = together.setdefault(name, Family(name, kind, words, samples=[]))
            for labels, value, suffix in samples:
                family.samples.append(Sample({**labels, **worker}, value, suffix))
    words = "1 for a worker that has told its figures, 0 for one that has not."
    return [Family("callreel_worker_up", "gauge", words, up), *together.values()]


def text_of(families: Iterable[Family]) -> str:
    """What is answered to a scraper."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escaped(family.words)}\n# TYPE {family.name} {family.kind}\n")
        for labels, value, suffix in family.samples:
            inner = ",".join(f'{name}="{_escaped(text, quoted=True)}"' for name, text in labels.items())
            lines.append(f"{family.name}{suffix}{'{' + inner + '}' if inner else ''} {_number(value)}\n")
    return "".join(lines)


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    # What UTF-8 cannot hold would make all of the answer unreadable.
    text = text.encode("utf-8", "replace").decode()
    return text.replace('"', r"\"") if quoted else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
