"""Charts as SVG, in the colours of the page that they stand in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal
from uuid import NAMESPACE_URL, uuid5

from recsys.documents.document import clipped

Colour = Literal["mark", "other", "quiet"]
_WIDTH, _RIGHT, _TOP, _BOTTOM = 760, 24, 36, 46
_ROW, _NAME = 34, 30
_CHARACTER = 7.2
"""Units that a character of a label takes."""


@dataclass(frozen=True)
class Band:
    """An estimate over time between two ends.

    Attributes:
        name: in the legend.
        middle: `T` values; empty: the ends alone.
        low: `T` lower ends; not finite where nothing is known.
        high: `T` upper ends.
        colour: of line and band.
        filled: whether the band is; else its ends are dashed lines.
    """

    name: str
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: Colour = "mark"
    filled: bool = True


@dataclass(frozen=True)
class Interval:
    """An estimate between two ends.

    Attributes:
        name: of its row.
        value: the estimate.
        low: lower end; cut at the edge of the chart where it is far away or not finite.
        high: upper end.
        said: the numbers, as they are written in the row.
        colour: of the row.
    """

    name: str
    value: float
    low: float
    high: float
    said: str
    colour: Colour = "mark"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from the last one at or below `low` to the first one at or above `high`.

    Example:
        >>> ticks(-0.03, 0.21)
        [-0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25]
    """
    rough = max(high - low, 1e-12) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(number * step, digits) + 0.0 for number in range(first, last + 1)]


def band_chart(
    title: str,
    description: str,
    x: Sequence[float],
    bands: Sequence[Band],
    *,
    x_name: str,
    y_name: str,
    number: Callable[[float], str],
) -> str:
    """Estimates over time with their intervals, and a line at zero.

    Args:
        title: for those who cannot see the chart.
        description: what it says, in a sentence.
        x: `T` ascending places.
        bands: drawn in this order.
        x_name: of the axis.
        y_name: likewise.
        number: writes a value of the axis `y`.
    """
    height, left = 330, 66
    marks = ticks(*_reach(_shown(bands)))
    bottom = height - _BOTTOM
    across = _scale(x[0], x[-1], left, _WIDTH - _RIGHT)
    up = _scale(marks[0], marks[-1], bottom, _TOP)
    parts = [_text(left, 14, y_name, "axis")]
    for mark in marks:
        zero = abs(mark) < 1e-12
        parts.append(_line(left, up(mark), _WIDTH - _RIGHT, up(mark), "zero" if zero else "grid"))
        parts.append(_text(left - 8, up(mark) + 4, number(mark), "axis", "end"))
    for place in _some(x):
        parts.append(_text(across(place), bottom + 18, f"{place:g}", "axis", "middle"))
    parts.append(_text((left + _WIDTH - _RIGHT) / 2, height - 8, x_name, "axis", "middle"))
    for band in bands:
        low = [up(_cut(value, marks)) for value in band.low]
        high = [up(_cut(value, marks)) for value in band.high]
        places = [across(place) for place in x]
        if band.filled:
            around = [*zip(places, high, strict=True), *reversed(list(zip(places, low, strict=True)))]
            parts.append(f'<polygon class="{band.colour} band" points="{_points(around)}"/>')
        else:
            parts += [
                f'<polyline class="{band.colour} line dashed" points="{_points(zip(places, edge, strict=True))}"/>'
                for edge in (low, high)
            ]
        if len(band.middle):
            line = zip(places, [up(_cut(value, marks)) for value in band.middle], strict=True)
            parts.append(f'<polyline class="{band.colour} line" points="{_points(line)}"/>')
    parts.append(_legend(bands))
    return _svg(title, description, height, parts)


