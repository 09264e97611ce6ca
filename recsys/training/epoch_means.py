"""Means over the steps of an epoch, which a resumed epoch goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override


class EpochMeans:
    """Logs the parts of a loss as `train/<part>`, means of an epoch over all ranks.

    Lightning checks and moves a value each time that it is logged, which small networks feel. Here a mean is logged
    once an epoch, and a step adds to its sum. Sums are part of a checkpoint, so that an epoch that is resumed in its
    middle has the means of all its steps.
    """

    def __init__(self) -> None:
        self._epoch = -1
        self._means: dict[str, _Mean] = {}
        self._logged: set[str] = set()  # by this process

    def log(self, module: L.LightningModule, parts: Mapping[str, Tensor], batch_size: int) -> None:
        """Adds the parts of a step.

        Args:
            module: that trains; in its `training_step`.
            parts: by name; `loss` goes to the progress bar too.
            batch_size: what the step counts in the mean.
        """
        if self._epoch != module.current_epoch:
            self._epoch, self._means, self._logged = module.current_epoch, {}, set()
        for name, value in parts.items():
            if name not in self._means:
                self._means[name] = _Mean()
            mean = self._means[name]
            if name not in self._logged:
                self._logged.add(name)
                mean.to(module.device)
                kept = f"means/{name}"  # where no attribute of the module is; Lightning wants a name
                shown = name == "loss"
                module.log(f"train/{name}", mean, on_step=False, on_epoch=True, prog_bar=shown, metric_attribute=kept)
            mean.update(value.detach(), batch_size)

    def state(self, module: L.LightningModule) -> dict[str, Any]:
        """The sums so far, for the checkpoint; every rank calls it."""
        sums = [float(mean.total) for mean in self._means.values()]
        if module.trainer.world_size > 1 and sums:
            # Of all ranks alike, so that any number of them can go on.
            of_rank = torch.tensor(sums, device=module.device)
            sums = module.trainer.strategy.reduce(of_rank, reduce_op="mean").tolist()
        counts = [int(mean.count) for mean in self._means.values()]
        return {"epoch": self._epoch, "sums": dict(zip(self._means, zip(sums, counts, strict=True), strict=True))}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on with the sums of `state()`."""
        self._epoch, self._logged = state["epoch"], set()
        self._means = {name: _Mean(*of_part) for name, of_part in state["sums"].items()}


class _Mean(Metric):
    """A weighted mean of scalars.

    Args:
        total: weighted sum of those before.
        count: sum of their weights.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(total), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(count), dist_reduce_fx="sum")

    @override
    def update(self, value: Tensor, weight: int) -> None:
        self.total.add_(value * weight)  # in place: a module looks at each tensor that it is given
        self.count.add_(weight)

    @override
    def compute(self) -> Tensor:
        return self.total / self.count
