"""TorchRec's sharded tables in an ordinary Lightning job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.keyed import CombinedOptimizer

from recsys.models.tables import tables_on
from recsys.training import sharded_checkpoint
from recsys.training.even_bags import even_bags
from recsys.training.initial_tables import initialise
from recsys.training.sharding_plan import TableRule, Topology, sharding_plan
from recsys.training.table_optimizers import Collection, check_fused, collections, fused_optimizer, hand_on
from recsys.training.table_sharders import table_sharders

DEFAULT_RULE = TableRule(sharding=("table_wise", "row_wise"))
"""Of a table without a rule. A data-parallel table has dense gradients, as large as itself; and by columns a row-wise
optimizer keeps one state for every cut, so that the training would depend on the number of ranks."""


class StrategyError(ValueError):
    """A trainer is set to something that sharded tables cannot do."""


class TorchRecStrategy(DDPStrategy):
    """Shards the TorchRec tables of a LightningModule, and trains everything else data-parallel.

    | question | answer |
    | --- | --- |
    | where are tables made? | in `configure_model`, on the device `table_device()`, which is `meta` there |
    | where is DistributedModelParallel? | around the LightningModule, as DDP is in Lightning's own strategies |
    | who updates tables? | fused optimizers, in the backward pass; `step_in_backward` in `configure_model` sets them |
    | who updates the rest? | the optimizer of `configure_optimizers`, over `dense_parameters(self)` |
    | and the learning rate of tables? | `FusedTables`, an optimizer that a scheduler can drive |
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
        self._fused: CombinedOptimizer | None = None
        self._writing: tuple[Any, Path] | None = None

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
        assert self.accelerator is not None and self.model is not None
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self._check(trainer)
        self.accelerator.setup(trainer)
        self.model = self._shard(self.precision_plugin.convert_module(self.model), fitting)
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _check(self, trainer: L.Trainer) -> None:
        if trainer.accumulate_grad_batches != 1:
            raise StrategyError(
                f"trainer.accumulate_grad_batches: {trainer.accumulate_grad_batches}: sharded tables are updated in "
                "every backward pass, so that nothing can be accumulated; leave it at 1 and raise `data.batch_size`"
            )
        if isinstance(self.precision_plugin, MixedPrecision) and self.precision_plugin.scaler is not None:
            raise StrategyError(
                f"trainer.precision: {trainer.precision}: tables are updated in the backward pass, before the loss "
                "scale is taken out of gradients; use bf16-mixed, which needs no scale"
            )

    def _shard(self, module: nn.Module, fitting: bool) -> DistributedModelParallel:
        device, ranks = self.root_device, self.world_size
        check_fused(module, device)
        made = list(_tables(module))
        self.tables = tuple(name for name, *_ in made)
        topology = replace(self.topology, ranks=ranks, device="cuda" if device.type == "cuda" else "cpu")
        names = [config.name for _, part in collections(module) for config in _configs(part)]
        rules = dict.fromkeys(names, DEFAULT_RULE) | self.rules
        self.plan = sharding_plan(module, topology, rules, batch_size=self.batch_size)
        world = dist.GroupMember.WORLD
        assert world is not None
        sharded = DistributedModelParallel(
            module,
            env=ShardingEnv.from_process_group(world),
            device=device,
            plan=self.plan,
            sharders=table_sharders(),
            init_data_parallel=fitting,
            init_parameters=False,
            data_parallel_wrapper=DefaultDataParallelWrapper(
                static_graph=False, find_unused_parameters=self.find_unused_parameters
            ),
        )
        if not fitting:
            sharded.to(device)
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

    def _sharded_state(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Tables and the state of their fused optimizer by the names they have in a checkpoint."""
        state = {f"{sharded_checkpoint.TABLE}.{name}": weights[name] for name in self.tables}
        for name, parts in self._fused.state_dict()["state"].items() if self._fused is not None else ():
            for part, tensor in parts.items():
                if isinstance(tensor, Tensor):
                    state[f"{sharded_checkpoint.OPTIMIZER}.{name}/{part.rpartition('.')[2]}"] = tensor
        return state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Writes a sharded checkpoint; all ranks call it."""
        self._finish_writing()
        path = Path(self.broadcast(str(filepath)))
        weights = checkpoint.pop("state_dict")
        state = self._sharded_state(weights)
        part = sharded_checkpoint.start(path)
        if self.is_global_zero:
            dense = {name: tensor for name, tensor in weights.items() if name not in self.tables}
            torch.save(checkpoint | {"state_dict": dense}, part / sharded_checkpoint.REPLICATED)
        if self.async_checkpoint:
            self._writing = dcp.async_save(state, checkpoint_id=part), path
        else:
            dcp.save(state, checkpoint_id=part)
            sharded_checkpoint.finish(path)

    def _finish_writing(self) -> None:
        if self._writing is not None:
            (future, path), self._writing = self._writing, None
            future.result()
            sharded_checkpoint.finish(path)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads weights, and for training the state of the fused optimizer, into this rank's shards."""
        self._finish_writing()
        path = Path(self.broadcast(str(checkpoint_path)))
        if self.is_global_zero:
            sharded_checkpoint.settle(path)
        sharded_checkpoint.barrier()
        assert self.lightning_module is not None
        checkpoint = sharded_checkpoint.load_replicated(path)
        weights = self.lightning_module.state_dict()
        state = self._sharded_state(weights)
        if self.lightning_module.trainer.state.fn != TrainerFn.FITTING:
            state = {name: tensor for name, tensor in state.items() if name.startswith(sharded_checkpoint.TABLE)}
        sharded_checkpoint.load_tables(path, state)
        # Tables are read in place; what is returned has them too, so that Lightning's strict loading is content.
        checkpoint["state_dict"] = {name: weights[name] for name in self.tables} | checkpoint["state_dict"]
        return checkpoint

    def remove_checkpoint(self, filepath: Any) -> None:
        """Deletes a checkpoint on the first rank."""
        self._finish_writing()
        if self.is_global_zero:
            sharded_checkpoint.remove(Path(filepath))

    def teardown(self) -> None:
        """Completes a checkpoint that is still being written."""
        self._finish_writing()
        super().teardown()


def _tables(module: nn.Module) -> Iterator[tuple[str, tuple[int, int], Callable[[Tensor], Any]]]:
    """Name in the `state_dict`, (rows, dimensions) and initial weights of every table."""
    for path, part in collections(module):
        held = "embeddings" if isinstance(part, EmbeddingCollection) else "embedding_bags"
        for config in _configs(part):
            assert config.init_fn is not None, "TorchRec fills it in"
            yield f"{path}.{held}.{config.name}.weight", (config.num_embeddings, config.embedding_dim), config.init_fn


def _configs(part: Collection) -> Sequence[BaseEmbeddingConfig]:
    return part.embedding_configs() if isinstance(part, EmbeddingCollection) else part.embedding_bag_configs()
