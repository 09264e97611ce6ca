"""Who steps the embedding tables: an optimizer of PyTorch, or TorchRec's fused one within the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_in_backward
from torch.optim import Optimizer
from torchrec import optim as fused
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.fused import FusedOptimizerModule
from torchrec.optim.keyed import CombinedOptimizer as FusedOptimizers

from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.sparse_adam import SparseAdam

Collection: TypeAlias = EmbeddingCollection | EmbeddingBagCollection
OptimizerFactory = Callable[[Iterable[Any]], Optimizer]

FUSED: dict[type[Optimizer], tuple[type[Optimizer], Callable[[dict[str, Any]], dict[str, Any]]]] = {
    torch.optim.SGD: (fused.SGD, lambda group: {"lr": group["lr"]}),
    torch.optim.Adagrad: (fused.Adagrad, lambda group: {"lr": group["lr"], "eps": group["eps"]}),
    RowWiseAdagrad: (fused.RowWiseAdagrad, lambda group: {"lr": group["lr"], "eps": group["eps"]}),
    SparseAdam: (
        fused.Adam,
        lambda group: {
            "lr": group["lr"],
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
            "eps": group["eps"],
        },
    ),
}
"""Optimizer of PyTorch -> TorchRec's class for the fused kernel, and the arguments of the kernel."""

ON_CPU = (fused.SGD, fused.Adagrad, fused.RowWiseAdagrad)
"""Those that FBGEMM has for a CPU."""


class TableOptimizerError(ValueError):
    """Tables cannot be trained as they were asked to be."""


def collections(module: nn.Module) -> Iterator[tuple[str, Collection]]:
    """The TorchRec collections within a module by name."""
    for name, part in module.named_modules():
        if isinstance(part, Collection):
            yield name, part


def step_in_backward(module: nn.Module, factory: OptimizerFactory) -> None:
    """Gives every table of a module the fused counterpart of an optimizer; call it before the tables are sharded.

    Args:
        module: with TorchRec collections.
        factory: makes the optimizer; its class and settings are read from one that it makes for a stand-in.

    Raises:
        TableOptimizerError: the optimizer has settings, or is of a class, that no fused kernel has.

    Example:
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> table = EmbeddingBagConfig(name="words", embedding_dim=4, num_embeddings=9, feature_names=["words"])
        >>> bags = EmbeddingBagCollection(tables=[table], device=torch.device("meta"))
        >>> step_in_backward(bags, lambda tables: RowWiseAdagrad(tables, lr=0.1))
    """
    made = factory([nn.Parameter(torch.zeros(1, 1))])
    if type(made) not in FUSED:
        known = ", ".join(f"{kind.__module__}.{kind.__name__}" for kind in FUSED)
        raise TableOptimizerError(
            f"sharded tables are updated within the backward pass, and {type(made).__name__} has no kernel for it; "
            f"set `table_optimizer` to one of {known}"
        )
    (group,) = made.param_groups
    if extra := [name for name in ("weight_decay", "momentum", "lr_decay") if group.get(name)]:
        raise TableOptimizerError(f"the fused kernel of {type(made).__name__} takes no {', '.join(extra)}: leave it 0")
    kernel, arguments = FUSED[type(made)]
    for _, part in collections(module):
        apply_in_backward(kernel, part.parameters(), arguments(group))


def check_fused(module: nn.Module, device: torch.device) -> None:
    """Sees that every table has an optimizer that the device has a kernel for.

    Raises:
        TableOptimizerError: one has not; the message says what to do.
    """
    for path, part in collections(module):
        for name, weight in part.named_parameters():
            kinds = getattr(weight, "_optimizer_classes", [])
            if not kinds:
                raise TableOptimizerError(
                    f"table `{path}.{name}` has no optimizer: call `step_in_backward(self, ...)` at the end of "
                    "`configure_model`"
                )
            if device.type == "cpu" and kinds[0] not in ON_CPU:
                raise TableOptimizerError(
                    f"FBGEMM has no fused {kinds[0].__name__} for a CPU: set `model.table_optimizer` to "
                    "recsys.training.row_wise_adagrad.RowWiseAdagrad, or train on a GPU"
                )


def dense_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The weights that an optimizer of `configure_optimizers` steps: all but those of sharded tables."""
    return [weight for weight in module.parameters() if not hasattr(weight, "_in_backward_optimizers")]


def fused_optimizer(module: nn.Module) -> FusedOptimizers | None:
    """What steps the sharded tables of a module; None when none is sharded.

    Its learning rate is the one to schedule, as `FusedTables`.
    """
    found = [(name, part.fused_optimizer) for name, part in _topmost(module, "")]
    return FusedOptimizers(found) if any(optimizer.params for _, optimizer in found) else None


def _topmost(module: nn.Module, prefix: str) -> Iterator[tuple[str, Any]]:
    """Modules with a fused optimizer, not those within them."""
    for name, part in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(part, FusedOptimizerModule):
            yield path, part
        else:
            yield from _topmost(part, path)


class FusedTables(Optimizer):
    """Fused optimizers as one that Lightning can hold and a scheduler can drive.

    Its `step` does nothing: tables are updated in the backward pass, by the learning rate that `hand_on` has given them
    before the forward pass. Their state is sharded; the strategy saves it with the tables, and `state_dict` has none.

    Args:
        fused: of `fused_optimizer`.
    """

    def __init__(self, fused: FusedOptimizers):
        super().__init__([nn.Parameter(torch.zeros(0))], {})
        self.param_groups = list(fused.param_groups)  # the very dictionaries of the kernels

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Runs the closure."""
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: tables have no gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Learning rates alone."""
        return {"lr": [group["lr"] for group in self.param_groups]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the learning rates back; tables that are grouped otherwise have the same one."""
        rates = state_dict["lr"]
        for place, group in enumerate(self.param_groups):
            group["lr"] = rates[min(place, len(rates) - 1)]


def hand_on(fused: FusedOptimizers) -> None:
    """Gives kernels the learning rates of their groups; call it before the forward pass, which is when they read it."""
    fused.step()  # a fused optimizer does nothing else there
