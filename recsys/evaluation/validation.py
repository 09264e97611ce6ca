"""Full-catalogue validation while a model trains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import lightning as L
import numpy as np
import torch

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.metrics import Targets, propensities
from recsys.evaluation.result import Evaluation
from recsys.evaluation.tasks import tasks_of
from recsys.evaluation.weighted_metrics import weighted_metrics
from recsys.features.splits import Split
from recsys.models.recommender import Recommender


class RankingValidation(L.Callback):
    """Ranks the whole catalogue for the validation users and logs the metrics, `val/NDCG@10` among them.

    The log of a split without validation users is left as it is. Early stopping and checkpointing monitor what this
    logs, so it must stand before them in the list of callbacks. The history of values is in the checkpoint.

    Every rank of a job logs the same values: ranks share the work where tables are sharded, and repeat it elsewhere.

    In a log with queries each task is judged by itself, as `val/search_NDCG@10` and `val/recommendation_NDCG@10`;
    `val/NDCG@10` is then their mean, so that the rarer task counts like the other.

    What users chose to validate with is as biased as what they chose to train with: unweighted, it prefers models that
    recommend what is popular. With `snips_power`, `val/snips_MAP@10`, Recall and NDCG stand beside the others, in which
    an item to be found counts by its inverse propensity, normalised.

    Args:
        k: length of the list that metrics look at.
        every_n_epochs: epochs from one validation to the next; the first and the last epoch are always validated.
        users: validate on this many users, the same each time; None: all.
        seed: draws the users.
        snips_power: the propensity of an item is the number of its training and validation events, at least 1, to this
            power; 0 weighs all items alike, and (gamma + 1) / 2 is that of a power law of exponent gamma: 1.5 of 2.
            None: no weighted metrics.

    Raises:
        ValueError: a number is not positive, or the power negative.

    Source:
        Yang et al., "Unbiased Offline Recommender Evaluation for Missing-Not-At-Random Implicit Feedback", RecSys 2018.
    """

    def __init__(
        self,
        k: int = 10,
        every_n_epochs: int = 1,
        users: int | None = None,
        seed: int = 0,
        snips_power: float | None = None,
    ):
        if k < 1 or every_n_epochs < 1 or (users is not None and users < 1):
            raise ValueError("k, every_n_epochs and users must be positive")
        if snips_power is not None and not snips_power >= 0:
            raise ValueError(f"snips_power must be at least 0, not {snips_power}")
        self.k, self.every_n_epochs, self.users, self.seed = k, every_n_epochs, users, seed
        self.snips_power = snips_power
        self.history: list[dict[str, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Early stopping looks at the last values in every epoch; a resumed run would not have them before the next."""
        for last in self.history[-1:]:
            values = {f"val/{name}": torch.tensor(value) for name, value in last.items() if name != "epoch"}
            trainer.callback_metrics.update(values)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validates, if it is this epoch's turn."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        last = trainer.max_epochs is not None and 0 < trainer.max_epochs <= trainer.current_epoch + 1  # -1: no limit
        if not len(data.split.validation) or (trainer.current_epoch % self.every_n_epochs and not last):
            return
        users = data.split.validation
        split = replace(data.split, validation=users if self.users is None else users.sample(self.users, self.seed))
        network = cast(Recommender, pl_module.network)
        tasks = tasks_of(split, "validation")
        found = {}
        for task in tasks:
            evaluation = evaluate(
                network, split, which="validation", task=task, ks=(self.k,), max_length=data.max_length, top=self.k
            )
            found[task] = evaluation.means() | self._snips(evaluation, split)
        values = {name: float(np.mean([means[name] for means in found.values()])) for name in found[tasks[0]]}
        if tasks[0] is not None:
            values |= {f"{task}_{name}": value for task, means in found.items() for name, value in means.items()}
        self.history.append({"epoch": trainer.current_epoch} | values)
        for name, value in values.items():
            pl_module.log(f"val/{name}", value, prog_bar=name.startswith(("NDCG", "snips_MAP")), sync_dist=True)

    def _snips(self, evaluation: Evaluation, split: Split) -> dict[str, float]:
        """The metrics of `weighted_metrics`, over all users: one with nothing to be found counts 0."""
        if self.snips_power is None:
            return {}
        validated = np.asarray(split.log.item_id)[split.validation.targets()]
        events = torch.from_numpy(split.train_counts() + np.bincount(validated, minlength=split.log.n_items + 1))
        table = evaluation.targets
        row, item, rank = (torch.from_numpy(column).long() for column in (table.row, table.item, table.rank))
        targets = Targets(row, item, rank, len(evaluation.users))
        metrics = weighted_metrics(targets, 1 / propensities(events, self.snips_power), (self.k,))
        return {f"snips_{name}": float(value.double().mean()) for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """The values so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the list."""
        self.history = state_dict["history"]
