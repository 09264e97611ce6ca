"""One rank of `sharded_step_cost.py`: trains on synthetic batches, and says what a step took and what it held.

python -m torch.distributed.run --standalone --nproc-per-node 2 _sharded_worker.py task.json answer.json
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.negatives import Uniform
from recsys.features.schema import Schema
from recsys.losses.info_nce import InfoNCE
from recsys.models.synergen import SynerGen
from recsys.training.module import RecommenderModule
from recsys.training.objective import RetrievalObjective
from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.table_optimizers import fused_optimizer
from recsys.training.topology import TableRule
from recsys.training.torchrec_strategy import TorchRecStrategy
from recsys.training.usage import peak_rss_mib


@dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        rows: of the table of items.
        ranks: processes that share a batch.
        sharded: TorchRecStrategy and fused row-wise Adagrad; else dense gradients and Adam, as most jobs have them.
        width: of the model, and so of a row.
        batch: sequences of a step, of all ranks together.
        length: events of each.
        warm_up: steps before the clock starts.
        steps: timed ones.
    """

    rows: int
    ranks: int
    sharded: bool
    width: int
    batch: int
    length: int
    warm_up: int
    steps: int


class Synthetic(L.LightningDataModule):
    """Endless full histories; items are drawn from the whole table alike, which is the worst case for caches."""

    seed = 0

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.catalogue = Catalogue(
            schema=Schema(name="synthetic"),
            n_items=settings.rows - 1,
            n_users=settings.batch,
            table_rows={"item_id": settings.rows},
            counts=torch.ones(settings.rows, dtype=torch.int64),
            max_length=settings.length,
        )

    def train_dataloader(self) -> Iterator[SequenceBatch]:
        return iter(self.batch, None)

    def batch(self) -> SequenceBatch:
        """This rank's part of a batch, a day between events."""
        users, length = self.settings.batch // self.settings.ranks, self.settings.length
        days = torch.arange(length).repeat(users) * 86_400
        items = torch.randint(1, self.settings.rows, (2, users * length))
        return SequenceBatch.build(
            user_id=torch.arange(1, users + 1),
            lengths=torch.full((users,), length),
            item_id=items[0],
            timestamp=days,
            target=items[1],
            target_timestamp=days + 86_400,
        )


def network(settings: Settings, catalogue: Catalogue) -> SynerGen:
    return SynerGen(catalogue, width=settings.width, heads=1)


def objective() -> RetrievalObjective:
    return RetrievalObjective(InfoNCE(temperature=0.05), Uniform(256))


class DenseModule(L.LightningModule):
    """The same network with `nn.Embedding` and Adam as they come."""

    def __init__(self, settings: Settings, catalogue: Catalogue):
        super().__init__()
        self.catalogue = catalogue
        self.network, self.objective = network(settings, catalogue), objective()
        for module in self.network.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = False

    def on_fit_start(self) -> None:
        self.objective.setup(self.catalogue, 0, self.device)

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> torch.Tensor:
        return self.objective(self.network, batch)[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Clock(L.Callback):
    """Seconds from the end of a step to the end of the next: the batch, the step, and what Lightning does around it.

    Dense gradients of tables are measured too, in bytes: after training they are gone.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.gradients = 0

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.gradients = sum(table.grad.nbytes for table in plain_tables(module) if table.grad is not None)

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())

    def median(self, warm_up: int) -> float:
        return statistics.median(b - a for a, b in zip(self.ends[warm_up:], self.ends[warm_up + 1 :], strict=False))


def plain_tables(module: nn.Module) -> list[nn.Parameter]:
    """Weights of `nn.Embedding`; there are none where tables are sharded."""
    return [part.weight for part in module.modules() if isinstance(part, nn.Embedding)]


def held(module: L.LightningModule, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Tables and the state of their optimizer in this process."""
    if tables := plain_tables(module):
        return [*tables, *(part for table in tables for part in optimizer.state[table].values())]
    fused = fused_optimizer(module)
    assert fused is not None
    states = (part for state in fused.state_dict()["state"].values() for part in state.values())
    sharded = [part for part in (*module.state_dict().values(), *states) if isinstance(part, ShardedTensor)]
    return [shard.tensor for part in sharded for shard in part.local_shards()]


def main() -> None:
    warnings.filterwarnings("ignore")
    task, answer = map(Path, sys.argv[1:])
    settings = Settings(**json.loads(task.read_text()))
    torch.manual_seed(0)
    data, clock = Synthetic(settings), Clock()
    module: L.LightningModule = (
        RecommenderModule(partial(network, settings), objective(), table_optimizer=RowWiseAdagrad)
        if settings.sharded
        else DenseModule(settings, data.catalogue)
    )
    trainer = L.Trainer(
        max_steps=settings.warm_up + settings.steps + 1,
        accelerator="cpu",
        devices=settings.ranks,
        strategy=TorchRecStrategy(rules={"item_id": TableRule(sharding=["row_wise"])}) if settings.sharded else "auto",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    found = {
        "seconds": clock.median(settings.warm_up),
        "peak_rss_mib": peak_rss_mib(),
        "held_mib": (sum(tensor.nbytes for tensor in held(module, trainer.optimizers[0])) + clock.gradients) / 2**20,
    }
    ranks: list[Any] = [found]
    if dist.is_initialized():
        ranks = [None] * settings.ranks
        dist.all_gather_object(ranks, found)
    if trainer.is_global_zero:
        # The slowest and the largest rank: both are what a job has to be planned for.
        answer.write_text(json.dumps({name: max(rank[name] for rank in ranks) for name in found}))


if __name__ == "__main__":
    main()
