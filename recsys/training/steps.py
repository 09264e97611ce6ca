"""What a step of every LightningModule here does with the parts of its loss, and with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L
from torch import Tensor, nn


def log_parts(module: L.LightningModule, parts: Mapping[str, Tensor], batch_size: int) -> None:
    """Logs the parts of a loss as `train/<part>`, means of an epoch over all ranks.

    Lightning checks and moves all that it keeps of a value each time it is logged, which small networks feel. A value
    whose sum the epoch has begun is added to it straight.

    Args:
        module: that trains.
        parts: by name; `loss` goes to the progress bar too.
        batch_size: what the step counts in the mean.
    """
    sums = module.trainer._results
    for name, value in parts.items():
        key = f"{module._current_fx_name}.train/{name}"
        if sums is not None and key in sums and not sums[key].has_reset:
            sums.update_metrics(key, value.detach(), batch_size)
            continue
        module.log(
            f"train/{name}",
            value,
            on_step=False,
            on_epoch=True,
            prog_bar=name == "loss",
            batch_size=batch_size,
            sync_dist=True,
        )


def clip_gradients(weights: Sequence[nn.Parameter], value: float | None, algorithm: str | None) -> None:
    """Clips gradients in place as `trainer.gradient_clip_val` and `trainer.gradient_clip_algorithm` say; None: not."""
    if value is None:
        return
    if algorithm == "value":
        nn.utils.clip_grad_value_(weights, value)
    else:
        nn.utils.clip_grad_norm_(weights, value)
