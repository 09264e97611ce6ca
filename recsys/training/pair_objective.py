"""Learning from user-item pairs, and from comparisons of a user's items."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.pair_batch import InteractionBatch, PairBatch, TripleBatch
from recsys.losses.base import LossOutput
from recsys.models.interaction import InteractionNetwork, InteractionVectors
from recsys.training.lagged_network import LaggedNetwork
from recsys.training.objective import Objective, ObjectiveError, checked
from recsys.unbiased.pair_loss import PairLoss, PairScores
from recsys.unbiased.pairwise import BPRLoss, PairwiseLoss, TripleScores
from recsys.unbiased.pointwise import RelMF
from recsys.unbiased.propensity import ItemPower, Propensity, propensity_of

Batch = TypeVar("Batch", bound=InteractionBatch)


class PairObjective(Objective):
    """Scores pairs, and hands them to a loss with what it asks for: propensities, and an estimate of relevance.

    The estimate is that of a copy which follows the network slowly. The embeddings of a step are regularised by
    `l2 / 2` times the sum of their squares, each distinct user and item once, and no others: a step costs the same over
    any number of users. Where a batch touches every row it is the penalty of full tables, which the releases of Rel-MF
    and DU add to each step; where it touches fewer the same `l2` is weaker by as much.

    Args:
        loss: of the pairs; None: `RelMF` without a clip.
        propensity: of exposure; None: `ItemPower`.
        l2: weight of the squared embeddings.
        lag: how the copy follows, for losses that ask for relevance; None: with the defaults of `LaggedNetwork`.

    Raises:
        ValueError: `l2` is negative, or the loss asks for propensities that are not known.
    """

    def __init__(
        self,
        loss: PairLoss | None = None,
        propensity: Propensity | None = None,
        l2: float = 0.0,
        lag: LaggedNetwork | None = None,
    ):
        super().__init__()
        self.loss = loss if loss is not None else RelMF()
        self.propensity = propensity if propensity is not None else ItemPower()
        self.l2 = check_l2(l2)
        self.lag = lag if lag is not None else LaggedNetwork()
        if self.loss.asks_unlabeled and not self.propensity.knows_unlabeled:
            raise ValueError(
                f"{type(self.loss).__name__} asks for propensities of unlabeled pairs, which "
                f"{type(self.propensity).__name__} does not know; estimate them with ItemPower"
            )

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.propensity.setup(catalogue)
        self.to(device)
        self.lag.reset()

    def forward(self, network: InteractionNetwork, batch: PairBatch) -> LossOutput:
        batch = checked_pairs(network, batch, PairBatch, "AllPairs` or `PositivesAndUnlabeled")
        vectors = network(batch.users, batch.items)
        asked = self.loss
        scores = PairScores(
            score=(vectors.users * vectors.items).sum(-1),
            label=batch.label,
            propensity=propensity_of(self.propensity, batch) if asked.asks_exposure else None,
            unlabeled_propensity=self.propensity.of_unlabeled(batch.users, batch.items) if asked.asks_dual else None,
            relevance=self.lag.relevance(network, batch.users, batch.items) if asked.asks_relevance else None,
            weight=batch.weight,
        )
        loss, parts = self.loss(scores)
        penalty = squared_embeddings(vectors, batch.users, batch.items)
        return _regularised(loss, parts, penalty, self.l2)

    def random_state(self) -> dict[str, Any]:
        """The lagged copy: nothing is drawn here."""
        return {"lag": self.lag.state_dict()} if self.loss.asks_relevance else {}

    def load_random_state(self, state: dict[str, Any]) -> None:
        """Goes on with the lagged copy of the checkpoint.

        Raises:
            ValueError: the checkpoint is that of a job with another loss.
        """
        if ("lag" in state) is not self.loss.asks_relevance:
            raise ValueError("the checkpoint is of a job with another loss: resume with that which it was saved with")
        if self.loss.asks_relevance:
            self.lag.load_state_dict(state["lag"])


class TripleObjective(Objective):
    """Compares each positive item with another one; users and items are regularised as in `PairObjective`.

    Args:
        loss: of the comparisons; None: `BPRLoss`.
        propensity: of exposure; None: `ItemPower`.
        l2: weight of the squared embeddings.

    Raises:
        ValueError: `l2` is negative, or the loss asks for propensities that are not known.
    """

    def __init__(self, loss: PairwiseLoss | None = None, propensity: Propensity | None = None, l2: float = 0.0):
        super().__init__()
        self.loss = loss if loss is not None else BPRLoss()
        self.propensity = propensity if propensity is not None else ItemPower()
        self.l2 = check_l2(l2)
        if self.loss.asks_exposure and not self.propensity.knows_unlabeled:
            raise ValueError(
                f"{type(self.loss).__name__} asks for propensities of items that were drawn, which "
                f"{type(self.propensity).__name__} does not know; estimate them with ItemPower"
            )

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.propensity.setup(catalogue)
        self.to(device)

    def forward(self, network: InteractionNetwork, batch: TripleBatch) -> LossOutput:
        batch = checked_pairs(network, batch, TripleBatch, "Triples")
        rows, items = len(batch), torch.cat([batch.items, batch.others])
        vectors = network(batch.users, items)
        asked = self.loss.asks_exposure
        scores = TripleScores(
            difference=(vectors.users * (vectors.items[:rows] - vectors.items[rows:])).sum(-1),
            other_label=batch.other_label,
            propensity=propensity_of(self.propensity, batch) if asked else None,
            other_propensity=self.propensity(batch.users, batch.others, None) if asked else None,
        )
        loss, parts = self.loss(scores)
        penalty = squared_embeddings(vectors, batch.users, items)
        return _regularised(loss, parts, penalty, self.l2)

    def random_state(self) -> dict[str, Any]:
        """Nothing is drawn here."""
        return {}

    def load_random_state(self, state: dict[str, Any]) -> None:
        """There is nothing to go on with."""


def distinct_sum(ids: Tensor, values: Tensor) -> Tensor:
    """Sum of `values` `[n]`, equal for equal `ids` `[n]`, each distinct id once.

    Example:
        >>> distinct_sum(torch.tensor([7, 8, 7]), torch.tensor([1.0, 5.0, 1.0])).item()
        6.0
    """
    _, place, count = torch.unique(ids, return_inverse=True, return_counts=True)
    return (values / count[place]).sum()


def squared_embeddings(vectors: InteractionVectors, users: Tensor, items: Tensor) -> Tensor:
    """Sum of the squared embeddings of a step, each distinct user of `users` `[n]` and item of `items` `[m]` once."""
    return distinct_sum(users, vectors.user_norms) + distinct_sum(items, vectors.item_norms)


def _regularised(loss: Tensor, parts: dict[str, Tensor], penalty: Tensor, l2: float) -> LossOutput:
    """The loss with the penalty; 0 leaves it as it is."""
    if not l2:
        return LossOutput(loss, parts)
    total = loss + 0.5 * l2 * penalty
    return LossOutput(total, parts | {"loss": total.detach(), "data": loss.detach(), "squares": penalty.detach()})


def check_l2(l2: float) -> float:
    """The weight itself.

    Raises:
        ValueError: it is negative.
    """
    if not l2 >= 0:
        raise ValueError(f"l2 must be at least 0, not {l2}")
    return l2


def checked_pairs(network: Any, batch: Any, kind: type[Batch], remedy: str) -> Batch:
    """The batch itself.

    Args:
        network: that is trained.
        batch: of a step.
        kind: that an objective reads.
        remedy: the batches that are of this kind.

    Raises:
        ObjectiveError: the objective cannot read it, or the network knows no pairs.
    """
    if not isinstance(network, InteractionNetwork):
        raise ObjectiveError(
            f"pairs need a network that knows users by id, such as MatrixFactorization, not a {type(network).__name__}"
        )
    return checked(batch, kind, f"set `data.batches` to `{remedy}`")
