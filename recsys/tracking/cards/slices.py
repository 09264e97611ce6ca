"""Sections on where a model is good, and whether its probabilities are honest."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from recsys.documents.document import LEAST, Block, Facts, Paragraph, Picture, Section, Table, Words
from recsys.evaluation.plots import FEW
from recsys.evaluation.slices import by_history_length, recall_by_decile, recall_by_group
from recsys.tracking.cards.judged import Group, Judged
from recsys.tracking.cards.results import capital
from recsys.tracking.run_folder import RunFolder

TOO_FEW = f"fewer than {FEW}"


def slices_section(groups: Sequence[Group], pictures: Sequence[Picture]) -> Section:
    """The trained model by task, popularity of the item and activity of the user.

    Args:
        groups: of the run; those without the trained model are passed over.
        pictures: of slices.
    """
    groups = [group for group in groups if group.own]
    if not groups:
        return Section("Slices", (Paragraph(("Missing: the model was not evaluated.",)),), rank=LEAST)
    columns = [_column(group) for group in groups]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows: list[tuple[Words, ...]] = [(name, *(column.get(name, "none") for column in columns)) for name in names]
    caption = f"{groups[0].own[0].model}, with 95 % intervals"
    overview = Table(caption, ("slice", *(group.name for group in groups)), tuple(rows))
    details: list[Block] = [*pictures]
    for group in groups:
        details += [_by_decile(group), _by_activity(group)]
    return Section("Slices", (overview,), tuple(details), rank=LEAST)


def calibration_section(folder: RunFolder, pictures: Sequence[Picture]) -> Section:
    """Whether the scores of the ranking can be read as probabilities.

    Args:
        folder: of the run.
        pictures: of the calibration.
    """
    place = folder.path / "calibration.json"
    if not place.exists():
        text = (
            "Not measured: the model does not rank, or there was too little to fit by. Its scores put items in order, "
            "and are no probabilities."
        )
        return Section("Calibration", (Paragraph((text,)),), rank=LEAST)
    content = json.loads(place.read_text(encoding="utf-8"))
    error, platt = content["expected_calibration_error"], content["platt"]
    text = (
        f"Expected calibration error {error['before']:.2e} as learned, {error['after']:.2e} calibrated "
        f"(base rate {error['base_rate']:.2e})."
    )
    fitted = Facts((("Platt scaling", (f"scale {platt['scale']:.4f}, offset {platt['offset']:.4f}",)),))
    return Section("Calibration", (Paragraph((text,)),), (*pictures, fitted), rank=LEAST)


def small_slices(group: Group) -> list[str]:
    """The slices of the trained model with too few users or targets to be judged, each with their number."""
    own = group.own[0]
    frames = [
        (f"{group.name}, {{}} items", recall_by_group(own.evaluation, group.k)),
        (f"{group.name}, {{}} events", by_history_length(own.evaluation, group.metric)),
    ]
    return [
        f"{title.format(name)} ({number})"
        for title, frame in frames
        for name, number, *_ in frame.itertuples(index=False, name=None)
        if number < FEW
    ]


def _column(group: Group) -> dict[str, str]:
    """Slice -> value of the trained model."""
    own = group.own[0]
    whole = own.intervals.get(group.metric)
    column = {f"all, {group.metric}": "none" if whole is None else _cell(whole.mean, whole.low, whole.high)}
    for frame, title in (
        (recall_by_group(own.evaluation, group.k), f"{{}} items, Recall@{group.k}"),
        (by_history_length(own.evaluation, group.metric), f"{{}} events, {group.metric}"),
    ):
        column |= {title.format(name): cell for name, cell in _cells(frame).items()}
    return column


def _by_decile(group: Group) -> Table:
    frames = {one.model: recall_by_decile(one.evaluation, group.k) for one in _compared(group)}
    caption = f"{capital(group.name)}: Recall@{group.k} by popularity decile of the item to be found (1 most popular)"
    return _table(caption, frames)


def _by_activity(group: Group) -> Table:
    frames = {one.model: by_history_length(one.evaluation, group.metric) for one in _compared(group)}
    return _table(f"{capital(group.name)}: {group.metric} by length of the user's history", frames)


def _table(caption: str, frames: dict[str, pd.DataFrame]) -> Table:
    """Slices of several models, over the slices of the first."""
    first = next(iter(frames.values()))
    cells = {model: _cells(frame) for model, frame in frames.items()}
    rows: list[tuple[Words, ...]] = [
        (str(name), f"{number:,}", *(of_model.get(str(name), "none") for of_model in cells.values()))
        for name, number, *_ in first.itertuples(index=False, name=None)
    ]
    return Table(caption, ("slice", str(first.columns[1]), *frames), tuple(rows))


def _cells(frame: pd.DataFrame) -> dict[str, str]:
    """Slice -> value with its interval."""
    return {
        str(name): TOO_FEW if number < FEW else _cell(value, low, high)
        for name, number, value, low, high in frame.itertuples(index=False, name=None)
    }


def _cell(value: float, low: float, high: float) -> str:
    """Both ends: the interval of a share near 0 is far from symmetric."""
    return f"{value:.3f} ({low:.3f}-{high:.3f})"


def _compared(group: Group) -> list[Judged]:
    return [*group.own, *([group.best] if group.best else [])]
