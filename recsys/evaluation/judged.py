"""How a model orders the items that users were shown at random: a test without selection bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.evaluation.metrics import find_targets
from recsys.evaluation.scoring import device_of, evaluation_mode
from recsys.evaluation.weighted_metrics import weighted_metrics
from recsys.features.batching import histories
from recsys.features.jagged import JaggedColumn, offsets_of
from recsys.features.random_test import JudgedItems
from recsys.features.splits import Split
from recsys.models.recommender import Recommender
from recsys.retrieval.topk import Jagged


@dataclass(frozen=True)
class JudgedEvaluation:
    """One model on the judged items of U users.

    Attributes:
        users: `[U]` int64, ascending.
        metrics: `[U]` float32 each; a user who liked nothing counts 0.
        top: `[U, k]` int64, the first items of each list, k the largest cut-off; 0 where there are fewer.
    """

    users: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float32]]
    top: NDArray[np.int64]

    def means(self) -> dict[str, float]:
        """The means over users."""
        return {name: float(values.mean(dtype=np.float64)) for name, values in self.metrics.items()}


def evaluate_judged(
    model: Recommender,
    split: Split,
    judged: JudgedItems,
    *,
    ks: Sequence[int] = (1, 3, 5),
    least_items: int = 5,
    max_length: int | None = None,
    tie_seed: int = 0,
) -> JudgedEvaluation:
    """Orders the judged items of each user, and no others, and says where the liked ones stand.

    All judged users stand in one batch: memory grows with their histories and the longest list of judged items.

    Args:
        model: a fitted or trained model.
        split: the split it was trained on; histories are the training and validation events of a user.
        judged: items with what users thought of them.
        ks: cut-offs; `weighted_metrics` says what is computed, here with equal weights.
        least_items: users with fewer judged items are left out.
        max_length: events of a history that the model is given; None: all.
        tie_seed: decides among equal scores, at random: a model that scores everything alike must gain nothing from the
            order in which items are listed.

    Raises:
        ValueError: no user has so many items.
    """
    rows = np.flatnonzero(np.diff(judged.offsets) >= least_items)
    if not len(rows):
        raise ValueError(f"no user has {least_items} judged items: lower `least_items`")
    lists = JaggedColumn(judged.items, judged.offsets).gather(rows)
    users, lengths = judged.users[rows], lists.lengths
    width = max(int(lengths.max()), max(ks))
    filled = np.arange(width) < lengths[:, None]
    candidates = np.zeros((len(rows), width), dtype=np.int64)
    candidates[filled] = lists.values
    known = split.train_end.copy()
    for part in (split.validation, split.validation_cold_users):
        known[part.users] = part.target_end
    batch = histories(split.log, users, split.log.offsets[users], known[users], max_length).to(device_of(model))
    with evaluation_mode(model):
        scores = model.candidate_scores(batch, torch.from_numpy(candidates).to(device_of(model))).cpu().numpy()
    ties = np.random.default_rng(tie_seed).random(scores.shape)
    order = np.lexsort((ties, -scores), axis=1)
    ranked = np.take_along_axis(candidates, order, axis=1)
    liked = JaggedColumn(judged.relevant.astype(np.int64), judged.offsets).gather(rows).values > 0
    count = np.bincount(np.repeat(np.arange(len(rows)), lengths)[liked], minlength=len(rows))
    relevant = Jagged(torch.from_numpy(lists.values[liked]), torch.from_numpy(offsets_of(count)))
    targets = find_targets(torch.from_numpy(ranked), relevant)
    values = weighted_metrics(targets, torch.ones(split.log.n_items + 1), ks)
    return JudgedEvaluation(users, {name: v.numpy() for name, v in values.items()}, ranked[:, : max(ks)])
