"""What the strategy refuses, and the sentence that it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision

from recsys.training.sharding_plan import Topology
from recsys.training.sparse_adam import SparseAdam
from tests.distributed.jobs import log_data, recommender, rules, trainer, with_auxiliary
from tests.distributed.plain_cases import by, loader
from tests.distributed.plain_module import PlainModule

ROWS = by("row_wise")


class Manual(PlainModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Without(PlainModule):
    """Forgets the optimizer of its tables."""

    def configure_model(self) -> None:
        super().configure_model()
        for weight in self.parameters():
            weight.__dict__.pop("_optimizer_classes", None)


def fit(strategy: dict[str, Any] = ROWS, module: L.LightningModule | None = None, **arguments: Any) -> L.Trainer:
    resume, callbacks = arguments.pop("resume", None), arguments.pop("callbacks", ())
    job = trainer(strategy, callbacks, **{"max_epochs": 1} | arguments)
    job.fit(module if module is not None else PlainModule(), loader(), ckpt_path=resume)
    return job


def twice() -> None:
    module = PlainModule()
    fit(module=module).fit(module, loader())


def by_two_trainers() -> None:
    module = PlainModule()
    fit(module=module)
    trainer(ROWS).validate(module, loader(), verbose=False)


def damaged(path: Path, file: str, change: Callable[[Path], Any]) -> None:
    other = path.with_name("damaged.ckpt")
    shutil.copytree(path, other, dirs_exist_ok=True)
    change(other / file)
    fit(resume=other)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def adamax(tables: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.Adamax(tables)


def refused(folder: Path) -> dict[str, list[str]]:
    path = folder / "cuts" / "row_wise" / "end.ckpt"
    one_table, cut = (folder / "cuts" / name / "end.ckpt" for name in ("one table", "cut"))
    plain_file = folder / "unsharded.ckpt"
    torch.save({}, plain_file)
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))  # type: ignore[attr-defined]
    attempts: dict[str, Callable[[], Any]] = {
        "accumulation": lambda: fit(accumulate_grad_batches=2),
        "planned accumulation": lambda: fit(callbacks=[GradientAccumulationScheduler({3: 2})]),
        "loss scale": lambda: fit(plugins=[scaled]),
        "short tables": lambda: fit(precision="bf16-true"),
        "manual": lambda: fit(module=Manual()),
        "batch norm": lambda: fit(sync_batchnorm=True),
        "hook": lambda: fit(ROWS | {"ddp_comm_hook": print}),
        "misspelt": lambda: fit(ROWS | {"async_chekpoint": True}),
        "adam": lambda: fit({}, PlainModule(table_optimizer=SparseAdam)),
        "adam of a recommender": lambda: trainer({}).fit(
            recommender(table_optimizer=SparseAdam), datamodule=log_data(folder)
        ),
        "forgotten": lambda: fit(module=Without()),
        "no kernel": lambda: fit(module=PlainModule(table_optimizer=adamax)),
        "setting": lambda: fit(
            module=PlainModule(table_optimizer=partial(torch.optim.Adagrad, initial_accumulator_value=1.0))
        ),
        "auxiliary": lambda: trainer({"rules": rules("data_parallel", "row_wise")}).fit(
            recommender(with_auxiliary(), maskable=True), datamodule=log_data(folder)
        ),
        "memory": lambda: fit({"topology": Topology(memory_gib=1e-6)}),
        "rule": lambda: fit({"rules": {"itm": ROWS["rules"]["item"]}}),
        "twice": twice,
        "two trainers": by_two_trainers,
        "other rows": lambda: fit(resume=path, module=PlainModule(items=77)),
        "table missing": lambda: fit(resume=one_table),
        "table too many": lambda: fit({}, module=PlainModule(bags=False), resume=path),
        "other optimizer": lambda: fit(
            module=PlainModule(table_optimizer=partial(torch.optim.SGD, lr=0.1)), resume=path
        ),
        "other cuts": lambda: fit(by("column_wise", min_partition=4), resume=cut),
        "not sharded": lambda: fit(resume=plain_file),
        "not there": lambda: fit(resume=folder / "nowhere.ckpt"),
        "no replicated": lambda: damaged(path, "replicated.pt", Path.unlink),
        "replicated cut short": lambda: damaged(path, "replicated.pt", cut_short),
        "shard cut short": lambda: damaged(path, "__0_0.distcp", cut_short),
        "metadata cut short": lambda: damaged(path, ".metadata", cut_short),
    }
    return {name: attempt_of(attempt) for name, attempt in attempts.items()}


def attempt_of(attempt: Callable[[], Any]) -> list[str]:
    """Class and message of the error."""
    try:
        attempt()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


ALONE = {"refused": refused}
