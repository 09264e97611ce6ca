"""Where candidates come from: models, what is popular, and items that are like those of the history."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.candidates.asked import Asked, Inputs
from recsys.candidates.files import JobError, write_durable
from recsys.candidates.histories import Histories, HistoryReader
from recsys.candidates.models import find_model
from recsys.evaluation.scoring import device_of
from recsys.features.jagged import offsets_of
from recsys.features.splits import HeldOut, Split
from recsys.models.popularity import Popularity
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.scan_tables import Scan
from recsys.retrieval.topk import BUDGET_BYTES, Jagged, Ranker, TopK
from recsys.tracking.bundle import Bundle

SCAN: Scan = "auto"
"""Scores of pairs do not depend on who else is asked for, and lists not on the processor; see `Ranker`."""

Retrieve = Callable[[Asked, int], TopK]
"""The n best items of each of B users: at most n columns, on any device, 0 / `-inf` where there are fewer. Several
threads may call it at once."""


class Opened(NamedTuple):
    """A source that is ready to be asked.

    Attributes:
        retrieve: asks it.
        most: users that it may be asked for at a time; None: any number.
        reader: with which it reads histories itself, whose events then decide lists too; None: it reads what it is
            asked with.
    """

    retrieve: Retrieve
    most: int | None = None
    reader: HistoryReader | None = None


@dataclass(frozen=True)
class Source(abc.ABC):
    """Gives candidates. A subclass is a frozen dataclass of plain values, so that it can be named in a file.

    Attributes:
        name: as it stands beside each item; empty: that of the class.
        quota: the most items of this source in a list; None: no limit.
        min_score: the least score of an item, by the scale of this source; None: any.

    Raises:
        JobError: a value is out of range.
    """

    name: str = ""
    quota: int | None = None
    min_score: float | None = None

    follows_log: ClassVar[bool] = False
    """Whether what a user gets changes with the events of others, so that nobody's list can be kept when the log
    grows."""

    def __post_init__(self) -> None:
        if self.quota is not None and self.quota < 0:
            raise JobError(f"source {self.called}: quota {self.quota}: must not be negative")

    @property
    def called(self) -> str:
        """Its name."""
        plain = type(self).__name__.removesuffix("Source")
        return self.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()

    def digest(self, folder: Path) -> str:
        """Names what it reads beside log and model of the job, such as another model; empty: nothing.

        Args:
            folder: of its own in the job, for what is fetched; `open` finds it there.
        """
        return ""

    def prepare(self, inputs: Inputs, folder: Path) -> dict[str, float]:
        """Does once what need not be done wherever parts are made.

        Args:
            inputs: of the job.
            folder: of its own in the job, for what `open` needs.

        Returns:
            What was measured, by name; it stands in the manifest.
        """
        return {}

    @abc.abstractmethod
    def open(self, inputs: Inputs, folder: Path) -> Opened:
        """Gets ready, once in each process.

        Args:
            inputs: of the job.
            folder: in which `prepare` may have left something.
        """


@dataclass(frozen=True)
class ModelSource(Source):
    """What a model retrieves.

    Attributes:
        model: folder of a run or of a model, or `models:/NAME@ALIAS`; None: the model of the job. Items that the model
            of the job does not know are not given.
    """

    model: str | None = None

    def digest(self, folder: Path) -> str:
        """The digest of the other model; notes where it is, whatever an alias points to later."""
        if self.model is None:
            return ""
        found = find_model(self.model, folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_durable(folder / "folder", str(found.folder))
        return found.digest

    def open(self, inputs: Inputs, folder: Path) -> Opened:
        """Loads the other model, and computes item vectors."""
        if self.model is None:
            return own_model(inputs)
        bundle = Bundle.load((folder / "folder").read_text(encoding="utf-8"), str(device_of(inputs.bundle.model)))
        return other_model(inputs, bundle)


@dataclass(frozen=True)
class PopularitySource(Source):
    """What the model of the job gives to somebody of whom nothing is known: the popular items of its training data."""

    def open(self, inputs: Inputs, folder: Path) -> Opened:
        """Asks the model once."""
        scores = inputs.bundle.model.scores(inputs.reader.batch(Histories.of_nobody(), None))[0].float()
        scores[0] = 0
        popular = Popularity()
        popular.tensors = {"popularity": scores}
        ranker = Ranker(popular, allow=inputs.allow, deny=inputs.deny, scan=SCAN)
        ranker.prepare(scores.device)

        def retrieve(asked: Asked, n: int) -> TopK:
            return ranker(asked.batch, n, seen=asked.seen, allow=asked.allow, deny=asked.deny)

        return Opened(retrieve)


@dataclass(frozen=True)
class ItemItemSource(Source):
    """Items that people took who took those of the history: cosine neighbours over all events of the log.

    Fitted once a job, in memory: 12 bytes a pair of user and item, and 12 a neighbour.

    Attributes:
        neighbours: similar items that are kept of each item.
    """

    neighbours: int = 100
    follows_log: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 1:
            raise JobError(f"source {self.called}: neighbours {self.neighbours}: keep 1 at least")

    def prepare(self, inputs: Inputs, folder: Path) -> dict[str, float]:
        """Fits the neighbours."""
        from recsys.models.item_item import Cosine

        log, nobody = inputs.log, HeldOut(*[np.zeros(0, dtype=np.int64)] * 5)
        everything = Split(
            rule="everything",
            log=log,
            train_start=log.offsets[:-1],
            train_end=log.offsets[1:],
            hash=log.fingerprint,
            facts={},
            validation=nobody,
            test=nobody,
            validation_cold_users=nobody,
            test_cold_users=nobody,
        )
        model = Cosine(self.neighbours)
        model.fit(everything)
        Bundle.of(model, log, log.fingerprint).save(folder / "model")
        return {}

    def open(self, inputs: Inputs, folder: Path) -> Opened:
        """Loads the neighbours."""
        opened = other_model(inputs, Bundle.load(folder / "model"))

        def retrieve(asked: Asked, n: int) -> TopK:
            items, scores = opened.retrieve(asked, n)
            none = scores <= 0  # the model lets what is popular follow after all neighbours
            return TopK(items.masked_fill(none, 0), scores.masked_fill(none, -torch.inf))

        return Opened(retrieve, opened.most)


def own_model(inputs: Inputs) -> Opened:
    """The model of the job, with its item vectors computed."""
    model = inputs.bundle.model
    ranker = Ranker(model, allow=inputs.allow, deny=inputs.deny, scan=SCAN)
    ranker.prepare(device_of(model))

    def retrieve(asked: Asked, n: int) -> TopK:
        return ranker(asked.batch, n, seen=asked.seen, allow=asked.allow, deny=asked.deny)

    return Opened(retrieve, _most(model))


def other_model(inputs: Inputs, bundle: Bundle) -> Opened:
    """Another model on the same log, whose ids are those of its own bundle.

    Raises:
        JobError: it and the model of the job know no item in common.
    """
    reader, device = HistoryReader(inputs.log, bundle), device_of(bundle.model)
    own, n_items = inputs.bundle.items.values, inputs.bundle.model.n_items
    place = bundle.items.values.get_indexer(own[:n_items]).astype(np.int64) + 1
    theirs = torch.from_numpy(np.append(0, np.where(place <= bundle.model.n_items, place, 0)))
    ours = torch.zeros(bundle.model.n_items + 1, dtype=torch.int64)
    ours[theirs] = torch.arange(n_items + 1)
    ours[0] = 0
    if not ours.any():
        raise JobError(
            f"a source's {type(bundle.model).__name__} knows no item of the job's model; are both of one catalogue?"
        )
    may = torch.zeros(n_items + 1, dtype=torch.bool)
    may[slice(None) if inputs.allow is None else inputs.allow] = True
    if inputs.deny is not None:
        may[inputs.deny] = False
    allow = theirs[may]
    ranker = Ranker(bundle.model, allow=allow[allow > 0], scan=SCAN)
    ranker.prepare(device)
    back = ours.to(device)

    def retrieve(asked: Asked, n: int) -> TopK:
        histories = reader.read(asked.histories.log_ids, asked.raw_users)
        batch = reader.batch(histories, None if bundle.queries is None else asked.queries)
        lists = [None if ids is None else _translated(ids, theirs) for ids in (asked.seen, asked.allow, asked.deny)]
        items, scores = ranker(batch, n, seen=lists[0], allow=lists[1], deny=lists[2])
        return TopK(back[items], scores)

    return Opened(retrieve, _most(bundle.model), reader)


def _most(model: Recommender) -> int | None:
    """Users whose scores of the whole catalogue fit the budget, for a model that is not ranked block by block."""
    return None if isinstance(model, VectorRecommender) else max(1, BUDGET_BYTES // (4 * (model.n_items + 1)))


def _translated(ids: Jagged, table: Tensor) -> Jagged:
    """Jagged ids by a table of ids; those that become 0 are left out."""
    values = table[ids.values]
    row = torch.repeat_interleave(ids.offsets.diff())
    lengths = torch.bincount(row[values > 0], minlength=len(ids.offsets) - 1)
    return Jagged(values[values > 0], torch.from_numpy(offsets_of(lengths.numpy())))
