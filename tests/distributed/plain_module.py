"""A LightningModule that uses nothing of this package but the strategy and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.models.tables import table_device
from recsys.training.optimizers import CombinedOptimizer
from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.table_optimizers import FusedTables, dense_parameters, fused_optimizer, step_in_backward

DIM, ITEMS, KINDS = 16, 101, 7
"""No number of rows is a multiple of a number of ranks."""


class PlainModule(L.LightningModule):
    """Learns a number from an item and a bag of its kinds."""

    def __init__(
        self,
        table_optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] = RowWiseAdagrad,
        items: int = ITEMS,
        bags: bool = True,
    ):
        super().__init__()
        self.table_optimizer = table_optimizer
        self.sizes = items, bags
        self.items: nn.Module | None = None
        self.bags: nn.Module | None = None

    def configure_model(self) -> None:
        if self.items is not None:
            return
        rows, bags = self.sizes
        items = EmbeddingConfig(name="item", embedding_dim=DIM, num_embeddings=rows, feature_names=["item"])
        kinds = EmbeddingBagConfig(name="kind", embedding_dim=DIM, num_embeddings=KINDS, feature_names=["kind"])
        self.items = EmbeddingCollection(tables=[items], device=table_device())
        if bags:
            self.bags = EmbeddingBagCollection(tables=[kinds], device=table_device())
        self.line = nn.Linear(DIM, 1)
        step_in_backward(self, self.table_optimizer)

    def forward(self, ids: Tensor) -> Tensor:
        assert self.items is not None
        ones = torch.ones_like(ids, dtype=torch.int32)
        vectors = self.items(KeyedJaggedTensor(keys=["item"], values=ids, lengths=ones))["item"].values()
        if self.bags is not None:
            kinds = torch.stack([ids % KINDS, ids * 7 % KINDS], dim=1).flatten()
            bags = KeyedJaggedTensor(keys=["kind"], values=kinds, lengths=2 * ones)
            vectors = vectors + self.bags(bags).to_dict()["kind"]
        return self.line(vectors).squeeze(-1)

    def training_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        loss = (self(ids) - torch.sin(ids.float())).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, ids: Tensor, batch_idx: int) -> None:
        self.log("val", (self(ids) - torch.sin(ids.float())).square().mean(), sync_dist=True)

    def predict_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        return self(ids)

    def configure_optimizers(self) -> dict[str, Any]:
        parts: dict[str, torch.optim.Optimizer] = {"dense": torch.optim.Adam(dense_parameters(self), lr=0.02)}
        if (fused := fused_optimizer(self)) is not None:
            parts["tables"] = FusedTables(fused)
        optimizer = CombinedOptimizer(parts)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def batches(rank: int, world: int, n: int = 5, size: int = 12) -> list[Tensor]:
    """The shares of a rank of some batches of item ids; `size` is a multiple of every number of ranks."""
    ids = torch.randint(1, ITEMS, (n, size), generator=torch.Generator().manual_seed(1))
    return [row[rank::world].contiguous() for row in ids]
