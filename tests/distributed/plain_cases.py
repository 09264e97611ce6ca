"""What the strategy does for a module that knows nothing of this package."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader
from torchrec.distributed.types import ShardedModule

from recsys.training.sharding_plan import TableRule
from recsys.training.table_optimizers import dense_parameters, fused_optimizer
from tests.distributed.jobs import RANK, WORLD, Losses, of_ranks, trainer, whole
from tests.distributed.plain_module import PlainModule, batches

ADAGRAD = partial(torch.optim.Adagrad, lr=0.1)
"""Its state has the shape of the table, and so does not see how columns are cut."""


def loader() -> DataLoader[Any]:
    return DataLoader(batches(RANK, WORLD), batch_size=None)  # type: ignore[arg-type]


def by(kind: str, min_partition: int | None = None) -> dict[str, Any]:
    """The strategy with all tables sharded in one way."""
    rule = TableRule(sharding=[kind], min_partition=min_partition)  # type: ignore[list-item]
    return {"rules": {"item": rule, "kind": rule}}


def saving(folder: Path, **arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, enable_version_counter=False, **arguments)


def fit(
    strategy: dict[str, Any], resume: Path | None = None, save: Path | None = None, epochs: int = 4, **arguments: Any
) -> dict[str, Any]:
    """Trains to the end of an epoch, and writes a checkpoint in the middle of the second."""
    torch.manual_seed(4)
    module, losses = PlainModule(**arguments), Losses()
    callbacks: list[L.Callback] = [losses]
    if save is not None:
        callbacks.append(saving(save, filename="end", every_n_epochs=2, save_on_train_epoch_end=True, save_top_k=-1))
    job = trainer(strategy, callbacks, saves=save is not None, max_epochs=epochs)
    job.fit(module, loader(), ckpt_path=resume)
    fused = fused_optimizer(module)
    return {
        "losses": losses.values,
        "rates": losses.rates,
        "weights": whole(module),
        "tables": len(fused.params) if fused is not None else None,
        "logged": float(job.callback_metrics["loss"]),
    }


CUTS = {
    "row_wise": (by("row_wise"), {}),
    "table_wise": (by("table_wise"), {}),
    "column_wise": (by("column_wise", min_partition=8), {"table_optimizer": ADAGRAD}),
    "cut": (by("column_wise", min_partition=8), {}),
    "one table": ({"rules": {"item": TableRule(sharding=["table_wise"])}}, {"bags": False}),
}
"""Name -> strategy and module. `cut` has one row-wise state for every cut."""


def plain(folder: Path) -> Any:
    """Trained in one go."""
    return of_ranks({name: fit(strategy, **arguments) for name, (strategy, arguments) in CUTS.items()})


def plain_saved(folder: Path) -> Any:
    """Saved in the middle, and continued on the ranks that saved it."""
    found = {}
    for name, (strategy, arguments) in CUTS.items():
        fit(strategy, save=folder / "cuts" / name, epochs=2, **arguments)
        found[name] = fit(strategy, resume=folder / "cuts" / name / "end.ckpt", **arguments)
    return of_ranks(found)


def plain_elsewhere(folder: Path) -> Any:
    """Continued on another number of ranks."""
    found = {
        name: fit(strategy, resume=folder / "cuts" / name / "end.ckpt", **arguments)
        for name, (strategy, arguments) in CUTS.items()
    }
    return of_ranks(found)


def evaluated(folder: Path) -> Any:
    """Validation and prediction after training, from a checkpoint without training, and from nothing."""
    torch.manual_seed(4)
    strategy = by("row_wise")
    job = trainer(strategy, [saving(folder / "evaluated", filename="last")], saves=True, max_epochs=2)
    fitted = PlainModule()
    job.fit(fitted, loader())
    path = folder / "evaluated" / "last.ckpt"
    after = {
        "validated": job.validate(fitted, loader(), verbose=False),
        "reloaded": job.validate(fitted, loader(), ckpt_path=str(path), verbose=False),
        "predicted": torch.cat(job.predict(fitted, loader())),
    }
    fresh, other = PlainModule(), trainer(strategy)
    from_checkpoint = {
        "validated": other.validate(fresh, loader(), ckpt_path=str(path), verbose=False),
        "predicted": torch.cat(other.predict(fresh, loader())),
    }
    losses = Losses()
    going_on = trainer(strategy, [losses], max_epochs=2)
    module = PlainModule()
    going_on.validate(module, loader(), verbose=False)
    going_on.fit(module, loader())  # what was validated can be trained
    torch.manual_seed(RANK)  # as it is where nobody sets a seed
    unseeded = PlainModule()
    trainer(strategy).validate(unseeded, loader(), verbose=False)
    dense = torch.cat([weight.detach().flatten() for weight in dense_parameters(unseeded)])
    tables = [part for part in unseeded.modules() if isinstance(part, ShardedModule)]
    return of_ranks(
        {"after": after, "fresh": from_checkpoint, "then": losses.values, "dense": dense, "sharded": len(tables)}
    )


def kept(folder: Path) -> Any:
    """The two best checkpoints of some epochs; the losses of the epochs."""
    epochs = []

    class Remember(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            epochs.append(float(trainer.callback_metrics["loss"]))

    for name, asynchronous in (("at once", False), ("meanwhile", True)):
        best = saving(
            folder / "kept" / name, filename="{epoch}", monitor="loss", save_top_k=2, save_last=True,
            save_on_train_epoch_end=True,
        )  # fmt: skip
        strategy = by("row_wise") | {"async_checkpoint": asynchronous}
        trainer(strategy, [Remember(), best], saves=True, max_epochs=5).fit(PlainModule(), loader())
    return of_ranks(epochs)


def stopped(folder: Path) -> Any:
    """The epochs until no improvement, of a value that differs among the ranks until it is averaged."""

    class Worse(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            # The means are 10, 9, 8, 9, 10, ...; the first rank alone would never stop.
            mean = 10.0 - trainer.current_epoch if trainer.current_epoch < 3 else 6.0 + trainer.current_epoch
            own = -20.0 * trainer.current_epoch
            pl_module.log("value", 2 * mean - own if RANK else own, sync_dist=True)

    stop = EarlyStopping("value", patience=2, check_on_train_epoch_end=True)
    job = trainer(by("row_wise"), [Worse(), stop], max_epochs=30)
    job.fit(PlainModule(), loader())
    return of_ranks({"epochs": job.current_epoch, "value": float(job.callback_metrics["value"])})


EVERYWHERE = {"plain": plain}
TWO = {"plain_saved": plain_saved, "evaluated": evaluated, "kept": kept, "stopped": stopped}
OTHERS = {"plain_elsewhere": plain_elsewhere}
