"""What a network learns beside its task, from its items alone."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from torch import nn

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.losses.base import LossOutput
from recsys.models.network import SequenceNetwork
from recsys.training.objective import Apart, Objective

SEED_STEP = 1 << 20
"""Between the seeds of the objectives of one job."""


class Auxiliary(nn.Module, abc.ABC):
    """A loss of a network beside that of its task; it draws what it needs itself, and looks tables up once.

    Several processes draw alike and compute the same loss, which therefore is its own mean over them.

    Args:
        weight: what the loss is multiplied with; with 0 nothing is drawn or computed.

    Raises:
        ValueError: the weight is negative.
    """

    name: ClassVar[str]
    """Of the loss in the log and in checkpoints."""

    def __init__(self, weight: float):
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"{type(self).__name__}: weight must be at least 0, not {weight}")
        self.weight = weight

    @abc.abstractmethod
    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        """Fits it to the catalogue; called once before training.

        Raises:
            ValueError: the catalogue lacks what it needs.
        """

    @abc.abstractmethod
    def forward(self, network: SequenceNetwork) -> LossOutput:
        """The loss of one step, without its weight.

        Raises:
            TypeError: the network lacks what it needs.
        """

    @abc.abstractmethod
    def random_state(self) -> dict[str, Any]:
        """States of all generators, for the checkpoint."""

    @abc.abstractmethod
    def load_random_state(self, state: dict[str, Any]) -> None:
        """Continues the draws from `random_state()`."""


class WithAuxiliary(Objective):
    """The loss of a task plus the weighted losses of auxiliaries, in one backward pass.

    Auxiliaries draw from generators of their own: with all weights 0 a run is that of `main` alone, bit for bit. Only
    what the network drops out of items is drawn by torch's generator, for auxiliaries as for the task.

    Args:
        main: of the task.
        auxiliary: beside it.

    Raises:
        ValueError: two auxiliaries have the same name.
    """

    def __init__(self, main: Objective, auxiliary: list[Auxiliary]):
        super().__init__()
        names = [term.name for term in auxiliary]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"auxiliary: `{repeated[0]}` is there twice; give each once, with the sum of the weights")
        self.main = main
        self.auxiliary = nn.ModuleList(auxiliary)

    @property
    def active(self) -> list[Auxiliary]:
        """The auxiliaries that have a weight."""
        return [term for term in self.auxiliary if isinstance(term, Auxiliary) and term.weight > 0]

    @property
    def lookups(self) -> int:
        return self.main.lookups + len(self.active)

    def apart(self) -> dict[str, Apart]:
        """Those of the task."""
        return self.main.apart()

    def build(self, catalogue: Catalogue) -> None:
        self.main.build(catalogue)

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.main.setup(catalogue, seed, device)
        for place, term in enumerate(self.active, 1):
            term.setup(catalogue, seed + place * SEED_STEP, device)

    def forward(self, network: SequenceNetwork, batch: SequenceBatch) -> LossOutput:
        loss, parts = self.main(network, batch)
        if not self.active:
            return LossOutput(loss, parts)
        found = {"main": loss.detach()}
        for term in self.active:
            value, _ = term(network)
            loss = loss + term.weight * value
            found[term.name] = value.detach()
        return LossOutput(loss, parts | found | {"loss": loss.detach()})

    def random_state(self) -> dict[str, Any]:
        return {"main": self.main.random_state(), "auxiliary": {t.name: t.random_state() for t in self.active}}

    def load_random_state(self, state: dict[str, Any]) -> None:
        """Continues the draws.

        Raises:
            ValueError: the checkpoint is that of a job with other auxiliaries.
        """
        states, active = state["auxiliary"], self.active
        if states.keys() != {term.name for term in active}:
            raise ValueError(
                f"checkpoint has auxiliary losses {sorted(states)}, the job {sorted(term.name for term in active)}: "
                "resume with those that it was saved with"
            )
        self.main.load_random_state(state["main"])
        for term in active:
            term.load_random_state(states[term.name])
