"""What models are judged on, frozen in a folder: champion and challenger meet the same requests, whoever made them.

The folder holds `requests.parquet` (a row is a request: who asks, what is known of them, and the items to be found),
`items.parquet` (the catalogue with the training events of each item) and `manifest.json` (rules, counts, hashes). No
log and no code of this package is needed to read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from recsys.evaluation.relevance import ColdTargets, Relevance, judged_targets, relevance
from recsys.evaluation.requests_table import JUDGES_ALONE, digest, items_table, requests_table
from recsys.evaluation.result import EvaluationError, whole_folder
from recsys.evaluation.tasks import Part, Task, requests, tasks_of
from recsys.features.jagged import JaggedColumn, offsets_of
from recsys.features.splits import Ids, Split
from recsys.models.artefact import file_sha256
from recsys.retrieval.topk import Jagged

FORMAT_VERSION = 1
_REQUESTS, _ITEMS, _MANIFEST = "requests.parquet", "items.parquet", "manifest.json"


@dataclass(frozen=True)
class EvaluationSet:
    """Requests with the items to be found, the catalogue, and the rules by which lists are judged.

    (The users that a split judges are `features.splits.HeldOut`: ranges of events, which need their log.)

    Attributes:
        name: to print.
        requests: a row is a request, see `requests_table.SCHEMA`. `relevant` holds distinct items, cold ones among
            them, and without those of the history where seen items are filtered.
        items: `item_id` and `training_events`; item `i`, from 1, is row `i - 1`.
        facts: of each task, the rules and what was counted under them, as `Evaluation.facts` has them.
        sample: users that were drawn, of how many, and the seed; None: all.

    Example:
        >>> from recsys.features.event_log import EventLog
        >>> from recsys.features.schema import Schema
        >>> from recsys.features.splits import GlobalTime
        >>> events = {"user_id": ["u", "u", "v", "v"], "item_id": ["a", "b", "a", "b"], "timestamp": [1, 2, 3, 4]}
        >>> log = EventLog.from_frame(pd.DataFrame(events), Schema(name="toy"))
        >>> frozen = EvaluationSet.of(GlobalTime(0.25, 0)(log))
        >>> frozen.questions(frozen.rows(None)).to_dict("list")["history"][0].tolist(), frozen.tasks
        (['a'], (None,))
    """

    name: str
    requests: pa.Table
    items: pa.Table
    facts: tuple[dict[str, Any], ...]
    sample: dict[str, int] | None = field(default=None)

    def __repr__(self) -> str:
        return (
            f"EvaluationSet({self.name}: {len(self.requests):,} requests, {len(self.items):,} items; "
            f"{self.fingerprint[:12]})"
        )

    @classmethod
    def of(
        cls,
        split: Split,
        which: Part = "test",
        *,
        tasks: Sequence[Task | None] | None = None,
        filter_seen: bool = True,
        cold_targets: ColdTargets | None = None,
        users: int | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> EvaluationSet:
        """Freezes the requests of a part of a split.

        Memory: the texts of the histories, once per request; draw users of a large log.

        Args:
            split: the split.
            which: the part.
            tasks: the tasks; None: those that the part has, see `tasks_of`.
            filter_seen: whether items of the history are kept out of lists, and so not asked for.
            cold_targets: leave cold items out, or let them be misses; None: what the rule asks for.
            users: draw so many users, each with all requests; None: all.
            seed: of the draw.
            name: to print; None: that of the log's schema.

        Raises:
            ValueError: the part or a task is empty.
        """
        everybody = getattr(split, which)
        drawn = everybody if users is None else everybody.sample(users, seed)
        chosen = replace(split, **{which: drawn})
        tables, facts, counts = [], [], split.train_counts()
        for task in tasks_of(chosen, which) if tasks is None else tasks:
            asked = requests(chosen, which, task)
            found = relevance(chosen, which, task, asked, filter_seen, cold_targets)
            wanted = JaggedColumn(found.wanted.values.numpy(), found.wanted.offsets.numpy())
            tables.append(requests_table(split.log, asked, task, wanted))
            facts.append(found.facts)
        return cls(
            name=name or split.log.schema.name,
            requests=pa.concat_tables(tables),
            items=items_table(split.log, counts),
            facts=tuple(facts),
            sample={"users": len(drawn), "of": len(everybody), "seed": seed} if len(drawn) < len(everybody) else None,
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the rules and the contents of both tables; the name is no part of it."""
        content = {"facts": self.facts, "requests": digest(self.requests), "items": digest(self.items)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def tasks(self) -> tuple[Task | None, ...]:
        """The tasks that it holds requests of."""
        return tuple(facts["task"] for facts in self.facts)

    @property
    def filter_seen(self) -> bool:
        """Whether items of the history are kept out of lists."""
        return bool(self.facts[0]["filter_seen"])

    @cached_property
    def catalogue(self) -> pd.Index:
        """Names of the items; item `i`, from 1, is at `i - 1`."""
        return pd.Index(self.items["item_id"].to_pandas())

    @cached_property
    def training_events(self) -> Ids:
        """`[n_items + 1]` int64, training events of each item."""
        return np.append(0, self.items["training_events"].to_numpy())

    def facts_of(self, task: Task | None) -> dict[str, Any]:
        """The rules of a task, and what was counted under them.

        Raises:
            EvaluationError: the set has no request of the task.
        """
        for facts in self.facts:
            if facts["task"] == task:
                return facts
        there = ", ".join(f"`{found}`" for found in self.tasks)
        raise EvaluationError(f"evaluation set `{self.name}` has no requests of task `{task}`; it has {there}")

    def rows(self, task: Task | None) -> NDArray[np.int64]:
        """Rows of `requests` that are of a task."""
        tasks = self.requests["task"]
        own = tasks.is_null() if task is None else pc.equal(tasks, task).fill_null(False)
        return np.flatnonzero(own.to_numpy())

    def users(self, rows: NDArray[np.int64]) -> Ids:
        """`[n]` int64, the user of each of the rows."""
        return self.requests["user"].to_numpy()[rows]

    def history_length(self, rows: NDArray[np.int64]) -> Ids:
        """`[n]` int64, events of each history."""
        return pc.list_value_length(self.requests["history"]).to_numpy()[rows].astype(np.int64)

    def item_ids(self, column: Literal["history", "relevant"], rows: NDArray[np.int64]) -> JaggedColumn:
        """Item ids of a column of lists; 0 for an item that is not in the catalogue."""
        lists = self.requests[column].take(pa.array(rows))
        lengths = pc.list_value_length(lists).to_numpy()
        return JaggedColumn(self.catalogue.get_indexer(pc.list_flatten(lists).to_pandas()) + 1, offsets_of(lengths))

    def relevance(self, task: Task | None) -> Relevance:
        """What the requests of a task want, in the order of their rows."""
        facts = self.facts_of(task)
        ids = self.item_ids("relevant", self.rows(task))
        wanted = Jagged(torch.from_numpy(ids.values), torch.from_numpy(ids.offsets))
        counts = self.training_events
        return Relevance(wanted, judged_targets(wanted, counts, facts["cold_targets"]), counts, facts)

    def questions(self, rows: NDArray[np.int64]) -> pd.DataFrame:
        """What a model is asked: the rows without what only the judge may know, and without queries if nobody asks."""
        asked = self.requests.drop_columns(list(JUDGES_ALONE)).take(pa.array(rows))
        if asked["query"].null_count == len(rows):
            asked = asked.drop_columns(["query"])
        return asked.to_pandas()

    def frame(self) -> pd.DataFrame:
        """The whole table of requests."""
        return self.requests.to_pandas()

    def save(self, folder: str | Path) -> None:
        """Writes the set; the folder appears complete or not at all, and replaces a set that was there.

        Raises:
            EvaluationError: the folder exists and holds something else.
        """
        with whole_folder(Path(folder), _MANIFEST, "evaluation set") as made:
            pq.write_table(self.requests, made / _REQUESTS)
            pq.write_table(self.items, made / _ITEMS)
            manifest = {
                "format": FORMAT_VERSION,
                "name": self.name,
                "fingerprint": self.fingerprint,
                **{rule: self.facts[0][rule] for rule in ("rule", "split_hash", "part", "filter_seen")},
                "counts": {"requests": len(self.requests), "items": len(self.items)},
                "sample": self.sample,
                "tasks": list(self.facts),
                "sha256": {name: file_sha256(made / name) for name in (_REQUESTS, _ITEMS)},
            }
            (made / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> EvaluationSet:
        """Reads what `save` wrote, after checking every file.

        Raises:
            EvaluationError: the folder is no evaluation set, is of another format, or a file of it was altered.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT_VERSION:
                raise EvaluationError(f"{folder}: format {manifest['format']}, this version reads {FORMAT_VERSION}")
            for name, expected in manifest["sha256"].items():
                if file_sha256(folder / name) != expected:
                    raise EvaluationError(f"{folder / name}: altered since the evaluation set was frozen")
            found = cls(
                name=manifest["name"],
                requests=pq.read_table(folder / _REQUESTS),
                items=pq.read_table(folder / _ITEMS),
                facts=tuple(manifest["tasks"]),
                sample=manifest["sample"],
            )
            expected = manifest["fingerprint"]
        except (OSError, json.JSONDecodeError, pa.ArrowInvalid, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{folder}: no complete evaluation set ({error}); `recsys fit` leaves one in the folder of a run"
            ) from None
        if found.fingerprint != expected:
            raise EvaluationError(f"{folder / _MANIFEST}: altered since the evaluation set was frozen")
        return found