def interval_chart(
    title: str,
    description: str,
    rows: Sequence[Interval],
    *,
    x_name: str,
    number: Callable[[float], str],
    limit: float | None = None,
    limit_name: str = "",
) -> str:
    """Estimates with their intervals, one in a row, and a line at zero.

    Args:
        title: for those who cannot see the chart.
        description: what it says, in a sentence.
        rows: from the top.
        x_name: of the axis.
        number: writes a value of it.
        limit: where a dashed line stands; None: nowhere.
        limit_name: of that line.
    """
    names = [clipped(row.name, _NAME) for row in rows]
    left = 16 + _CHARACTER * max(len(name) for name in names)
    right = _WIDTH - 16 - _CHARACTER * max(len(row.said) for row in rows)
    marks = ticks(*_reach([0.0, *(row.value for row in rows), *_spread(rows), *([] if limit is None else [limit])]), 5)
    across = _scale(marks[0], marks[-1], left + 12, right - 12)
    top = _TOP if limit is not None else 16
    bottom = top + _ROW * len(rows)
    parts = []
    for mark in marks:
        parts.append(_line(across(mark), top, across(mark), bottom, "zero" if abs(mark) < 1e-12 else "grid"))
        parts.append(_text(across(mark), bottom + 18, number(mark), "axis", "middle"))
    parts.append(_text((left + right) / 2, bottom + 40, x_name, "axis", "middle"))
    if limit is not None:
        parts.append(_line(across(limit), top - 6, across(limit), bottom, "other line dashed"))
        parts.append(_text(across(limit), top - 12, limit_name, "axis", "middle"))
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = top + _ROW * (place + 0.5)
        low, high, value = (across(_cut(end, marks)) for end in (row.low, row.high, row.value))
        parts.append(_text(left, y + 4, name, "", "end"))
        parts.append(_line(low, y, high, y, f"{row.colour} line"))
        parts.append(f'<circle class="{row.colour}" cx="{value:.1f}" cy="{y:.1f}" r="5"/>')
        parts.append(_text(right + 6, y + 4, row.said, ""))
    return _svg(title, description, bottom + 50, parts)


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    name = f"chart-{uuid5(NAMESPACE_URL, title + description + ''.join(parts)).hex[:12]}"
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-labelledby="{name}-title {name}-desc">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(description)}</desc>\n'
        f"{inside}\n</svg>\n"
    )


def _legend(bands: Sequence[Band]) -> str:
    parts, x = [], float(_WIDTH - _RIGHT)
    for band in reversed(bands):
        x -= _CHARACTER * len(band.name)
        parts.append(_text(x, 14, band.name, ""))
        kind = "line" if band.filled else "line dashed"
        parts.append(_line(x - 30, 10, x - 8, 10, f"{band.colour} {kind}"))
        x -= 48
    return "\n".join(parts)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    class_name = f' class="{kind}"' if kind else ""
    return f'<text{class_name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _points(places: object) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)  # type: ignore[attr-defined]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _cut(value: float, marks: Sequence[float]) -> float:
    return min(max(value, marks[0]), marks[-1]) if not math.isnan(value) else marks[0]


def _reach(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _shown(bands: Sequence[Band]) -> list[float]:
    """What the chart must reach: all of its second half, and half as much again of what is further off at first."""
    later = [v for band in bands for row in (band.middle, band.low, band.high) for v in row[len(row) // 2 :]]
    most = 1.5 * max((abs(value) for value in later if math.isfinite(value)), default=0.0)
    every = [value for band in bands for row in (band.middle, band.low, band.high) for value in row]
    return [0.0, *(min(max(value, -most), most) for value in every if not math.isnan(value))]


def _spread(rows: Sequence[Interval]) -> list[float]:
    """Ends that the chart must show; those three times as far from zero as all estimates are cut."""
    most = 3 * max(max(abs(row.value) for row in rows), 0.01)
    return [min(max(end, -most), most) for row in rows for end in (row.low, row.high)]


def _some(x: Sequence[float], most: int = 15) -> list[float]:
    step = max(1, math.ceil(len(x) / most))
    return [*x[::step]]
