"""What every model answers, neural or not: scores for the whole catalogue, and how it is saved."""

from __future__ import annotations

import abc
import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch

if TYPE_CHECKING:
    from recsys.features.splits import Split


class Recommender(abc.ABC):
    """A trained model, as evaluation, retrieval, tracking and simulation see it.

    Items are dense ids 1..n_items; id 0 is padding and is never recommended. A user is known by the history in
    the batch; a model without per-user state ignores `batch.user_id`. A user with an empty history must get
    finite scores (every model here falls back to the popularity of its training data). On a CPU several threads may
    ask one model at the same time.

    Attributes:
        n_items: size of the catalogue, padding excluded.
        personal: whether two users with different histories may get different lists.
        reads_history: whether a history says something of its user; False: only `batch.user_id` does.
    """

    n_items: int
    personal: ClassVar[bool] = True
    reads_history: ClassVar[bool] = True

    @property
    def ranks(self) -> bool:
        """Whether `candidate_scores` knows more than retrieval, so that a second stage is worth its time."""
        return False

    def knows(self, user_id: Tensor) -> Tensor:
        """`[n]` bool, whether the ids `user_id` `[n]` int64 tell the model something of their users."""
        return torch.zeros_like(user_id, dtype=torch.bool)

    @abc.abstractmethod
    def scores(self, batch: SequenceBatch) -> Tensor:
        """Scores of the whole catalogue, `[B, n_items + 1]` float32; column 0 is `-inf`."""

    @torch.no_grad()
    def candidate_scores(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Scores of given candidates: what ranks them, where a model has something better than its retrieval.

        Args:
            batch: B histories.
            candidates: `[B, C]` int64 item ids of each user; 0 fills up shorter rows.

        Returns:
            `[B, C]` float32, higher is better; `-inf` where the candidate is 0. A score does not depend on the other
            candidates.
        """
        return self.scores(batch).gather(1, candidates)

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able arguments from which `from_state` rebuilds the model."""

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The tensors of the model, for a safetensors file."""

    @classmethod
    @abc.abstractmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Recommender:
        """Rebuilds the model that gave `config` and `state`."""

    @classmethod
    def example(cls, split: Split) -> Recommender:
        """A small model fitted to the training part of `split` in a second or two.

        Documentation and the contract tests use it: every model of the package has one.
        """
        raise NotImplementedError(f"{cls.__name__} gives no example")


class VectorRecommender(Recommender):
    """A model whose score is the inner product of a user vector and an item vector.

    Retrieval ranks such models block by block, without a `[users, items]` matrix, and can index their items.
    """

    user_block: ClassVar[int] = 1024

    @abc.abstractmethod
    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        """`[B, d]` float32."""

    @abc.abstractmethod
    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """`[n, d]` float32 of the items `ids` `[n]` int64; None: rows 0..n_items (row 0 is padding)."""

    @torch.no_grad()
    def scores(self, batch: SequenceBatch) -> Tensor:
        scores = self.user_vectors(batch).float() @ self.item_vectors().float().T
        scores[:, 0] = -torch.inf
        return scores

    @torch.no_grad()
    def candidate_scores(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        distinct, place = torch.unique(candidates, return_inverse=True)
        vectors = self.item_vectors(distinct).float()[place]
        scores = torch.bmm(vectors, self.user_vectors(batch).float().unsqueeze(-1)).squeeze(-1)
        return scores.masked_fill(candidates == 0, -torch.inf)


class FittedRecommender(Recommender):
    """A model that one call of `fit` computes from the training events, without gradient steps.

    A subclass keeps every constructor argument as an attribute of the same name, and puts what `fit` computes
    into `self.tensors`; the entry `popularity`, `[n_items + 1]` float32 training events of each item, must be
    among them. Saving, loading and moving between devices follow from that.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    @abc.abstractmethod
    def fit(self, split: Split) -> None:
        """Computes the model from the training events of `split`, and from nothing else."""

    def state(self) -> dict[str, Tensor]:
        """The fitted tensors.

        Raises:
            RuntimeError: the model is not fitted yet.
        """
        if not self.tensors:
            name = type(self).__name__
            raise RuntimeError(f"{name} is not fitted: call {name}.fit(split) or load a saved model first")
        return dict(self.tensors)

    def config(self) -> dict[str, Any]:
        arguments = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in arguments if name != "self"}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Self:
        model = cls(**config)
        model.tensors = dict(state)
        return model

    @classmethod
    def example(cls, split: Split) -> Self:
        model = cls()
        model.fit(split)
        return model

    @property
    def n_items(self) -> int:  # type: ignore[override]
        return self.state()["popularity"].numel() - 1

    def to(self, device: torch.device | str) -> Self:
        """Moves the fitted tensors, in place."""
        self.tensors = {name: tensor.to(device) for name, tensor in self.state().items()}
        return self
