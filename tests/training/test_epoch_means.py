"""Logged parts against Lightning's own means, in one go and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recsys.training.epoch_means import EpochMeans

pytestmark = pytest.mark.filterwarnings("ignore")
EPOCHS, STEPS = 3, 5


class Logs(L.LightningModule):
    """Logs the same values twice, once as Lightning does; one of them is there in some steps alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.means = EpochMeans()
        self.found: list[dict[str, float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        value = self.weight * batch.sum() / 3
        parts = {"loss": value.detach(), "graph": value}
        if (batch_idx + self.current_epoch) % 2:
            parts["late"] = batch.mean()
        rows = 1 + batch_idx * 7 + self.current_epoch
        self.means.log(self, parts, rows)
        for name, part in parts.items():
            self.log(f"own/{name}", part, on_step=False, on_epoch=True, batch_size=rows)
        return value

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["means"] = self.means.state(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.means.load(checkpoint["means"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Read(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Logs)
        pl_module.found.append({name: value.item() for name, value in trainer.callback_metrics.items()})


class Batches:
    """The same batches in each epoch; a position amid one is kept."""

    def __init__(self) -> None:
        self.of_epoch = torch.rand(STEPS, 4, generator=torch.Generator().manual_seed(0))
        self.next = 0

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Any:
        for place in range(self.next, STEPS):
            self.next = (place + 1) % STEPS
            yield self.of_epoch[place]

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


def train(folder: Path, resume: Path | None = None, callbacks: Any = (), **limits: Any) -> Logs:
    module = Logs()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = L.Trainer(
        default_root_dir=folder,
        enable_checkpointing=saves,
        callbacks=[Read(), *callbacks],
        **(quiet | {"max_epochs": EPOCHS} | limits),  # type: ignore[arg-type]
    )
    trainer.fit(module, Batches(), ckpt_path=resume)
    return module


def of_parts(found: dict[str, float], kind: str) -> dict[str, float]:
    return {name.removeprefix(f"{kind}/"): value for name, value in found.items() if name.startswith(f"{kind}/")}


@pytest.mark.parametrize("limits", [{}, {"max_steps": 2 * STEPS + 2}])
def test_logged_parts_are_the_means_that_lightning_makes(limits: dict[str, Any], tmp_path: Path) -> None:
    module = train(tmp_path, **limits)
    assert len(module.found) == EPOCHS
    for found in module.found:
        assert of_parts(found, "train").keys() == {"loss", "graph", "late"}
        assert of_parts(found, "train") == of_parts(found, "own")
    assert len({found["train/loss"] for found in module.found}) == EPOCHS  # an epoch does not add to the one before


@pytest.mark.parametrize("step", [STEPS + 1, 2 * STEPS - 1, 2 * STEPS])
def test_a_resumed_epoch_has_the_means_of_all_its_steps(step: int, tmp_path: Path) -> None:
    whole = [of_parts(found, "train") for found in train(tmp_path).found]
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    train(tmp_path, callbacks=[saved], max_steps=step)
    resumed = train(tmp_path, resume=tmp_path / f"step={step}.ckpt")
    assert [of_parts(found, "train") for found in resumed.found if of_parts(found, "train")] == whole[step // STEPS :]
    if step % STEPS:  # where Lightning counts the steps of this process alone
        assert of_parts(resumed.found[0], "own")["loss"] != whole[step // STEPS]["loss"]
