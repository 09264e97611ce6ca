"""Who steps the embedding tables: an optimizer of PyTorch, or TorchRec's fused one within the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_in_backward
from torch.optim import Optimizer
from torchrec import optim as fused
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.fused import FusedOptimizerModule
from torchrec.optim.keyed import CombinedOptimizer as FusedOptimizers

from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.sparse_adam import SparseAdam

Collection: TypeAlias = EmbeddingCollection | EmbeddingBagCollection
SHARDED = (ShardedEmbeddingCollection, ShardedEmbeddingBagCollection)
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

NOT_FUSED = ("weight_decay", "momentum", "lr_decay", "initial_accumulator_value", "maximize")
"""Settings of PyTorch's optimizers that the kernels here are not given."""


class TableOptimizerError(ValueError):
    """Tables cannot be trained as they were asked to be."""


def collections(module: nn.Module) -> Iterator[tuple[str, Collection]]:
    """The TorchRec collections within a module by name."""
    for name, part in module.named_modules():
        if isinstance(part, Collection):
            yield name, part


def table_configs(part: Collection) -> Sequence[BaseEmbeddingConfig]:
    """The tables of a collection."""
    return part.embedding_configs() if isinstance(part, EmbeddingCollection) else part.embedding_bag_configs()


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
    if extra := [name for name in NOT_FUSED if group.get(name)]:
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


def adaptive_tables(module: nn.Module, plan: ShardingPlan) -> tuple[str, ...]:
    """The tables that a fused optimizer with a state will step, all but SGD; call it before they are sharded."""
    by_table: dict[str, Any] = {name: made for planned in plan.plan.values() for name, made in planned.items()}
    return tuple(
        config.name
        for _, part in collections(module)
        for config, weight in zip(table_configs(part), part.parameters(), strict=True)
        if by_table[config.name].sharding_type != "data_parallel"
        and getattr(weight, "_optimizer_classes", None) != [fused.SGD]
    )


def dense_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The weights that an optimizer of `configure_optimizers` steps: all but those of sharded tables."""
    return [weight for weight in module.parameters() if not hasattr(weight, "_in_backward_optimizers")]


def fused_optimizer(module: nn.Module) -> FusedOptimizers | None:
    """What steps the parts of sharded tables that this rank holds; None when no table of the module is sharded.

    Its learning rate is the one to schedule, as `FusedTables`.
    """
    parts = list(_topmost(module, ""))
    plans = [inner.module_sharding_plan for _, part in parts for inner in part.modules() if isinstance(inner, SHARDED)]
    if all(planned.sharding_type == "data_parallel" for plan in plans for planned in plan.values()):
        return None
    return FusedOptimizers([(name, part.fused_optimizer) for name, part in parts])


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

    It has a group for each learning rate that tables begin with, on a rank that holds no part of a table too, so that
    schedules and checkpoints are the same on all ranks. Its `step` does nothing: tables are updated in the backward
    pass, by the learning rate that `hand_on` has given them before the forward pass. Their state is sharded; the
    strategy saves it with the tables, and `state_dict` has none.

    Args:
        fused: of `fused_optimizer`; all ranks make theirs together.
    """

    def __init__(self, fused: FusedOptimizers):
        super().__init__([nn.Parameter(torch.zeros(0))], {})
        kernels = [kernel for kernel in _kernels(fused) if kernel.param_groups]
        begin = _of_all_ranks({kernel.param_groups[0]["lr"] for kernel in kernels})
        groups = {rate: {"params": [], "lr": rate} for rate in begin}
        self.param_groups = list(groups.values())
        for kernel in kernels:  # which reads the very dictionary that a scheduler writes to
            kernel.param_groups = [groups[kernel.param_groups[0]["lr"]]]

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
        """Takes the learning rates back.

        Raises:
            ValueError: the tables of the checkpoint had more or fewer of them.
        """
        rates = state_dict["lr"]
        if len(rates) != len(self.param_groups):
            raise ValueError(
                f"checkpoint has {len(rates)} learning rates of tables, the job {len(self.param_groups)}: resume with "
                "the optimizers of tables that it was saved with"
            )
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate


def _kernels(optimizer: Any) -> Iterator[Any]:
    """The optimizers within a combined one, each of one FBGEMM kernel."""
    if isinstance(optimizer, FusedOptimizers):
        for _, inner in optimizer.optimizers:
            yield from _kernels(inner)
    else:
        yield optimizer


def _of_all_ranks(rates: set[float]) -> list[float]:
    """The learning rates of all ranks, ascending."""
    found: list[set[float]] = [rates]
    if dist.is_initialized():
        found = [set()] * dist.get_world_size()
        dist.all_gather_object(found, rates)
    return sorted(set().union(*found))


def hand_on(fused: FusedOptimizers) -> None:
    """Gives kernels the learning rates of their groups; call it before the forward pass, which is when they read it."""
    fused.step()  # a fused optimizer does nothing else there
