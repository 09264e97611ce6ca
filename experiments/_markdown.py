"""Tables of the page of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [list(head), rule, *map(list, lines)])


def number(metric: dict[str, Any] | None, bold: bool = False) -> str:
    """Mean and standard deviation over the seeds; nothing for a metric that a row lacks."""
    if metric is None:
        return ""
    mark = "**" if bold else ""
    return f"{mark}{metric['mean']:.4f}{mark}" + (f" ± {metric['sd']:.4f}" if metric["sd"] is not None else "")
