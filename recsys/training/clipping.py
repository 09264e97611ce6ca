"""How every LightningModule here clips gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def clip_gradients(weights: Sequence[nn.Parameter], value: float | None, algorithm: str | None) -> None:
    """Clips gradients in place as `trainer.gradient_clip_val` and `trainer.gradient_clip_algorithm` say; None: not."""
    if value is None:
        return
    if algorithm == "value":
        nn.utils.clip_grad_value_(weights, value)
    else:
        nn.utils.clip_grad_norm_(weights, value)
