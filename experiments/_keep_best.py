"""The best weights of a training that writes no checkpoints."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor


class KeepBest(L.Callback):
    """Keeps the weights of the epoch that validated best, in memory.

    Args:
        monitor: value of the validation; the highest wins.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.best, self.epoch = -1.0, -1
        self.weights: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        if value > self.best:
            self.best, self.epoch = value, trainer.current_epoch
            network = pl_module.network
            assert isinstance(network, torch.nn.Module)
            self.weights = {name: weight.clone() for name, weight in network.state_dict().items()}
