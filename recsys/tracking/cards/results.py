"""Sections on how good a model is: results beside baselines, and what its lists show of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.documents.document import (
    LEAST,
    Block,
    Code,
    Line,
    Paragraph,
    Picture,
    Points,
    Section,
    Strong,
    Table,
    Words,
    clipped,
)
from recsys.evaluation.intervals import Comparison, Interval
from recsys.evaluation.report import protocol
from recsys.tracking.cards.judged import KINDS, Group, Judged


def protocol_section(groups: Sequence[Group], part: str) -> Section:
    """How the numbers came about.

    Args:
        groups: of the run.
        part: said where there are none.
    """
    if not groups:
        return Section("Protocol", (Paragraph((part,)),))
    sentences: list[Line] = [(protocol(group.all[0].evaluation) + ".",) for group in groups]
    return Section("Protocol", (Points((*sentences, ("Intervals are bootstrapped over users, differences paired.",))),))


def results_section(groups: Sequence[Group], pictures: Sequence[Picture]) -> Section:
    """The models beside each other, and the trained one against the best baseline.

    Args:
        groups: at least one.
        pictures: of the results.
    """
    against = Points(tuple(line for group in groups for line in _against_best(group)))
    metrics = " and ".join(dict.fromkeys(group.metric for group in groups))
    lead = Paragraph((f"Differences to the best baseline in {metrics}:",))
    tables = tuple(_table(group) for group in groups)
    details: list[Block] = [*pictures]
    for group in groups:
        details += [_differences(group)] if group.differences else []
        details += [_all_metrics(group, own) for own in group.own]
    return Section("Results", (lead, against, *tables), tuple(details), rank=0)


def coverage_section(groups: Sequence[Group]) -> Section:
    """What the lists show of the catalogue."""
    lines: list[Line] = []
    for group in groups:
        for own in group.own:
            share = own.means.get(f"Coverage@{group.k}")
            groups_shown = ", ".join(
                f"{name.lower()} {own.means[f'{name}@{group.k}']:.1%}"
                for name in ("Head", "Torso", "Tail", "Cold")
                if f"{name}@{group.k}" in own.means
            )
            if share is not None:
                shown = f": lists of {group.k} show {share:.1%} of the catalogue, and are made of {groups_shown} items."
                lines.append((f"{group.name}, ", Code(own.model), shown))
    tables = [_exposure(group) for group in groups if group.own]
    return Section("Coverage", (Points(tuple(lines)),), tuple(tables), rank=LEAST)


def shown(value: float, interval: Interval | None = None) -> str:
    """A number, with half of its interval.

    Example:
        >>> shown(0.25, Interval(0.25, 0.2, 0.3, 0.95, 100))
        '0.2500 ±0.0500'
    """
    return f"{value:.4f}" if interval is None else f"{value:.4f} ±{(interval.high - interval.low) / 2:.4f}"


def columns_of(group: Group) -> list[str]:
    """The metrics of the first table that all models of a group have."""
    names = [f"{kind}@{group.k}" for kind in KINDS]
    return [name for name in names if all(name in one.means for one in group.all)]


def _table(group: Group) -> Table:
    columns = columns_of(group)
    best = {name: max(one.means[name] for one in group.all) for name in columns}
    rows: list[tuple[Words, ...]] = []
    own = [one.model for one in group.own]
    for one in group.all:
        cells: list[Words] = [Strong(one.model) if one.model in own else one.model]
        for name in columns:
            text = shown(one.means[name], one.intervals.get(name))
            cells.append(Strong(text) if one.means[name] == best[name] else text)
        rows.append(tuple(cells))
    caption = f"{capital(group.name)}: ± half of the 95 % interval, best in bold"
    return Table(caption, ("model", *columns), tuple(rows))


def _against_best(group: Group) -> list[Line]:
    """A sentence for each way in which the trained model was judged."""
    lines: list[Line] = []
    for own in group.own:
        start: Line = (f"{group.name}, ", Code(own.model), ": ")
        if group.best is None or own.model in group.uncompared:
            lines.append((*start, f"{clipped(group.uncompared[own.model])}."))
            continue
        found = group.differences[own.model][group.metric]
        lines.append((*start, f"{signed(found)} against ", Code(group.best.model), f": {verdict(found)}."))
    return lines


def verdict(found: Comparison) -> str:
    """What the interval of a difference says."""
    if found.difference.low > 0:
        return "better"
    return "worse" if found.difference.high < 0 else "no difference is shown"


def signed(found: Comparison) -> str:
    """A difference with its interval, such as `+0.0100 (-0.0020 to +0.0220)`."""
    difference = found.difference
    return f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def _differences(group: Group) -> Table:
    assert group.best is not None
    rows: list[tuple[Words, ...]] = []
    for own in group.own:
        for name, found in group.differences.get(own.model, {}).items():
            d = found.difference
            ends = (f"{d.mean:+.4f}", f"{d.low:+.4f}", f"{d.high:+.4f}", f"{found.p_value:.4f}")
            rows.append((f"{own.model}, {name}", f"{found.second:.4f}", f"{found.first:.4f}", *ends))
    caption = (
        f"{capital(group.name)}: differences to {group.best.model}, the best baseline by {group.metric}, with 95 % "
        "intervals and p-values, not corrected for their number"
    )
    heads = ("model and metric", "model", group.best.model, "difference", "low", "high", "p")
    return Table(caption, heads, tuple(rows))


def _all_metrics(group: Group, own: Judged) -> Table:
    rows: list[tuple[Words, ...]] = []
    for name, value in own.means.items():
        interval = own.intervals.get(name)
        ends = ("", "") if interval is None else (f"{interval.low:.4f}", f"{interval.high:.4f}")
        rows.append((name, f"{value:.4f}", *ends))
    caption = f"{capital(group.name)}: every metric of {own.model}; those of all lists together have no interval"
    return Table(caption, ("metric", "value", "low", "high"), tuple(rows))


def _exposure(group: Group) -> Table:
    models = [*group.own, *([group.best] if group.best else [])]
    names = list(models[0].evaluation.exposure)
    rows: list[tuple[Words, ...]] = [
        (name, *(shown(one.means[name]) if name in one.means else "missing" for one in models)) for name in names
    ]
    caption = f"{capital(group.name)}: what all lists together show of the catalogue"
    return Table(caption, ("metric", *(one.model for one in models)), tuple(rows))


def capital(text: str) -> str:
    """Text that begins a sentence."""
    return text[:1].upper() + text[1:]
