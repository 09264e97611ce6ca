"""Logged parts against Lightning's own means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from recsys.training.steps import log_parts

pytestmark = pytest.mark.filterwarnings("ignore")
EPOCHS, STEPS = 3, 5


class Logs(L.LightningModule):
    """Logs the same values twice, once as Lightning does; one of them is there in some steps alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.found: list[dict[str, float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        value = self.weight * batch.sum() / 3
        parts = {"loss": value.detach(), "graph": value}
        if (batch_idx + self.current_epoch) % 2:
            parts["late"] = batch.mean()
        rows = 1 + batch_idx * 7 + self.current_epoch
        log_parts(self, parts, rows)
        for name, part in parts.items():
            self.log(f"own/{name}", part, on_step=False, on_epoch=True, batch_size=rows)
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Read(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Logs)
        pl_module.found.append({name: value.item() for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("limits", [{}, {"max_steps": 2 * STEPS + 2}])
def test_logged_parts_are_the_means_that_lightning_makes(limits: dict[str, Any], tmp_path: Path) -> None:
    batches = torch.rand(STEPS, 4, generator=torch.Generator().manual_seed(0))
    module = Logs()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    L.Trainer(
        default_root_dir=tmp_path, max_epochs=EPOCHS, enable_checkpointing=False, callbacks=[Read()], **quiet, **limits
    ).fit(module, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert len(module.found) == EPOCHS
    for found in module.found:
        of_parts = {name.removeprefix("train/"): value for name, value in found.items() if name.startswith("train/")}
        assert of_parts.keys() == {"loss", "graph", "late"}
        assert of_parts == {name: found[f"own/{name}"] for name in of_parts}
    assert len({found["train/loss"] for found in module.found}) == EPOCHS  # an epoch does not add to the one before
