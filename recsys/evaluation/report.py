"""The table that people read: models by metrics, with intervals, best in bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from recsys.evaluation.intervals import Comparison
from recsys.evaluation.result import Evaluation, EvaluationError, differing


def results_table(
    evaluations: Sequence[Evaluation], metrics: Sequence[str] = ("HR@10", "NDCG@10", "Coverage@10"), level: float = 0.95
) -> Table:
    """A `rich` table of several models on one part of one split, in the order given.

    Metrics of requests carry half the width of their bootstrap interval; metrics of all lists have none. The best value
    of a metric is bold (the highest: name metrics for which more is better).

    Raises:
        EvaluationError: the evaluations are none, differ in split or rules, or lack a metric.
    """
    if not evaluations:
        raise EvaluationError("no evaluation to print")
    first = evaluations[0]
    means = [evaluation.means() for evaluation in evaluations]
    for evaluation, values in zip(evaluations, means, strict=True):
        if other := differing(first, evaluation):
            raise EvaluationError(f"`{first.model}` and `{evaluation.model}` differ in {', '.join(other)}")
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


def by_rules(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Evaluations whose numbers may stand side by side together, groups and members in the order given."""
    groups: list[list[Evaluation]] = []
    for evaluation in evaluations:
        same = next((group for group in groups if not differing(group[0], evaluation)), None)
        if same is None:
            groups.append([evaluation])
        else:
            same.append(evaluation)
    return groups


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


def slice_table(slices: Mapping[str, pd.DataFrame], metric: str) -> Table:
    """A `rich` table of a metric in slices: one row a slice, one column a model, best in bold.

    Args:
        slices: model name -> a frame of `recsys.evaluation.slices`, all of them over the same slices.
        metric: what the values are, for the title.

    Raises:
        EvaluationError: there is no model, or the models have different slices.
    """
    if not slices:
        raise EvaluationError("no slices to print")
    # Name, number, value and both ends: the frames call number and value by what they are.
    columns = {model: list(frame.itertuples(index=False, name=None)) for model, frame in slices.items()}
    heads = {model: [row[:2] for row in rows] for model, rows in columns.items()}
    first = next(iter(slices))
    for model, head in heads.items():
        if head != heads[first]:
            raise EvaluationError(f"`{first}` and `{model}` have different slices")
    table = Table(title=metric, title_justify="left", title_style="", caption_justify="left")
    table.caption = "± half of the interval; best in bold"
    table.add_column("slice")
    for name in (slices[first].columns[1], *slices):
        table.add_column(name, justify="right")
    for (name, number), *cells in zip(heads[first], *columns.values(), strict=True):
        best = max(value for _, _, value, _, _ in cells)
        row = [Text(str(name)), Text(f"{number:,}")]
        for _, _, value, low, high in cells:
            cell = Text(f"{value:.4f}", style="bold" if value == best else "")
            row.append(cell.append(f" ±{(high - low) / 2:.4f}", style="dim not bold"))
        table.add_row(*row)
    return table


def protocol(evaluation: Evaluation) -> str:
    """One line on how the numbers came about."""
    facts = evaluation.facts
    who = f"{facts['judged_users']:,} users"
    if facts.get("task") is not None:
        who = f"{facts['task']}, {facts['judged_requests']:,} requests of {who}"
    what = f"all {facts['n_items']:,} items ranked"
    if facts.get("negatives") is not None:
        what = f"1 item to be found among {facts['negatives']:,} drawn from {facts['n_items']:,} (sampled metrics)"
    elif facts.get("rerank") is not None:
        what += f", the best {facts['rerank']:,} reranked"
    seen = "seen items filtered" if facts["filter_seen"] else "seen items not filtered"
    cold = "left out" if facts["cold_targets"] == "exclude" else "counted as misses"
    return (
        f"{facts['rule']}, {facts['part']}: {who}, {facts['targets']:,} targets, {what}, {seen}; "
        f"{facts['cold_item_targets']:,} cold targets {cold}, {facts['cold_users']:,} cold users apart"
    )
