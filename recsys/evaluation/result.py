"""What an evaluation leaves behind: lists, values per request, and the facts needed to compare it with another."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.evaluation.intervals import Comparison, Interval, bootstrap, compare

FORMAT_VERSION = 1
_USERS, _TARGETS, _FACTS = "users.parquet", "targets.parquet", "evaluation.json"
RULES = ("split_hash", "part", "task", "filter_seen", "cold_targets", "negatives", "candidate_seed")
"""Facts in which evaluations agree whose numbers may stand side by side."""


class EvaluationError(ValueError):
    """Evaluations that cannot be read or compared; the message names the folder or the fact."""


@dataclass(frozen=True)
class TargetTable:
    """One entry per distinct (request, item to be found), ordered by request, then item.

    Attributes:
        row: `[P]` int64, row of the request in the evaluation.
        item: `[P]` int32.
        rank: `[P]` int32, from 1; 0 when the list does not name the item.
        decile: `[P]` int8, popularity decile of the item (1 most popular, 0 cold).
    """

    row: NDArray[np.int64]
    item: NDArray[np.int32]
    rank: NDArray[np.int32]
    decile: NDArray[np.int8]


@dataclass(frozen=True)
class Evaluation:
    """One model, judged on one part of one split.

    A row is a request: a user, or under the task `search` one search of a user, who may then stand in several rows.

    Attributes:
        model: name to print.
        users: `[U]` int64 user ids.
        history_length: `[U]` int32, events of each history.
        ranked: `[U, top]` int32 item ids, best first, 0 where fewer could be given.
        metrics: values per row, `[U]` float32 each; NaN where nothing is left to be found.
        exposure: metrics of all lists together.
        targets: the items to be found and their ranks.
        facts: rule, split hash, part, task, counts of what was judged and what was left out, settings, seconds.
    """

    model: str
    users: NDArray[np.int64]
    history_length: NDArray[np.int32]
    ranked: NDArray[np.int32]
    metrics: dict[str, NDArray[np.float32]]
    exposure: dict[str, float]
    targets: TargetTable
    facts: dict[str, Any]

    def means(self) -> dict[str, float]:
        """Every metric: means over rows, and metrics of all lists. NaN when no row has anything to be found."""
        judged = bool(self.facts["judged_users"])
        return {n: float(np.nanmean(v, dtype=np.float64)) if judged else math.nan for n, v in self.metrics.items()} | (
            self.exposure
        )

    def summary(self, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Bootstrap interval of each metric that has values per row; users are resampled, see `intervals.bootstrap`."""
        return bootstrap(self.metrics, users=self.users, resamples=resamples, level=level, seed=seed)

    def save(self, folder: str | Path) -> None:
        """Writes `users.parquet`, `targets.parquet` and `evaluation.json`; the folder appears complete or not at all.

        An evaluation saved there before is replaced.

        Raises:
            EvaluationError: the folder exists and holds something else.
        """
        with whole_folder(Path(folder), _FACTS, "evaluation") as made:
            lists = pa.FixedSizeListArray.from_arrays(pa.array(self.ranked.reshape(-1)), self.ranked.shape[1])
            columns: dict[str, Any] = {"user": self.users, "history_length": self.history_length, "items": lists}
            pq.write_table(pa.table(columns | {f"metric.{n}": v for n, v in self.metrics.items()}), made / _USERS)
            pq.write_table(pa.table(vars(self.targets)), made / _TARGETS)
            facts = {"format": FORMAT_VERSION, "model": self.model, "facts": self.facts, "exposure": self.exposure}
            (made / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Reads what `save` wrote.

        Raises:
            EvaluationError: the folder is no evaluation, is damaged, or is of another format.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT_VERSION:
                raise EvaluationError(f"{folder}: format {facts['format']}, this version reads {FORMAT_VERSION}")
            users, targets = pq.read_table(folder / _USERS), pq.read_table(folder / _TARGETS)
            lists = users["items"].combine_chunks()
            return cls(
                model=facts["model"],
                users=users["user"].to_numpy(),
                history_length=users["history_length"].to_numpy(),
                ranked=lists.flatten().to_numpy().reshape(len(users), lists.type.list_size),
                metrics={
                    name.removeprefix("metric."): users[name].to_numpy()
                    for name in users.column_names
                    if name.startswith("metric.")
                },
                exposure=facts["exposure"],
                targets=TargetTable(**{name: targets[name].to_numpy() for name in targets.column_names}),
                facts=facts["facts"],
            )
        except (OSError, json.JSONDecodeError, pa.ArrowInvalid, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{folder}: no complete evaluation ({error}); write one with `recsys evaluate`"
            ) from None


@contextmanager
def whole_folder(folder: Path, marker: str, what: str) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` at the end: that appears complete or not at all.

    Args:
        folder: what is to be written; one of its kind that is there is replaced.
        marker: a file that every folder of this kind holds.
        what: the kind, for the message.

    Yields:
        The folder to write into, beside `folder`.

    Raises:
        EvaluationError: the folder exists and holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / marker).exists())):
        raise EvaluationError(f"{folder} exists and is no {what}; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield made
        made.chmod(0o755)
        if folder.exists():  # renamed away, not deleted first: a kill between the two leaves the old one beside
            old = made.with_suffix(".old")
            folder.rename(old)
            made.rename(folder)
            shutil.rmtree(old)
        else:
            made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def differing(first: Evaluation, second: Evaluation, facts: Sequence[str] = RULES) -> dict[str, tuple[Any, Any]]:
    """Those of the named facts in which two evaluations differ; a fact that one lacks is None.

    An evaluation of an older version names no task, and was made as one of the task None is.
    """
    pairs = {fact: (first.facts.get(fact), second.facts.get(fact)) for fact in facts}
    return {fact: (a, b) for fact, (a, b) in pairs.items() if a != b}


def compare_evaluations(first: Evaluation, second: Evaluation, **settings: Any) -> dict[str, Comparison]:
    """Paired comparison of the metrics that both have; `settings` go to `intervals.compare`.

    Raises:
        EvaluationError: the two were not made on the same requests of the same split under the same rules.
    """
    for fact, (a, b) in differing(first, second, (*RULES, "top")).items():
        raise EvaluationError(f"`{first.model}` and `{second.model}` cannot be compared: {fact} is {a} and {b}")
    if not np.array_equal(first.users, second.users):
        raise EvaluationError(f"`{first.model}` and `{second.model}` judge different users; nothing can be paired")
    common = [name for name in first.metrics if name in second.metrics]
    if not common:
        raise EvaluationError(f"`{first.model}` and `{second.model}` have no metric in common")
    return compare(_only(first.metrics, common), _only(second.metrics, common), users=first.users, **settings)


def _only(metrics: Mapping[str, NDArray[np.float32]], names: list[str]) -> dict[str, NDArray[np.float32]]:
    return {name: metrics[name] for name in names}
