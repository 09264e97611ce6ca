"""Charts of lifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsys.documents.charts import Band, Interval, band_chart, interval_chart
from recsys.documents.document import Drawing
from recsys.simulation.comparison.looks import Lift, Look
from recsys.simulation.report.words import between, percent, span


def lift_over_days(looks: Sequence[Look], goal: str) -> Drawing | None:
    """The lift day by day, with intervals that hold on all days and on one; None: too few days are known.

    Args:
        looks: a day each.
        goal: the metric.
    """
    known = [look for look in looks if look.fixed.value == look.fixed.value]
    if len(known) < 2:
        return None
    last = known[-1]
    title = f"Lift in {goal} per visit, day by day"
    description = (
        f"On day {last.day} the lift is {percent(last.fixed.value, signed=True)}; {between(last.anytime)} whoever "
        f"looked before, {between(last.fixed)} for who looks on this day alone."
    )
    svg = band_chart(
        title,
        description,
        [look.day for look in known],
        [
            Band(
                "safe to read every day",
                [look.fixed.value for look in known],
                [look.anytime.low for look in known],
                [look.anytime.high for look in known],
            ),
            Band(
                "naive daily look",
                [],
                [look.fixed.low for look in known],
                [look.fixed.high for look in known],
                "other",
                filled=False,
            ),
        ],
        x_name="day of the experiment",
        y_name="lift",
        number=lambda value: percent(value, signed=True),
    )
    return Drawing(title, svg)


def lifts(title: str, rows: Mapping[str, Lift], limit: float | None = None, limit_name: str = "") -> Drawing:
    """Several lifts below each other.

    Args:
        title: what they are.
        rows: by name.
        limit: that must not be crossed; None: there is none.
        limit_name: what it is.
    """
    said = [f"{name}: {percent(lift.value, signed=True)} ({span(lift)})" for name, lift in rows.items()]
    intervals = [
        Interval(
            name,
            lift.value,
            lift.low,
            lift.high,
            f"{percent(lift.value, signed=True)} ({span(lift)})",
            "mark" if lift.low > 0 else "other" if lift.high < 0 else "quiet",
        )
        for name, lift in rows.items()
    ]
    svg = interval_chart(
        title,
        "; ".join(said),
        intervals,
        x_name="lift",
        number=lambda value: percent(value, signed=True),
        limit=limit,
        limit_name=limit_name,
    )
    return Drawing(title, svg)
