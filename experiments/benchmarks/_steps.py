"""A training step as `recsys fit` takes it, without Lightning around it."""

from __future__ import annotations

from typing import Protocol

import torch

from recsys.features.batch import SequenceBatch
from recsys.models.network import SequenceNetwork
from recsys.training.module import adam
from recsys.training.objective import Objective
from recsys.training.optimizers import CombinedOptimizer, table_parameters
from recsys.training.sparse_adam import SparseAdam


class Step(Protocol):
    def __call__(self, batch: SequenceBatch, bf16: bool = False) -> None:
        """One update; with `bf16` the forward pass is in bfloat16."""


def training_step(network: SequenceNetwork, objective: Objective) -> Step:
    """Loss, gradients and update of a network that is on the CPU; the objective is set up for its catalogue."""
    objective.setup(network.catalogue, 0, torch.device("cpu"))
    tables = table_parameters(network)
    held = {id(table) for table in tables}
    dense = adam([weight for weight in network.parameters() if id(weight) not in held])
    optimizer = CombinedOptimizer({"dense": dense, "tables": SparseAdam(tables)})

    def step(batch: SequenceBatch, bf16: bool = False) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = objective(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
