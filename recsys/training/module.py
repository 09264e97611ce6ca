"""The one LightningModule of every trainable model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.pair_batch import InteractionBatch
from recsys.losses.ranks import across_ranks, ranks, total
from recsys.models.tables import table_device
from recsys.models.trainable import TrainableNetwork
from recsys.training.clipping import clip_gradients
from recsys.training.epoch_means import EpochMeans
from recsys.training.objective import Objective, ObjectiveError
from recsys.training.optimizers import CombinedOptimizer, table_parameters
from recsys.training.sparse_adam import SparseAdam
from recsys.training.table_optimizers import (
    FusedTables,
    OptimizerFactory,
    dense_parameters,
    fused_optimizer,
    step_in_backward,
)

SchedulerFactory = Callable[[Optimizer], LRScheduler]


def adam(params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.98)) -> Optimizer:
    """The default dense optimizer: AdamW without weight decay, in one fused kernel."""
    return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=0.0, fused=True)


class RecommenderModule(L.LightningModule):
    """Trains a network on an objective; knows no model, loss or metric by name.

    The network is built in `configure_model` from the data module's catalogue. Weights of embedding tables go to
    `table_optimizer`, which touches the rows of a step only; all others go to `optimizer`.

    Args:
        network: makes the network from a catalogue; in YAML the `class_path` of a `SequenceNetwork` or of an
            `InteractionNetwork`.
        objective: what a step minimises.
        optimizer: makes the optimizer of the dense weights.
        table_optimizer: makes the optimizer of the tables.
        scheduler: makes a learning-rate schedule for both, stepped once a batch. None: constant.
        compile: compile the network's dense part with `torch.compile`, a minute at the start. On a CPU it does not pay
            (`experiments/benchmarks/training_options.py`).
    """

    def __init__(
        self,
        network: Callable[[Catalogue], TrainableNetwork],
        objective: Objective,
        optimizer: OptimizerFactory = adam,
        table_optimizer: OptimizerFactory = SparseAdam,
        scheduler: SchedulerFactory | None = None,
        compile: bool = False,
    ):
        super().__init__()
        self.make_network = network
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_table_optimizer = table_optimizer
        self.make_scheduler = scheduler
        self.compiled = compile
        self.network: TrainableNetwork | None = None
        self.means = EpochMeans()
        self._generators: dict[str, Any] = {}

    @property
    def table_lookups(self) -> int:
        """How often a step looks the same table up."""
        return self.objective.lookups

    def configure_model(self) -> None:
        """Builds the network once, when the data are known."""
        if self.network is None:
            self.network = self.make_network(self._catalogue())
            self.objective.build(self._catalogue())
            if table_device() == torch.device("meta"):  # the strategy shards the tables
                step_in_backward(self, self.make_table_optimizer)
            if self.compiled:
                self.network.dense_part().compile(dynamic=True)

    def _catalogue(self) -> Catalogue:
        catalogue: Catalogue = self.trainer.datamodule.catalogue  # type: ignore[attr-defined]
        return catalogue

    def on_fit_start(self) -> None:
        seed = self.trainer.datamodule.seed  # type: ignore[attr-defined]
        # Negatives are drawn alike on all ranks, which share a batch; dropout is not.
        self.objective.setup(self._catalogue(), seed, self.device)
        if self.global_rank:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: SequenceBatch | InteractionBatch, batch_idx: int) -> torch.Tensor:
        """One loss value; its parts are logged."""
        with across_ranks(self.trainer.world_size > 1):
            loss, parts = self.objective(self.network, batch)
            windows = _windows(batch)
        self.means.log(self, parts, windows)
        return loss

    def configure_optimizers(self) -> Any:
        assert self.network is not None
        tables = table_parameters(self)
        apart = self.objective.apart()
        others = {id(weight) for weight in [*tables, *(w for part in apart.values() for w in part.weights)]}
        dense = [w for w in dense_parameters(self) if id(w) not in others and w.requires_grad]
        parts: dict[str, Optimizer] = {"dense": self.make_optimizer(dense)} if dense else {}
        parts |= {name: part.optimizer(part.weights) for name, part in apart.items()}
        if tables:
            parts["tables"] = self.make_table_optimizer(tables)
        if (fused := fused_optimizer(self)) is not None:
            parts["fused"] = FusedTables(fused)
        optimizer = CombinedOptimizer(parts)
        if self.make_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the dense weights, those that the objective sets apart by themselves.

        A step on table rows hardly depends on the scale of their gradient.
        """
        if gradient_clip_val is None:
            return
        assert self.network is not None
        apart = [part.weights for part in self.objective.apart().values()]
        others = {id(weight) for weights in apart for weight in weights}
        others |= {id(weight) for weight in table_parameters(self)}  # replicated ones have dense gradients
        dense = [w for w in self.parameters() if w.grad is not None and id(w) not in others]
        for weights in (dense, *apart):
            clip_gradients(weights, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the generators, so that a resumed run draws what the interrupted one would have drawn, and the means."""
        own = torch.get_rng_state()
        of_ranks = self.all_gather(own.to(self.device))  # on the device, as NCCL wants it
        assert isinstance(of_ranks, torch.Tensor)
        checkpoint["objective"] = self._objective_parts()
        checkpoint["means"] = self.means.state(self)
        checkpoint["generators"] = {
            "objective": self.objective.random_state(),
            "torch": of_ranks.view(-1, len(own)).cpu(),
        }

    def _objective_parts(self) -> list[str]:
        """Classes of the objective and of what it is made of."""
        return [type(part).__name__ for part in (self.objective, *self.objective.children())]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the generators and the means.

        Raises:
            ObjectiveError: another objective was trained.
        """
        parts = self._objective_parts()
        saved = checkpoint.get("objective", parts)  # older checkpoints do not say
        if saved != parts:
            raise ObjectiveError(
                f"the checkpoint was trained by {', '.join(saved)}, and the job has {', '.join(parts)}: resume with "
                "the objective that it was saved with, or start a new run"
            )
        self._generators = checkpoint["generators"]
        if "means" in checkpoint:  # older checkpoints have none
            self.means.load(checkpoint["means"])

    def on_train_start(self) -> None:
        """Restores the generators last: whatever ran before training must not have moved them."""
        if self._generators:
            self.objective.load_random_state(self._generators["objective"])
            of_ranks, rank = self._generators["torch"].view(-1, torch.get_rng_state().numel()), self.global_rank
            if rank < len(of_ranks):
                torch.set_rng_state(of_ranks[rank].clone())
            self._generators = {}


def _windows(batch: SequenceBatch | InteractionBatch) -> int:
    """Training sequences, or pairs, of a step, of all ranks; the copy that an idle one has does not count.

    Logged values are weighted by it, so that the mean of an epoch is the same over any number of ranks.
    """
    if ranks() == 1 or isinstance(batch, InteractionBatch):
        return len(batch)
    assert batch.target is not None
    return int(total(len(batch) * batch.target.any().long()))
