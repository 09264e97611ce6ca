"""What a model is for, and what is known to limit it; every sentence follows from a fact of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from recsys.documents.document import Code, Line, Points, Section, clipped
from recsys.tracking.cards.judged import Group
from recsys.tracking.cards.saved_model import SavedModel
from recsys.tracking.cards.slices import small_slices
from recsys.tracking.record import RunRecord

LIMITS = "Limits"
NOT_JUDGED = "No gate has judged this model."
UNASKED = "Gates that were not run, or found nothing out: "


class GateVerdict(Protocol):
    """What a card shows of the verdict of a gate."""

    @property
    def name(self) -> str:
        """Of the gate."""

    @property
    def outcome(self) -> str:
        """In a word: `passed`, `refused`, `error`, `not run`."""

    @property
    def limit(self) -> str:
        """What was demanded."""

    @property
    def sentence(self) -> str:
        """The finding."""


def use_section(record: RunRecord, groups: Sequence[Group], saved: SavedModel | str) -> Section:
    """What the model may be used for."""
    tasks = sorted({str(group.all[0].evaluation.facts["task"]) for group in groups if group.own} - {"None"})
    judged = f"It was judged on {' and '.join(tasks)}." if tasks else ""
    lines: list[Line] = [
        ("To put items of the catalogue of ", Code(clipped(record.data["name"])), f" in order for its users. {judged}")
    ]
    if not isinstance(saved, str) and saved.names_users:
        lines.append(("Its folder holds raw ids of users: keep it where such data may be kept.",))
    lines.append(
        ("Not for other catalogues, nor for items that were added after training, nor to judge people by their lists.",)
    )
    return Section("Intended use", (Points(tuple(lines)),))


def limits_section(
    record: RunRecord, groups: Sequence[Group], saved: SavedModel | str, verdicts: Sequence[GateVerdict]
) -> Section:
    """What is known to limit the model and the numbers.

    Args:
        record: of the run.
        groups: of its evaluations.
        saved: the model, or why there is none to be read.
        verdicts: of the gates that judged it.
    """
    groups = [group for group in groups if group.own]
    lines = [*_of_run(record), *_of_split(record), *_of_items(saved), *_of_results(groups), *_of_targets(groups)]
    small = [name for group in groups if group.own[0].intervals for name in small_slices(group)]
    if small:
        lines.append((f"Slices too small to judge: {'; '.join(small)}.",))
    if (line := of_gates(verdicts)) is not None:
        lines.append((line,))
    return Section(LIMITS, (Points(tuple(lines)),), rank=0)


def of_gates(verdicts: Sequence[GateVerdict]) -> str | None:
    """What gates did not find out; None: nothing."""
    unasked = [verdict.name for verdict in verdicts if verdict.outcome not in ("passed", "refused")]
    if not verdicts:
        return NOT_JUDGED
    return f"{UNASKED}{', '.join(unasked)}." if unasked else None


def _of_run(record: RunRecord) -> Iterator[Line]:
    if record.status != "finished":
        yield (f"The run is {record.status}: what stands here may be of an earlier epoch.",)
    if record.git is None:
        yield ("The revision of the code is not known.",)
    elif record.git["dirty"]:
        yield ("Files differed from the revision: it alone does not make this model again.",)
    yield ("One training: intervals cover the draw of users, not that of the seed.",)


def _of_split(record: RunRecord) -> Iterator[Line]:
    """A rule that cuts at a moment in time says so in its facts; all others let training see later events."""
    if not any(name.endswith("_cut") for name in record.split["facts"]):
        yield (
            "Leakage: ",
            Code(record.split["rule"]),
            " cuts at no moment in time: training may see events later than some targets. Numbers compare models; they "
            "do not tell what production would see.",
        )


def _of_items(saved: SavedModel | str) -> Iterator[Line]:
    if not isinstance(saved, str) and not saved.schema.of("item"):
        yield ("Items are known by their ids alone: one without training events cannot be told from another.",)


def _of_results(groups: Sequence[Group]) -> Iterator[Line]:
    behind = [
        group.name
        for group in groups
        if (found := [of_own[group.metric] for of_own in group.differences.values() if group.metric in of_own])
        and all(comparison.difference.low <= 0 for comparison in found)
    ]
    if behind:
        yield (f"Not shown to be better than the best baseline: {', '.join(behind)}.",)
    alone = [group.name for group in groups if group.best is None]
    if alone:
        yield (f"No baseline stands beside the model: {', '.join(alone)}.",)


def _of_targets(groups: Sequence[Group]) -> Iterator[Line]:
    """Of the whole split, and so the same for all groups."""
    if groups:
        facts = groups[0].own[0].evaluation.facts
        cold = facts["n_items"] - facts["train_items"]
        if cold:
            yield (f"{cold:,} of {facts['n_items']:,} items have no training event.",)
        if facts["cold_users"]:
            yield (f"{facts['cold_users']:,} users without history are not judged.",)
