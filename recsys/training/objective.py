"""What a step minimises: the base of every objective, and next-item retrieval."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from recsys.denoising.target_weights import TargetWeights
from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.drawn_negatives import Negatives
from recsys.features.negatives import NegativeSampler, Uniform
from recsys.losses.base import CatalogueLoss, LossOutput, SampledLoss, SampledScores
from recsys.losses.info_nce import InfoNCE
from recsys.models.network import SequenceNetwork
from recsys.training.table_optimizers import OptimizerFactory
from recsys.unbiased.exposure_weights import ExposureWeights

Batch = TypeVar("Batch")
LEAVE_PAIRS_OUT = "leave `data.batches` out"
"""What sets a job right whose objective reads histories, and whose data are pairs."""


class ObjectiveError(TypeError):
    """Objective, network and batches of a job do not fit; the message says which to change."""


class Apart(NamedTuple):
    """Weights of an objective that are no part of the network, and so learn at a rate of their own.

    Attributes:
        weights: at least one.
        optimizer: makes their optimizer.
    """

    weights: list[nn.Parameter]
    optimizer: OptimizerFactory


class Objective(nn.Module, abc.ABC):
    """From a network and a batch to a loss, with whatever it draws on the way."""

    @property
    def lookups(self) -> int:
        """How often a step looks the same table up."""
        return 1

    def apart(self) -> dict[str, Apart]:
        """Weights with an optimizer of their own, by its name; their gradients are clipped by themselves."""
        return {}

    def build(self, catalogue: Catalogue) -> None:
        """Makes what networks it trains beside that of the job; called once, before there are optimizers."""

    @abc.abstractmethod
    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        """Fits samplers and losses to the catalogue; called once before training.

        Raises:
            ValueError: the catalogue lacks what the objective needs.
        """

    @abc.abstractmethod
    def forward(self, network: Any, batch: Any) -> LossOutput:
        """The loss of one batch.

        Args:
            network: of the kind that the objective trains: a `SequenceNetwork`, or an `InteractionNetwork`.
            batch: of the kind that this network reads.
        """

    @abc.abstractmethod
    def random_state(self) -> dict[str, Any]:
        """States of all generators, for the checkpoint."""

    @abc.abstractmethod
    def load_random_state(self, state: dict[str, Any]) -> None:
        """Continues the draws from `random_state()`."""


def checked(batch: Any, kind: type[Batch], remedy: str) -> Batch:
    """The batch itself.

    Args:
        batch: of a step.
        kind: that an objective reads.
        remedy: what sets it right.

    Raises:
        ObjectiveError: it is of another kind.
    """
    if not isinstance(batch, kind):
        raise ObjectiveError(f"the objective reads a {kind.__name__}, not a {type(batch).__name__}: {remedy}")
    return batch


class RetrievalObjective(Objective):
    """Next-item retrieval: the query after each event is matched with the item that followed.

    Args:
        loss: over sampled negatives or over the whole catalogue.
        negatives: the sampler; unused by losses over the whole catalogue.
        target_weights: what targets count by their losses, where some may be noise; None: all alike.
        exposure_weights: what they count by the chance that they were exposed; None: all alike.

    Raises:
        ValueError: `target_weights` beside a loss over the whole catalogue.
    """

    def __init__(
        self,
        loss: SampledLoss | CatalogueLoss | None = None,
        negatives: NegativeSampler | None = None,
        target_weights: TargetWeights | None = None,
        exposure_weights: ExposureWeights | None = None,
    ):
        super().__init__()
        self.loss = loss if loss is not None else InfoNCE(temperature=0.05)
        self.negatives = negatives if negatives is not None else Uniform(512)
        self.target_weights = target_weights
        self.exposure_weights = exposure_weights
        if target_weights is not None and isinstance(self.loss, CatalogueLoss):
            raise ValueError(
                f"target_weights need the loss of each target, which {type(self.loss).__name__} does not tell; take a "
                "loss over sampled negatives"
            )

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.loss.setup(catalogue.n_items)
        self.negatives.setup(catalogue.n_items, catalogue.counts, seed, device)
        if self.exposure_weights is not None:
            self.exposure_weights.setup(catalogue)
            self.exposure_weights.to(device)
        if self.target_weights is not None:
            self.target_weights.setup(seed, device)

    def forward(self, network: SequenceNetwork, batch: SequenceBatch) -> LossOutput:
        batch = checked(batch, SequenceBatch, LEAVE_PAIRS_OUT)
        assert batch.target is not None, "training batches carry targets"
        exposure, watched = (None, {}) if self.exposure_weights is None else self.exposure_weights(batch)
        if isinstance(self.loss, CatalogueLoss):
            queries, items = network(batch, None)
            loss, parts = self.loss(queries, items, batch.target, exposure)  # which leaves rows without target out
            return LossOutput(loss, parts | watched)
        drawn = self.negatives.sample(batch.target)
        rows = batch.target.shape[0]
        queries, vectors = network(batch, torch.cat([batch.target, drawn.ids.flatten()]))
        scores = sampled_scores(queries, vectors[:rows], vectors[rows:], batch.target, drawn)
        valid = batch.target > 0
        weight = valid.to(scores.positive.dtype) if exposure is None else exposure
        if self.target_weights is not None:
            with torch.no_grad():
                losses = self.loss.rows(scores)
            weight = weight * self.target_weights(losses, batch.offsets.long(), valid)
        loss, parts = self.loss(scores._replace(weight=weight))
        return LossOutput(loss, parts | watched)

    def random_state(self) -> dict[str, Any]:
        state = {"negatives": self.negatives.state_dict()}
        return state if self.target_weights is None else state | {"target_weights": self.target_weights.state_dict()}

    def load_random_state(self, state: dict[str, Any]) -> None:
        """Continues the draws.

        Raises:
            ValueError: only one of the checkpoint and the job weighs its targets.
        """
        if ("target_weights" in state) is (self.target_weights is None):
            raise ValueError("only one of checkpoint and job has `target_weights`: resume with those it was saved with")
        self.negatives.load_state_dict(state["negatives"])
        if self.target_weights is not None:
            self.target_weights.load_state_dict(state["target_weights"])


def sampled_scores(
    queries: Tensor, positive: Tensor, negative: Tensor, target: Tensor, drawn: Negatives
) -> SampledScores:
    """Scores of rows against their positives and the drawn negatives.

    Args:
        queries: `[T, d]`.
        positive: `[T, d]` vectors of the targets.
        negative: `[N, d]`, or `[T * N, d]` where each row has its own.
        target: `[T]` int64.
        drawn: the negatives.
    """
    return SampledScores(
        positive=(queries * positive).sum(-1),
        negative=_scores(queries, negative, drawn.ids),
        log_q_positive=drawn.log_q_positive,
        log_q_negative=drawn.log_q,
        hits=drawn.hits(target),
    )


def _scores(queries: Tensor, negative: Tensor, ids: Tensor) -> Tensor:
    """`[T, N]` scores of shared (`ids` `[N]`) or per-row (`ids` `[T, N]`) negatives."""
    if ids.dim() == 1:
        return queries @ negative.T
    return torch.bmm(negative.unflatten(0, (ids.shape[0], ids.shape[1])), queries.unsqueeze(-1)).squeeze(-1)
