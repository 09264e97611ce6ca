"""Candidates that an index of FAISS finds, where exact retrieval takes too long."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.candidates.asked import Asked, Inputs
from recsys.candidates.files import JobError
from recsys.candidates.sources import SCAN, Opened, Source
from recsys.evaluation.scoring import device_of
from recsys.models.recommender import VectorRecommender
from recsys.retrieval.approximate import ApproximateRanker, Recall, RecallError, check_recall
from recsys.retrieval.item_index import HNSW, IndexKind, ItemIndex
from recsys.retrieval.order import TopK
from recsys.retrieval.topk import Ranker


@dataclass(frozen=True)
class IndexSource(Source):
    """What an index finds of the items of the model of the job: most likely the best. Needs the extra `ann`.

    The index is built once a job. What it misses is measured against exact retrieval for a sample of the users of the
    log, and stands in the manifest; where that is too much, the job ends before any list is made.

    Attributes:
        index: how items are indexed.
        least_recall: share of the best items that must be found, 0..1.
        recall_at: how many best items these are.
        sample: users of the sample, spread evenly over the log.
    """

    index: IndexKind = HNSW()  # noqa: RUF009  (frozen)
    least_recall: float = 0.95
    recall_at: int = 100
    sample: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.least_recall <= 1 or self.recall_at < 1 or self.sample < 2:
            raise JobError(
                f"source {self.called}: least_recall lies in 0..1, recall_at is 1 at least and sample 2, not "
                f"{self.least_recall:g}, {self.recall_at} and {self.sample}"
            )

    @torch.no_grad()
    def prepare(self, inputs: Inputs, folder: Path) -> dict[str, float]:
        """Builds the index, and measures its recall.

        Raises:
            RecallError: it is below `least_recall`.
            JobError: the model has no vectors of items, FAISS is not there or cannot build such an index, or fewer than
                two users of the sample have something to find.
        """
        model = _with_vectors(inputs, self)
        shutil.rmtree(folder / "index", ignore_errors=True)  # of a start that was ended before all was ready
        try:
            index = ItemIndex.build(model.item_vectors().float().cpu(), self.index)
            index.save(folder / "index")
            recall = self._recall(inputs, ApproximateRanker(model, index, allow=inputs.allow, deny=inputs.deny))
        except RecallError:
            raise
        except (ImportError, ValueError) as error:
            raise JobError(f"source {self.called}: {error}") from error
        name = f"{self.called}_recall_at_{self.recall_at}"
        return {name: round(recall.value, 4), f"{name}_low": round(recall.low, 4)}

    def _recall(self, inputs: Inputs, ranker: ApproximateRanker) -> Recall:
        users = np.unique(np.linspace(1, inputs.log.n_users, self.sample).astype(np.int64))
        histories = inputs.reader.read(users, np.asarray(inputs.log.users.decode(users)))
        return check_recall(
            ranker,
            Ranker(ranker.model, allow=inputs.allow, deny=inputs.deny, scan=SCAN),
            inputs.reader.batch(histories, None),
            self.recall_at,
            self.least_recall,
            seen=histories.seen,
        )

    def open(self, inputs: Inputs, folder: Path) -> Opened:
        """Loads the index."""
        model = _with_vectors(inputs, self)
        ranker = ApproximateRanker(model, ItemIndex.load(folder / "index"), allow=inputs.allow, deny=inputs.deny)

        def retrieve(asked: Asked, n: int) -> TopK:
            return ranker(asked.batch, n, seen=asked.seen, allow=asked.allow, deny=asked.deny)

        return Opened(retrieve)


def _with_vectors(inputs: Inputs, source: Source) -> VectorRecommender:
    model = inputs.bundle.model
    if not isinstance(model, VectorRecommender) or device_of(model).type != "cpu":
        raise JobError(
            f"source {source.called}: an index holds vectors of items on the CPU, and {type(model).__name__} on "
            f"{device_of(model)} has none there; use ModelSource"
        )
    return model
