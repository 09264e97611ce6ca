"""The table that people read: models by metrics, with intervals, best in bold."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from recsys.evaluation.intervals import Comparison
from recsys.evaluation.result import Evaluation, EvaluationError

_SAME = ("rule", "split_hash", "part", "filter_seen", "cold_targets")


def results_table(
    evaluations: Sequence[Evaluation], metrics: Sequence[str] = ("HR@10", "NDCG@10", "Coverage@10"), level: float = 0.95
) -> Table:
    """A `rich` table of several models on one part of one split, in the order given.

    Per-user metrics carry half the width of their bootstrap interval; metrics of all lists have none. The best value
    of a metric is bold (the highest: name metrics for which more is better).

    Raises:
        EvaluationError: the evaluations are none, differ in split or rules, or lack a metric.
    """
    if not evaluations:
        raise EvaluationError("no evaluation to print")
    first = evaluations[0]
    means = [evaluation.means() for evaluation in evaluations]
    for evaluation, values in zip(evaluations, means, strict=True):
        differing = [fact for fact in _SAME if evaluation.facts[fact] != first.facts[fact]]
        if differing:
            raise EvaluationError(f"`{first.model}` and `{evaluation.model}` differ in {', '.join(differing)}")
        missing = [metric for metric in metrics if metric not in values]
        if missing:
            raise EvaluationError(f"`{evaluation.model}` has no {', '.join(missing)}; it has {', '.join(values)}")
    table = Table(title=protocol(first), title_justify="left", title_style="", caption_justify="left")
    table.caption = f"± half of the {level:.0%} bootstrap interval over users; best in bold"
    table.add_column("model")
    for metric in metrics:
        table.add_column(metric, justify="right")
    table.add_column("users/s", justify="right")
    best = {metric: max(values[metric] for values in means) for metric in metrics}
    for evaluation, values in zip(evaluations, means, strict=True):
        intervals = evaluation.summary(level=level) if evaluation.facts["judged_users"] else {}
        cells = [Text(evaluation.model)]
        for metric in metrics:
            cell = Text(f"{values[metric]:.4f}", style="bold" if values[metric] == best[metric] else "")
            if metric in intervals:
                cell.append(f" ±{(intervals[metric].high - intervals[metric].low) / 2:.4f}", style="dim not bold")
            cells.append(cell)
        table.add_row(*cells, f"{evaluation.facts['users_per_s']:,.0f}")
    return table


def comparison_table(first: str, second: str, comparisons: dict[str, Comparison]) -> Table:
    """A `rich` table of a paired comparison, a difference being `second - first`."""
    table = Table(title=f"{second} against {first}, paired over users", title_justify="left", title_style="")
    for column in ("metric", first, second, "difference", "interval", "p"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric, found in comparisons.items():
        difference = found.difference
        style = "bold" if difference.low > 0 or difference.high < 0 else ""
        table.add_row(
            metric,
            f"{found.first:.4f}",
            f"{found.second:.4f}",
            Text(f"{difference.mean:+.4f}", style=style),
            f"{difference.low:+.4f} .. {difference.high:+.4f}",
            f"{found.p_value:.4f}",
        )
    return table


def protocol(evaluation: Evaluation) -> str:
    """One line on how the numbers came about."""
    facts = evaluation.facts
    seen = "seen items filtered" if facts["filter_seen"] else "seen items not filtered"
    cold = "left out" if facts["cold_targets"] == "exclude" else "counted as misses"
    return (
        f"{facts['rule']}, {facts['part']}: {facts['judged_users']:,} users, {facts['targets']:,} targets, "
        f"all {facts['n_items']:,} items ranked, {seen}; {facts['cold_item_targets']:,} cold targets {cold}, "
        f"{facts['cold_users']:,} cold users apart"
    )
