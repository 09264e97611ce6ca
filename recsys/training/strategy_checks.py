"""What a trainer may not be set to when tables are sharded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch.nn.parallel import DistributedDataParallel


class StrategyError(ValueError):
    """A trainer is set to something that sharded tables cannot do."""


def check(trainer: L.Trainer, precision: Precision, fitting: bool) -> None:
    """Sees that what a trainer is set to can be done.

    Args:
        trainer: with its module.
        precision: the plugin of the strategy.
        fitting: whether the module is trained.

    Raises:
        StrategyError: it cannot; the message says what can.
    """
    scaled = isinstance(precision, MixedPrecision) and precision.scaler is not None
    if type(precision) is not Precision and not isinstance(precision, MixedPrecision):
        raise StrategyError(
            f"trainer.precision: {trainer.precision}: TorchRec's tables are float32; use 32-true, or bf16-mixed, which "
            "leaves tables and weights as they are"
        )
    if fitting and scaled:
        raise StrategyError(
            f"trainer.precision: {trainer.precision}: tables are updated in the backward pass, before the loss scale "
            "is taken out of gradients; use bf16-mixed, which needs no scale"
        )
    if fitting and _accumulates(trainer):
        raise StrategyError(
            "trainer.accumulate_grad_batches: sharded tables are updated in every backward pass, so that nothing can "
            "be accumulated; leave it at 1 and raise `data.batch_size`"
        )
    if fitting and not trainer.lightning_module.automatic_optimization:
        raise StrategyError(
            "automatic_optimization: False: the gradients of the dense weights are averaged over the ranks after "
            "`training_step`, which therefore cannot step optimizers itself; return the loss"
        )

    strategy: Any = trainer.strategy
    unused = {
        "trainer.sync_batchnorm": strategy._layer_sync,
        "ddp_comm_hook": strategy._ddp_comm_hook,
        "model_averaging_period": strategy._model_averaging_period,
    }
    if fitting and (given := [name for name, value in unused.items() if value is not None]):
        raise StrategyError(f"{given[0]}: the strategy of sharded tables has no use for it; leave it out")


def check_lookups(module: L.LightningModule, adaptive: Sequence[str]) -> None:
    """Sees that what a step looks up several times can be updated as often.

    A fused optimizer steps a table for each lookup. Two steps of SGD are one of the sum of both gradients; with an
    optimizer that keeps a state they are another training than that of one process without sharded tables.

    Args:
        module: which says in `table_lookups`, 1 where it says nothing, how often a step looks the same table up.
        adaptive: tables that such an optimizer steps.

    Raises:
        StrategyError: they cannot.
    """
    if getattr(module, "table_lookups", 1) > 1 and adaptive:
        raise StrategyError(
            f"table `{adaptive[0]}` is looked up more than once in a step, for auxiliary losses, and its optimizer "
            "would step it each time; set `model.table_optimizer` to torch.optim.SGD, shard it `data_parallel`, or "
            "leave the auxiliary losses out"
        )


def check_restarts(environment: Mapping[str, str]) -> None:
    """Sees that torchrun can restart the job, if it was told to.

    Processes that are started again share torchrun's store with those that died, and take the addresses of the dead
    from it (torch 2.13).

    Args:
        environment: of the process.

    Raises:
        StrategyError: it cannot.
    """
    shares_store = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shares_store and environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise StrategyError(
            "torchrun --max-restarts: processes would look for each other where they were before the restart; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, and --standalone or --rdzv-backend c10d"
        )


def _accumulates(trainer: L.Trainer) -> bool:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    planned = any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks)
    return planned or trainer.accumulate_grad_batches != 1


def unusual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of DistributedDataParallel that differ from its own: YAML hands every one over."""
    usual = inspect.signature(DistributedDataParallel).parameters
    return {name: value for name, value in settings.items() if name not in usual or value != usual[name].default}
