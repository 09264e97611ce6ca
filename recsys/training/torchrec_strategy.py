"""TorchRec's sharded tables in an ordinary Lightning job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardedModule, ShardingEnv, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.keyed import CombinedOptimizer

from recsys.models.tables import tables_on
from recsys.training import sharded_checkpoint
from recsys.training.callbacks import StoppedBetweenSteps
from recsys.training.even_bags import even_bags
from recsys.training.initial_tables import initialise
from recsys.training.mean_bags import mean_bags
from recsys.training.sharding_plan import TableRule, Topology, sharding_plan
from recsys.training.strategy_checks import StrategyError, check, check_lookups, check_restarts, unusual
from recsys.training.table_optimizers import (
    adaptive_tables,
    check_fused,
    collections,
    dense_parameters,
    fused_optimizer,
    hand_on,
    table_configs,
)
from recsys.training.table_sharders import table_sharders

DEFAULT_RULE = TableRule(sharding=("table_wise", "row_wise"))
"""Of a table without a rule. A data-parallel table has dense gradients, as large as itself; and by columns a row-wise
optimizer keeps a state for each cut, which is another training."""


class TorchRecStrategy(DDPStrategy):
    """Shards the TorchRec tables of a LightningModule, and trains everything else data-parallel.

    | question | answer |
    | --- | --- |
    | where are tables made? | in `configure_model`, on the device `table_device()`, which is `meta` there |
    | where is DistributedModelParallel? | around the LightningModule, as DDP is in Lightning's own strategies |
    | who updates tables? | fused optimizers, in the backward pass; `step_in_backward` in `configure_model` sets them |
    | who updates the rest? | the optimizer of `configure_optimizers`, over `dense_parameters(self)` |
    | and their learning rate? | `FusedTables`, an optimizer that a scheduler can drive |
    | how does a checkpoint move between world sizes? | by torch.distributed.checkpoint, which cuts the rows anew |

    Tables begin with the same weights however many ranks there are. One process is a valid job: its tables are updated
    in place without gradients of the size of the table.

    Accumulated gradients are refused, because tables change with every backward pass, and so is fp16 with a loss scale,
    which tables would take for the gradient; bf16 needs none. Gradient clipping looks at the dense weights.

    Args:
        rules: table name -> how it may be sharded; None: TorchRec's planner chooses among whole tables and rows.
        topology: memory and bandwidths for the planner; its ranks and device are those of the job. None: defaults.
        batch_size: rows that a rank looks up in a table in one step, for the planner.
        seed: of the initial tables.
        async_checkpoint: write checkpoints while training goes on; a checkpoint counts once the next one begins or
            training ends.
        find_unused_parameters: look for dense weights that a step did not use; needed where a part of the network
            works in some steps only.
        **kwargs: of Lightning's `DDPStrategy`, such as `process_group_backend` and `timeout`.

    Example:
        >>> L.Trainer(accelerator="cpu", devices=1, strategy=TorchRecStrategy(), logger=False).world_size
        1
    """

    def __init__(
        self,
        rules: Mapping[str, TableRule] | None = None,
        topology: Topology | None = None,
        batch_size: int = 512,
        seed: int = 0,
        async_checkpoint: bool = False,
        find_unused_parameters: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.rules = dict(rules or {})
        self.topology = topology or Topology()
        self.batch_size = batch_size
        self.seed = seed
        self.async_checkpoint = async_checkpoint
        self.find_unused_parameters = find_unused_parameters
        self.plan: ShardingPlan | None = None
        self.tables: tuple[str, ...] = ()
        self._adaptive: tuple[str, ...] = ()
        self._sharded: DistributedModelParallel | None = None
        self._fitted = False
        self._fused: CombinedOptimizer | None = None
        self._writers: dist.ProcessGroup | None = None
        self._writing: tuple[Any, Path] | None = None

    def setup_environment(self) -> None:
        check_restarts(os.environ)
        super().setup_environment()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Around `configure_model`: tables are shapes until they are sharded."""
        with tables_on("meta"):
            yield

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Shards are read into tables that exist."""
        return True

    def setup(self, trainer: L.Trainer) -> None:
        """Shards the tables, wraps the rest, and makes the optimizers."""
        assert self.accelerator is not None and self.lightning_module is not None
        fitting, module = trainer.state.fn == TrainerFn.FITTING, self.lightning_module
        check(trainer, self.precision_plugin, fitting)
        self.accelerator.setup(trainer)
        if self._sharded is None or self._sharded.module is not module:
            self._sharded, self._fitted = self._shard(module), False
        elif fitting and self._fitted:
            raise StrategyError(
                "the module was fitted by this trainer already, and its tables have the optimizer's state of that; "
                "make module and trainer anew, and go on from a checkpoint with `ckpt_path`"
            )
        if fitting:
            check_lookups(module, self._adaptive)
        self._fitted |= fitting
        self.model = self._sharded
        if fitting:
            self._sharded.init_data_parallel()
            self.setup_optimizers(trainer)
        else:
            self._sharded.to(self.root_device)
            for weight in dense_parameters(module):  # no DDP makes them equal without training
                dist.broadcast(weight.detach(), src=0)
        self.setup_precision_plugin()

    def _shard(self, module: nn.Module) -> DistributedModelParallel:
        device, ranks = self.root_device, self.world_size
        if any(isinstance(part, ShardedModule) for part in module.modules()):
            raise StrategyError(
                "the tables of the module are sharded by another trainer; go on with that one, or make the module anew "
                "and load a checkpoint with `ckpt_path`"
            )
        check_fused(module, device)
        made = list(_tables(module))
        self.tables = tuple(name for name, *_ in made)
        topology = replace(self.topology, ranks=ranks, device="cuda" if device.type == "cuda" else "cpu")
        names = [config.name for _, part in collections(module) for config in table_configs(part)]
        rules = dict.fromkeys(names, DEFAULT_RULE) | self.rules
        self.plan = sharding_plan(module, topology, rules, batch_size=self.batch_size)
        self._adaptive = adaptive_tables(module, self.plan)
        world = dist.GroupMember.WORLD
        assert world is not None
        sharded = DistributedModelParallel(
            module,
            env=ShardingEnv.from_process_group(world),
            device=device,
            plan=self.plan,
            sharders=table_sharders(),
            init_data_parallel=False,
            init_parameters=False,
            data_parallel_wrapper=DefaultDataParallelWrapper(
                static_graph=False,
                find_unused_parameters=self.find_unused_parameters,
                ddp_kwargs=unusual(self._ddp_kwargs),
            ),
        )
        mean_bags(module)
        even_bags(module)
        initialise(module, made, self.seed)
        self._fused = fused_optimizer(module)
        return sharded

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """One step, at the learning rate that the schedule has for it."""
        if self._fused is not None:
            hand_on(self._fused)
        return super().training_step(*args, **kwargs)

    def model_to_device(self) -> None:
        """Nothing: tables are made where they stay, and DistributedModelParallel moves the rest."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights of the module, tables as this rank's shards."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def _tables_of(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Tables by the names they have in a checkpoint."""
        return {f"{sharded_checkpoint.TABLE}.{name}": weights[name] for name in self.tables}

    def _fused_state(self) -> dict[str, dict[str, Any]]:
        """Weight -> state of its fused optimizer, of the weights that this rank has a part of."""
        return {} if self._fused is None else self._fused.state_dict()["state"]

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Writes a sharded checkpoint; all ranks call it."""
        self._finish_writing()
        path = Path(self.broadcast(str(filepath)))
        weights = checkpoint.pop("state_dict")
        state = self._tables_of(weights) | _named(self._fused_state())
        part = sharded_checkpoint.start(path)
        if self.is_global_zero:
            dense = {name: tensor for name, tensor in weights.items() if name not in self.tables}
            whole = checkpoint | {"state_dict": dense, "ranks": self.world_size}
            torch.save(whole, part / sharded_checkpoint.REPLICATED)
        if self.async_checkpoint:
            if self._writers is None:  # its own: in the group of training, calls of two threads would be mixed up
                self._writers = dist.new_group(backend="gloo", timeout=self._timeout)
            stager = BlockingAsyncStager()  # copies; the default one does not know ShardedTensor (torch 2.13)
            future = dcp.async_save(state, checkpoint_id=part, process_group=self._writers, async_stager=stager)
            self._writing = future, path
        else:
            dcp.save(state, checkpoint_id=part)
            sharded_checkpoint.finish(path)

    def _finish_writing(self) -> None:
        if self._writing is not None:
            (future, path), self._writing = self._writing, None
            future.result()
            sharded_checkpoint.finish(path)
            sharded_checkpoint.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads weights, and for training the state of the fused optimizer, into this rank's shards."""
        self._finish_writing()
        path = Path(self.broadcast(str(checkpoint_path)))
        if self.is_global_zero:
            sharded_checkpoint.settle(path)
        sharded_checkpoint.barrier()
        assert self.lightning_module is not None
        checkpoint = sharded_checkpoint.load_replicated(path, weights_only)
        weights = self.lightning_module.state_dict()
        state, fused = self._tables_of(weights), {}
        if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            fused = self._fused_state()
            state |= _named(fused)
        sharded_checkpoint.load_tables(path, state, stepped=fused)
        # Tables are read in place; what is returned has them too, so that Lightning's strict loading is content, and
        # those that the model has not, so that it is not.
        saved = sharded_checkpoint.tables(path)
        checkpoint["state_dict"] |= {name: weights.get(name, torch.empty(0)) for name in saved}
        return checkpoint

    def remove_checkpoint(self, filepath: Any) -> None:
        self._finish_writing()
        if self.is_global_zero:
            sharded_checkpoint.remove(Path(filepath))

    def on_exception(self, exception: BaseException) -> None:
        """Leaves a checkpoint unfinished when a rank fails, for the others would not finish it with this one."""
        if not isinstance(exception, StoppedBetweenSteps):
            self._writing = None
        super().on_exception(exception)

    def release(self) -> None:
        """Lets go of the shards after training; a checkpoint has them."""
        self.model = self._sharded = self._fused = None
        self.optimizers, self.lr_scheduler_configs = [], []

    def teardown(self) -> None:
        """Completes a checkpoint that is still being written."""
        self._finish_writing()
        if self._sharded is None:
            self._lightning_module = None  # whose tables are shapes: Lightning cannot move them, and would say so alone
        super().teardown()


def _named(fused: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """State of fused optimizers by the names it has in a checkpoint."""
    return {
        f"{sharded_checkpoint.OPTIMIZER}.{name}/{part.rpartition('.')[2]}": tensor
        for name, parts in fused.items()
        for part, tensor in parts.items()
        if isinstance(tensor, Tensor)
    }


def _tables(module: nn.Module) -> Iterator[tuple[str, tuple[int, int], Callable[[Tensor], Any]]]:
    """Name in the `state_dict`, (rows, dimensions) and initial weights of every table."""
    for path, part in collections(module):
        held = "embeddings" if isinstance(part, EmbeddingCollection) else "embedding_bags"
        for config in table_configs(part):
            assert config.init_fn is not None, "TorchRec fills it in"
            yield f"{path}.{held}.{config.name}.weight", (config.num_embeddings, config.embedding_dim), config.init_fn
