"""A small log with ids, side features and queries, and jobs on it, for the processes that these tests start."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
import yaml
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys.features.masking import RandomMasking
from recsys.features.negatives import Uniform
from recsys.features.slate_table import SlateTable
from recsys.features.splits import LeaveLastOut
from recsys.losses.full_softmax import FullSoftmax
from recsys.models.network import SequenceNetwork
from recsys.models.synergen import SynerGen
from recsys.models.two_tower import TwoTower
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.data import EventLogData
from recsys.training.feature_masking import FeatureMaskingSSL
from recsys.training.joint_objective import JointObjective
from recsys.training.module import RecommenderModule
from recsys.training.objective import Objective, RetrievalObjective
from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.sharding_plan import TableRule
from recsys.training.torchrec_strategy import TorchRecStrategy
from recsys.training.with_slates import WithSlates
from recsys.unbiased.dual_learning import DualLearning

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
USERS, BATCH, EPOCHS = 37, 12, 3
STEPS = 4
"""Of an epoch; the last has one user, so that all ranks but one are idle."""
TIMEOUT = timedelta(seconds=60)
"""After which a rank that waits for another gives up."""
TABLES = ("item_id", "tags", "words")
WORDS = np.array(["red", "blue", "soap", "cream", "brush", "oil", "balm", "wax"])


def write_log(folder: Path) -> None:
    """Events with and without queries, and items with tags and titles."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), random.integers(4, 12, USERS))
    item = random.integers(0, 50, len(user))
    titles = np.array([" ".join(random.choice(WORDS, 3, replace=False)) for _ in range(50)])
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": 1_000_000 + 60 * np.arange(len(user))})
    asked = random.random(len(user)) < 0.4
    events["query"] = pd.Series([title.split()[random.integers(3)] for title in titles[item]]).where(asked)
    events.to_parquet(folder / "events.parquet")
    write_slates(folder / "slates.parquet", events)
    tags = [[str(tag) for tag in random.integers(0, 9, random.integers(0, 4))] for _ in range(50)]
    pd.DataFrame({"item_id": np.arange(50), "tags": tags, "title": titles}).to_parquet(folder / "items.parquet")
    schema = {
        "name": "toy",
        "events": {"query": "query"},
        "features": [
            {"name": "tags", "column": "tags", "type": "categorical_list"},
            {"name": "title", "column": "title", "type": "text", "table": "words"},
            {"name": "asked", "type": "text", "entity": "query", "table": "words"},
        ],
    }
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    (folder / "with_users.yaml").write_text(yaml.safe_dump(schema | {"user_table": {}}))


def write_slates(path: Path, events: pd.DataFrame) -> None:
    """Slates of 2 to 5 items at the times of some of the events, a few of them searches."""
    random = np.random.default_rng(1)
    heads = events.sample(90, random_state=1).reset_index(drop=True)
    lengths = random.integers(2, 6, len(heads))
    shown = heads.loc[np.repeat(heads.index, lengths), ["user_id", "timestamp", "query"]]
    shown = shown.assign(request_id=shown.index, position=np.concatenate([np.arange(1, n + 1) for n in lengths]))
    shown["item_id"] = np.concatenate([random.permutation(50)[:n] for n in lengths])
    shown.assign(click=(random.random(len(shown)) < 0.4).astype(int)).to_parquet(path)


def log_data(
    folder: Path, batch_size: int = BATCH, schema: str = "schema", slates: SlateTable | None = None
) -> EventLogData:
    files = {name: str(folder / f"{name}.parquet") for name in ("events", "items")}
    return EventLogData(
        schema=str(folder / f"{schema}.yaml"), **files, cache=str(folder / "cache"), split=LeaveLastOut(),
        batch_size=batch_size, max_length=10, slates=slates,
    )  # fmt: skip


def rules(*sharding: str) -> dict[str, TableRule]:
    """The sharding of each table; the last holds for those that are left."""
    each = sharding + sharding[-1:] * (len(TABLES) - len(sharding))
    return {
        name: TableRule(sharding=[kind], min_partition=16 if kind == "column_wise" else None)
        for name, kind in zip(TABLES, each, strict=True)
    }


def retrieval() -> Objective:
    return RetrievalObjective(negatives=Uniform(20))


def joint() -> Objective:
    return JointObjective(negatives=Uniform(20))


def with_auxiliary() -> Objective:
    return WithAuxiliary(retrieval(), [FeatureMaskingSSL(RandomMasking(), weight=0.5, n=16)])


def with_slates() -> Objective:
    return WithSlates(joint(), DualLearning(5), propensity_optimizer=partial(torch.optim.SGD, lr=0.5))


def softmax() -> Objective:
    return RetrievalObjective(loss=FullSoftmax())


decoder = partial(SynerGen, width=32, layers=1, heads=2)
two_towers = partial(TwoTower, width=32, hidden=(32,), dim=32)


def recommender(
    objective: Objective | None = None,
    dropout: float = 0.0,
    maskable: bool = False,
    network: Callable[..., SequenceNetwork] = decoder,
    **arguments: Any,
) -> RecommenderModule:
    """A model whose weights are the same in every process."""
    torch.manual_seed(3)
    return RecommenderModule(
        partial(network, dropout=dropout, maskable=maskable),
        objective if objective is not None else retrieval(),
        **{
            "optimizer": partial(torch.optim.Adam, lr=1e-2),
            "table_optimizer": partial(RowWiseAdagrad, lr=0.05),
            "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.7),
        }
        | arguments,
    )


class Losses(L.Callback):
    """The losses of the steps over the whole batch, and the learning rates that they were made with."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.values.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))


def trainer(
    strategy: Mapping[str, Any] | None, callbacks: Sequence[L.Callback] = (), saves: bool = False, **arguments: Any
) -> L.Trainer:
    """A quiet trainer; `strategy` are the arguments of `TorchRecStrategy`, None is Lightning's own for one process."""
    return L.Trainer(
        **{"max_epochs": EPOCHS} | arguments,
        accelerator="cpu",
        devices=WORLD,
        strategy="auto" if strategy is None else TorchRecStrategy(**{"timeout": TIMEOUT} | dict(strategy)),
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=saves,
        enable_model_summary=False,
        callbacks=list(callbacks),
        use_distributed_sampler=False,
    )


def whole(module: L.LightningModule) -> dict[str, Tensor]:
    """The weights of a module on the first rank, tables gathered; every rank calls it."""
    weights = {}
    for name, weight in module.state_dict().items():
        if isinstance(weight, ShardedTensor):
            weights[name] = torch.zeros(weight.size())
            weight.gather(0, weights[name] if RANK == 0 else None)
        else:
            weights[name] = weight.detach().clone()
    return weights


def of_ranks(value: Any) -> list[Any]:
    """The values of all ranks, on all ranks."""
    found: list[Any] = [None] * WORLD
    dist.all_gather_object(found, value)
    return found
