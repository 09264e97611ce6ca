"""One optimizer to Lightning, two inside: tables by rows, everything else densely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torchrec.distributed.types import ShardedModule


class CombinedOptimizer(Optimizer):
    """Steps several optimizers as one, so that schedulers, accumulation and checkpoints work as with any other.

    Args:
        optimizers: optimizers over disjoint parameters, by name.
    """

    def __init__(self, optimizers: dict[str, Optimizer]):
        self.optimizers = optimizers
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
        super().__init__(groups, {})
        # The very dictionaries of the parts: a scheduler that sets `lr` here sets it there.
        self.param_groups = groups

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Steps every part once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of every part."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of each part by its name."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores every part."""
        if set(state_dict) != set(self.optimizers):
            raise ValueError(f"checkpoint has optimizers {sorted(state_dict)}, the job {sorted(self.optimizers)}")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict[name])
        self.param_groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]


def table_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Weights of embedding tables that `table_optimizer` steps: those with sparse gradients, and data-parallel ones.

    Tables that are sharded in any other way are updated within the backward pass, and are not among them.
    """
    found = []
    for module in network.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            found.append(cast(nn.Parameter, module.weight))
        elif isinstance(module, ShardedModule):
            found += [weight for weight in module.parameters() if not hasattr(weight, "_in_backward_optimizers")]
    return found
