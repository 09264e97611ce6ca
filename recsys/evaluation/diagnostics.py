"""Diagnostics of the vectors of users and items while a model trains, and an alarm when they collapse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys.evaluation.exposure import group_of_events, group_shares
from recsys.evaluation.ranking import ranked_lists
from recsys.evaluation.representation import alignment, effective_rank, uniformity
from recsys.evaluation.scoring import device_of, evaluation_mode
from recsys.evaluation.tasks import Requests, requests
from recsys.features.splits import Split
from recsys.models.recommender import VectorRecommender

SIDES = ("item", "user")
RANK = "effective_rank"
_BATCH = 512


class RepresentationDiagnostics(L.Callback):
    """Measures item and user vectors after each epoch, and warns when they collapse.

    | value | what it is |
    | --- | --- |
    | `val/item_effective_rank`, `val/user_effective_rank` | directions that the vectors use, see `effective_rank` |
    | `val/item_uniformity`, `val/user_uniformity` | how evenly they fill the sphere, see `uniformity` |
    | `val/alignment` | how far users lie from the item that they take next, see `alignment` |
    | `val/head_share@10`, `torso`, `tail`, `cold` | what is recommended, see `exposure.group_of_events` |

    Items are drawn from the whole catalogue and users from those who validate, by the seed, the same each time. Nothing
    is drawn from torch's own generator and nothing learns: weights are the same, bit for bit, with and without it. A
    split without validation users and a model without vectors of users and items are left alone. The history of values
    is in the checkpoint. Every rank of a job logs the same values.

    Vectors have collapsed where they are not finite, or their effective rank is below one of two shares: it falls from
    that of random vectors in any training, but not to a few directions.

    Args:
        every_n_epochs: epochs from one measurement to the next; the first and the last epoch are always measured. None:
            never.
        items: that are measured; fewer where the catalogue has no more.
        users: that are measured, and whose lists are made.
        k: length of the lists.
        least: collapsed is an effective rank below this share of the dimensions of the vectors.
        least_of_best: or below this share of the highest of the epochs so far.
        seed: draws items and users.

    Raises:
        ValueError: a number is not positive, or a share does not lie between 0 and 1.
    """

    def __init__(
        self,
        every_n_epochs: int | None = 1,
        items: int = 2000,
        users: int = 1000,
        k: int = 10,
        least: float = 0.05,
        least_of_best: float = 0.25,
        seed: int = 0,
    ):
        if (every_n_epochs is not None and every_n_epochs < 1) or items < 2 or users < 2 or k < 1:
            raise ValueError("every_n_epochs and k must be positive, items and users at least 2")
        if not (0 <= least < 1 and 0 <= least_of_best < 1):
            raise ValueError(f"least and least_of_best must be at least 0 and below 1, not {least} and {least_of_best}")
        self.every_n_epochs, self.items, self.users, self.k = every_n_epochs, items, users, k
        self.least, self.least_of_best, self.seed = least, least_of_best, seed
        self.history: list[dict[str, float]] = []
        self.dimensions: dict[str, int] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures, if it is this epoch's turn."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        epoch, network = trainer.current_epoch, pl_module.network
        last = trainer.max_epochs is not None and 0 < trainer.max_epochs <= epoch + 1  # -1: no limit
        turn = self.every_n_epochs is not None and (epoch % self.every_n_epochs == 0 or last)
        if not turn or not len(data.split.validation) or not isinstance(network, VectorRecommender):
            return
        values = self.measure(network, data.split, data.max_length)
        before, self.history = self.history, [*self.history, {"epoch": epoch} | values]
        if trainer.is_global_zero:
            for side in SIDES:
                if self._collapsed(self.history, side) and not self._collapsed(before, side):
                    warnings.warn(self._alarm(side), stacklevel=2)
        for name, value in values.items():
            pl_module.log(f"val/{name}", value, sync_dist=True)

    @torch.no_grad()
    def measure(self, model: VectorRecommender, split: Split, max_length: int | None) -> dict[str, float]:
        """The values by name; NaN, and nothing but the ranks, where vectors are not finite.

        Args:
            model: of the catalogue of the split.
            split: has users that validate.
            max_length: events of a history that the model is given.
        """
        split = replace(split, validation=split.validation.sample(self.users, self.seed))
        asked = requests(split, "validation")
        with evaluation_mode(model):
            found = self._vectors(model, split, asked, max_length)
            sides = {"item": found.items, "user": found.users}
            self.dimensions = {side: min(vectors.shape) for side, vectors in sides.items()}
            values: dict[str, float] = {}
            if not all(vectors.isfinite().all() for vectors in sides.values()):
                return {f"{side}_{RANK}": math.nan for side in SIDES}
            for side, vectors in sides.items():
                values[f"{side}_{RANK}"] = effective_rank(vectors)
                if len(vectors) > 1:
                    values[f"{side}_uniformity"] = uniformity(vectors)
            values["alignment"] = alignment(found.users, found.targets)
            ranked = ranked_lists(
                model, split, asked, max_length=max_length, filter_seen=True, rerank=None, batch_users=_BATCH,
                top=self.k, tie_seed=0,
            )  # fmt: skip
        groups = torch.from_numpy(group_of_events(split.train_counts()).astype(np.int64))
        shares = group_shares(torch.from_numpy(ranked), groups)
        return values | {f"{name}_share@{self.k}": share for name, share in shares.items()}

    def _vectors(self, model: VectorRecommender, split: Split, asked: Requests, max_length: int | None) -> _Vectors:
        """Of the drawn items, of the users, and of the first item that each of them takes next."""
        n, device = model.n_items, device_of(model)
        drawn = np.random.default_rng(self.seed).choice(n, min(self.items, n), replace=False) + 1
        of_targets = split.log.item_id[asked.targets.values[asked.targets.offsets[:-1]]].astype(np.int64)
        items, targets = (
            model.item_vectors(torch.from_numpy(np.ascontiguousarray(ids)).to(device)).float().cpu()
            for ids in (drawn, of_targets)
        )
        users = torch.zeros(len(asked), items.shape[1])
        for rows in asked.blocks(_BATCH):
            users[rows] = model.user_vectors(asked.batch(split.log, rows, max_length, device)).float().cpu()
        # What no user has counts in no score: such is the popularity that networks keep for users without history.
        used = (users != 0).any(0) if users.isfinite().all() else torch.ones(users.shape[1], dtype=torch.bool)
        return _Vectors(items * used, users, targets * used)

    def _collapsed(self, history: Sequence[dict[str, float]], side: str) -> bool:
        """Whether the vectors of a side have collapsed by the end of a history."""
        if not history:
            return False
        ranks = [entry[f"{side}_{RANK}"] for entry in history]
        if math.isnan(ranks[-1]):
            return True
        return ranks[-1] < max(self.least * self.dimensions[side], self.least_of_best * np.nanmax(ranks))

    def _alarm(self, side: str) -> str:
        entry = self.history[-1]
        rank = entry[f"{side}_{RANK}"]
        what = (
            "are not finite: lower the learning rate, or clip gradients (`trainer.gradient_clip_val`)"
            if math.isnan(rank)
            else f"use {rank:.1f} of {self.dimensions[side]} dimensions: vectors collapse. Raise the temperature of "
            "the loss or of the contrast, lower the weight of self-supervised terms or the learning rate, or add "
            "`SpreadOut`"
        )
        return f"epoch {entry['epoch']}: the {side} vectors {what}"

    def state_dict(self) -> dict[str, Any]:
        """The values so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the list."""
        self.history = state_dict["history"]


def rank_curves(history: Sequence[Mapping[str, float]]) -> dict[str, pd.Series]:
    """The effective rank of item and user vectors by epoch, from 1, of at least one entry of a history.

    Example:
        >>> entries = [{"epoch": 0, "item_effective_rank": 7.0, "user_effective_rank": 3.0}]
        >>> {name: curve.to_dict() for name, curve in rank_curves(entries).items()}
        {'items': {1: 7.0}, 'users': {1: 3.0}}
    """
    frame = pd.DataFrame(list(history)).set_index("epoch")
    frame.index += 1
    return {f"{side}s": frame[f"{side}_{RANK}"] for side in SIDES}


@dataclass(frozen=True)
class _Vectors:
    """What is measured, `[n, d]` each: items, and users with the item that each takes next."""

    items: Tensor
    users: Tensor
    targets: Tensor
