"""The LightningModule of rankers that are trained on shown lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.losses.ranks import across_ranks, total
from recsys.training.clipping import clip_gradients
from recsys.training.epoch_means import EpochMeans
from recsys.training.optimizers import CombinedOptimizer
from recsys.training.table_optimizers import OptimizerFactory
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.shown_lists import ShownLists


def adagrad(params: Iterable[Any], lr: float = 0.05) -> Optimizer:
    """The default of both parts."""
    return torch.optim.Adagrad(params, lr=lr)


class ListwiseModule(L.LightningModule):
    """Trains a scorer of documents on a loss over clicks, and the loss's model of examination with it.

    Both losses come from one forward pass, and both parts take their step after it. `gradient_clip_val` of the trainer
    bounds the norm of each part by itself: the gradient of a large ranker does not shrink that of a few propensities.

    Args:
        scorer: from features `[B, L, F]` to scores `[B, L]`.
        loss: over clicks; None: `DualLearning` of ten positions.
        optimizer: makes the optimizer of the scorer.
        propensity_optimizer: makes that of the loss's parameters, if it has any; at a rate comparable to the other's.
            A much slower one leaves the ranker naive for long, a much faster one follows noise.
    """

    def __init__(
        self,
        scorer: nn.Module,
        loss: ClickLoss | None = None,
        optimizer: OptimizerFactory = adagrad,
        propensity_optimizer: OptimizerFactory = adagrad,
    ):
        super().__init__()
        self.scorer = scorer
        self.loss = loss if loss is not None else DualLearning()
        self.make_optimizer, self.make_propensity_optimizer = optimizer, propensity_optimizer
        self.means = EpochMeans()

    def forward(self, features: Tensor) -> Tensor:
        """Scores of documents; positions and clicks take no part."""
        scores: Tensor = self.scorer(features)
        return scores

    def training_step(self, batch: ShownLists, batch_idx: int) -> Tensor:
        """One loss value; its parts are logged."""
        with across_ranks(self.trainer.world_size > 1):
            loss, parts = self.loss(self.scorer(batch.features), batch)
            lists = int(total(torch.tensor(len(batch.click), device=self.device)))
        self.means.log(self, parts, lists)
        return loss

    def _parts(self) -> dict[str, list[nn.Parameter]]:
        parts = {"scorer": list(self.scorer.parameters()), "propensity": list(self.loss.parameters())}
        return {name: weights for name, weights in parts.items() if weights}

    def configure_optimizers(self) -> CombinedOptimizer:
        factories = {"scorer": self.make_optimizer, "propensity": self.make_propensity_optimizer}
        return CombinedOptimizer({name: factories[name](weights) for name, weights in self._parts().items()})

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips each part by itself."""
        for weights in self._parts().values():
            clip_gradients(weights, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the means of the epoch."""
        checkpoint["means"] = self.means.state(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them."""
        if "means" in checkpoint:  # older checkpoints have none
            self.means.load(checkpoint["means"])
