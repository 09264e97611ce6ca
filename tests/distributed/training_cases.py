"""The same training on one, two and three ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from recsys.features.batching import histories
from recsys.features.slate_table import SlateTable
from recsys.retrieval.sharded import ShardedRanker
from recsys.training.sharding_plan import TableRule
from tests.distributed.jobs import (
    EPOCHS,
    RANK,
    WORLD,
    Losses,
    decoder,
    joint,
    log_data,
    of_ranks,
    recommender,
    rules,
    softmax,
    trainer,
    two_towers,
    whole,
    with_auxiliary,
    with_slates,
)

CLIP = 0.02
"""Norm of the dense gradient; theirs is above it in every step."""
AUXILIARY: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "auxiliary": (("row_wise", "table_wise"), {"table_optimizer": partial(torch.optim.SGD, lr=0.1)}),
    "replicated_auxiliary": (("data_parallel",), {}),
}
"""Sharding and optimizer with which tables may be looked up twice in a step, as an auxiliary loss does."""


class Start(L.Callback):
    """Remembers the initial weights, or sets them."""

    def __init__(self, weights: dict[str, Tensor] | None = None) -> None:
        self.weights = weights

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.weights is None:
            self.weights = whole(pl_module)
        else:
            pl_module.load_state_dict(self.weights)


class Lists(L.Callback):
    """The best items, when training has ended, of users with and without history, whom the last rank alone asks for."""

    found: list[list[int]]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log, network = trainer.datamodule.log, pl_module.network  # type: ignore[attr-defined]
        users = np.arange(1, 9 if RANK == WORLD - 1 else 1)
        start = log.offsets[users]
        asked = histories(log, users, start, start + users % 3, 10)
        self.found = of_ranks(ShardedRanker(network.eval())(asked, 7).items.tolist())[-1]


def fit(
    folder: Path,
    strategy: dict[str, Any] | None,
    start: Start | None = None,
    batch_size: int = 12,
    schema: str = "schema",
    slates: SlateTable | None = None,
    callbacks: Sequence[L.Callback] = (),
    **arguments: Any,
) -> dict[str, Any]:
    """A training of the log, as a user would set it up."""
    losses, start = Losses(), start or Start()
    limits = {name: arguments.pop(name) for name in ("max_epochs", "max_steps", "precision") if name in arguments}
    module = recommender(**arguments)
    job = trainer(strategy, [losses, start, *callbacks], gradient_clip_val=CLIP, **limits)
    job.fit(module, datamodule=log_data(folder, batch_size, schema, slates))
    return {
        "losses": losses.values,
        "rates": losses.rates,
        "logged": {name: float(value) for name, value in job.callback_metrics.items()},
        "initial": start.weights,
        "weights": whole(module),
    }


def sharded(kind: str) -> Any:
    return lambda folder: fit(folder, {"rules": rules(kind)})


def column_wise(folder: Path) -> dict[str, Any]:
    # Each cut of a column-wise table has a row-wise state of its own; one state for each weight does not see the cuts.
    return fit(folder, {"rules": rules("column_wise")}, table_optimizer=partial(torch.optim.Adagrad, lr=0.05, eps=1e-8))


def planner(folder: Path) -> dict[str, Any]:
    return fit(folder, {})


def mixed(folder: Path) -> dict[str, Any]:
    return fit(folder, {"rules": rules("table_wise", "row_wise", "data_parallel")})


def joint_without_ranking(folder: Path) -> dict[str, Any]:
    return fit(folder, {"rules": rules("row_wise")}, objective=joint(), max_epochs=2)


def full_softmax(folder: Path) -> dict[str, Any]:
    return fit(folder, {"rules": rules("row_wise", "table_wise")}, objective=softmax(), max_epochs=2)


def two_tower(folder: Path) -> dict[str, Any]:
    """Tables of items, cut by rows, of their features, and of users."""
    cut = rules("row_wise", "table_wise") | {"user_id": TableRule(sharding=["table_wise"])}
    lists = Lists()
    return fit(folder, {"rules": cut}, callbacks=[lists], **of_two_towers()) | {"lists": lists.found}


def unsharded_two_tower(folder: Path) -> dict[str, Any]:
    """The same without the strategy."""
    started = torch.load(folder / "two_tower.1.pt", weights_only=True)["initial"]
    return fit(folder, None, Start(started), **of_two_towers())


def of_two_towers() -> dict[str, Any]:
    return {"network": two_towers, "schema": "with_users", "max_epochs": 2}


def single_windows(folder: Path) -> dict[str, Any]:
    """All ranks but one are idle in every step."""
    return fit(folder, {"rules": rules("row_wise", "table_wise")}, batch_size=1, max_steps=12)


def bf16(folder: Path) -> dict[str, Any]:
    return fit(folder, {"rules": rules("row_wise")}, precision="bf16-mixed", max_epochs=4)


def unsharded(folder: Path) -> dict[str, Any]:
    """Lightning without the strategy, from the initial weights of a sharded job."""
    started = torch.load(folder / "row_wise.1.pt", weights_only=True)["initial"]
    return fit(folder, None, Start(started))


def auxiliary(name: str) -> Any:
    """Sharded as one of `AUXILIARY`."""
    kinds, optimizer = AUXILIARY[name]
    return lambda folder: fit(folder, {"rules": rules(*kinds)}, **beside(), **optimizer)


def slates(folder: Path) -> dict[str, Any]:
    kinds, optimizer = AUXILIARY["auxiliary"]
    table = SlateTable(str(folder / "slates.parquet"), batch_size=7, query="query")
    network = partial(decoder, ranking=True)
    job: dict[str, Any] = {"objective": with_slates(), "network": network, "max_epochs": 2, "slates": table}
    # Adam would make whole steps of gradients that are rounding, as those of a ranking head that starts at zero.
    return fit(folder, {"rules": rules(*kinds)}, optimizer=partial(torch.optim.SGD, lr=0.1), **job, **optimizer)


def unsharded_auxiliary(folder: Path) -> dict[str, Any]:
    """The same without the strategy."""
    found = {}
    for name, (_, optimizer) in AUXILIARY.items():
        started = torch.load(folder / f"{name}.1.pt", weights_only=True)["initial"]
        found[name] = fit(folder, None, Start(started), **beside(), **optimizer)
    return found


def beside() -> dict[str, Any]:
    return {"objective": with_auxiliary(), "maskable": True, "max_epochs": 2}


def shares(folder: Path) -> list[list[list[int]]]:
    """The users with targets of each step of each rank."""
    data = log_data(folder)
    data.trainer = trainer({}, max_epochs=EPOCHS)
    found = []
    for batch in data.batches:
        row = torch.repeat_interleave(batch.user_id, batch.lengths)
        assert batch.target is not None
        found.append(row[batch.target > 0].unique().tolist())
    return of_ranks(found)


EVERYWHERE = {
    "row_wise": sharded("row_wise"),
    "table_wise": sharded("table_wise"),
    "data_parallel": sharded("data_parallel"),
    "column_wise": column_wise,
    "mixed": mixed,
    "planner": planner,
    "joint": joint_without_ranking,
    "full_softmax": full_softmax,
    "two_tower": two_tower,
    "single_windows": single_windows,
    "slates": slates,
} | {name: auxiliary(name) for name in AUXILIARY}
ALONE = {
    "unsharded": unsharded,
    "unsharded_auxiliary": unsharded_auxiliary,
    "unsharded_two_tower": unsharded_two_tower,
}
TOGETHER = {"shares": shares}
TWO = TOGETHER | {"bf16": bf16}
