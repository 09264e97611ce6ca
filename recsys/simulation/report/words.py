"""Numbers as people read them."""

from __future__ import annotations

import math

from recsys.simulation.comparison.looks import Lift


def percent(value: float, signed: bool = False) -> str:
    """A share with two digits that say something.

    Example:
        >>> percent(0.26007, signed=True), percent(0.0412), percent(float("inf"))
        ('+26 %', '4.1 %', 'unknown')
    """
    if not math.isfinite(value):
        return "unknown"
    shown = round(100 * value, 2)
    if not shown:
        return "0 %"
    digits = 0 if abs(shown) >= 9.95 else 1 if abs(shown) >= 0.05 else 2
    return f"{shown:{'+' if signed else ''}.{digits}f} %".replace("-", "\u2212")


def between(lift: Lift) -> str:
    """The ends of an interval, in a sentence.

    Example:
        >>> between(Lift(0.26, 0.12, 0.42))
        '+12 % and +42 %'
    """
    return f"{end(lift.low)} and {end(lift.high)}"


def span(lift: Lift) -> str:
    """The ends of an interval, in a table."""
    return f"{end(lift.low)} to {end(lift.high)}"


def end(value: float) -> str:
    """One end of an interval of a lift; far ones are not worth a number."""
    if not math.isfinite(value) or value > 9.99:
        return "any loss" if value < 0 else "any gain"
    return percent(value, signed=True)


def number(value: float, digits: int = 3) -> str:
    """A number with so many digits that say something, thousands apart.

    Example:
        >>> number(0.62619), number(12345.6), number(0.0001234)
        ('0.626', '12,346', '0.000123')
        >>> number(0.62619, digits=2)
        '0.63'
    """
    if not math.isfinite(value):
        return "unknown"
    if not value:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace("-", "\u2212")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 8)}f}".replace("-", "\u2212")


def days(count: int | None) -> str:
    """How long.

    Example:
        >>> days(1), days(12)
        ('1 day', '12 days')
    """
    if count is None:
        return "more users than come in a year"
    return "1 day" if count == 1 else f"{count} days"


def chance(p: float) -> str:
    """A small chance.

    Example:
        >>> chance(0.00001), chance(0.25)
        ('below 0.001', '0.25')
    """
    return "below 0.001" if p < 0.001 else f"{p:.2g}"
