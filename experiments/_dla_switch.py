"""Cells of a switch: position bias becomes more severe in the middle of a training, and propensities must follow."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import lightning as L
import torch
from _dla_cells import TOP, USERS, Cell, Size, positions, world
from _dla_tables import table
from torch.optim import Optimizer

from recsys.evaluation.graded import graded_metrics
from recsys.models.ltr_scorer import PointwiseScorer
from recsys.training.callbacks import interruptible
from recsys.training.listwise import ListwiseModule, adagrad
from recsys.training.table_optimizers import OptimizerFactory
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.identifiability import position_r2
from recsys.unbiased.sessions import Sessions
from recsys.unbiased.shown_lists import ShownLists

AFTER = 2.0
"""Severity of the second half; that of the first is the cell's."""
LOOKS = 8
"""Times in each half at which propensities are looked at."""


def adam(params: Iterable[Any], lr: float = 0.005) -> Optimizer:
    """Goes on moving where Adagrad's steps have become short."""
    return torch.optim.Adam(params, lr=lr)


OPTIMIZERS: dict[str, OptimizerFactory] = {"adagrad": adagrad, "adam": adam}


@dataclass(frozen=True)
class SwitchCell(Cell):
    """One training whose users change; `method` is the optimizer of both parts of dual learning."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"switch-{super().name}"


def switch_cells(seeds: int) -> list[Cell]:
    """From severity 1 to `AFTER`."""
    return [SwitchCell("position", 1.0, "medium", None, method, seed) for method in OPTIMIZERS for seed in range(seeds)]


class Switched:
    """Batches of sessions of one severity, and of another from some batch on."""

    def __init__(self, first: Sessions, then: Sessions, after: int):
        self.first, self.then, self.after = first, then, after

    def __iter__(self) -> Iterator[ShownLists]:
        yield from islice(self.first, self.after)
        yield from self.then


class Followed(L.Callback):
    """Keeps the propensities every some steps.

    Attributes:
        curves: (step, relative propensities) in the order of time.
    """

    def __init__(self, every: int):
        self.every = every
        self.curves: list[tuple[int, list[float]]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ListwiseModule)
        found = pl_module.loss.relative_propensities()
        if found is not None and trainer.global_step % self.every == 0:
            self.curves.append((trainer.global_step, found[0].tolist()))


def run_switch(cell: Cell, size: Size) -> dict[str, Any]:
    """Trains and judges one cell; half of the steps come before the switch."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    shown, test, half = world(cell.ranker, size).shown, world(cell.ranker, size).test, size.steps // 2
    severities = (cell.eta, AFTER)
    sessions = [
        Sessions(shown, USERS[cell.users](eta), size.batch_size, seed=1 + cell.seed + 30_000 * number)
        for number, eta in enumerate(severities)
    ]
    torch.manual_seed(cell.seed)
    optimizer, loss = OPTIMIZERS[cell.method], DualLearning(TOP)
    module = ListwiseModule(PointwiseScorer(test.features.shape[2]), loss, optimizer, optimizer)
    followed = Followed(max(half // LOOKS, 1))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=size.steps, max_epochs=-1, gradient_clip_val=5.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[followed],
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    with interruptible(trainer):
        trainer.fit(module, Switched(*sessions, half))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    with torch.no_grad():
        metrics = graded_metrics(module(test.features), test.label, test.mask)
    before, after = (positions(cell.users, eta, cell.ranker, size) for eta in severities)
    return {
        "cell": asdict(cell),
        "size": asdict(size),
        "metrics": {name: [None if v != v else v for v in values.tolist()] for name, values in metrics.items()},
        "propensities": followed.curves[-1][1],
        "examined": after["examined"].tolist(),
        "examined_before": before["examined"].tolist(),
        "clicks": after["clicks"].tolist(),
        "clicks_before": before["clicks"].tolist(),
        "followed": [{"step": step, "propensities": curve} for step, curve in followed.curves],
        "position_r2": position_r2([ShownLists(shown.features, shown.mask.float(), shown.mask)]),
        "parts": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "seconds": seconds,
        "cpu_seconds": cpu,
    }


def switch_table(wanted: Sequence[Cell], finished: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `table`, each with the mean course of its propensities and how far they were off."""
    rows = table(wanted, finished)
    for row in rows:
        of_row = [finished[cell.name] for cell in wanted if cell.name in finished and cell.method == row["method"]]
        row["followed"] = [_look(of_row, number) for number in range(len(of_row[0]["followed"]))]
    return rows


def _look(contents: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    """One look, over the seeds: the mean absolute log error against the truth of its time, weighted by clicks."""
    step = contents[0]["followed"][number]["step"]
    when = "_before" if step <= contents[0]["size"]["steps"] // 2 else ""
    truth, clicks = (torch.tensor(contents[0][name + when]) for name in ("examined", "clicks"))
    curves = torch.tensor([content["followed"][number]["propensities"] for content in contents])
    errors = ((curves / truth).log().abs() * clicks).sum(1)
    return {
        "step": step,
        "truth": truth.tolist(),
        "propensities": curves.log().mean(0).exp().tolist(),
        "log_error": errors.mean().item(),
    }
