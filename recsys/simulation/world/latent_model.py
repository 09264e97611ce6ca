"""A recommender of given factors, such as those of the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.interactions import training_matrix
from recsys.models.recommender import VectorRecommender
from recsys.simulation.world.preferences import Preferences

if TYPE_CHECKING:
    from recsys.features.splits import Split


class LatentModel(VectorRecommender):
    """The score is the inner product of the vectors of a user and of an item; strangers get what is popular.

    Args:
        users: `[n_users + 1, d]` float32; row 0 is not used.
        items: `[n_items + 1, d]` float32; row 0 is padding.
        popularity: `[n_items + 1]` float32, scores for users with id 0 or above `n_users`.

    Example:
        >>> model = LatentModel(torch.ones(2, 1), torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0.0, 2.0, 1.0]))
        >>> none = torch.zeros(0, dtype=torch.int64)
        >>> asked = SequenceBatch.build(torch.tensor([1, 0]), torch.zeros(2, dtype=torch.int64), none, none)
        >>> model.scores(asked).argmax(1).tolist()
        [2, 1]
    """

    reads_history = False

    def __init__(self, users: Tensor, items: Tensor, popularity: Tensor) -> None:
        self.users, self.items, self.popularity = users, items, popularity
        self.n_items = len(items) - 1

    @classmethod
    def of(
        cls, preferences: Preferences, *, preference: float = 1.0, popularity: float = 0.0, day: float = 0.0
    ) -> LatentModel:
        """What is known of the truth: the score is `preference x logit of relevance + popularity x log of popularity`.

        With `preference` 1 alone it ranks by the truth. With both it is how a selective platform shows items, whose
        feedback is missing not at random.

        Args:
            preferences: the truth.
            preference: weight of the logit of relevance, user biases left out (they rank nothing).
            popularity: weight of the logarithm of popularity.
            day: of the tastes.
        """
        everybody = torch.arange(preferences.n_users + 1)
        known = preferences.popularity.clamp(min=torch.finfo(torch.float32).tiny).log()
        shared = (preference * preferences.item_bias + popularity * known).unsqueeze(1)
        users = torch.cat([preference * preferences.tastes(everybody, day), torch.ones(len(everybody), 1)], dim=1)
        return cls(users, torch.cat([preferences.items, shared], dim=1), preferences.popularity)

    def knows(self, user_id: Tensor) -> Tensor:
        return (user_id > 0) & (user_id < len(self.users))

    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        known = self.knows(batch.user_id)
        vectors = self.users[batch.user_id * known] * known.unsqueeze(1)
        return torch.cat([vectors, (~known).to(vectors).unsqueeze(1)], dim=1)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        vectors = torch.cat([self.items, self.popularity.unsqueeze(1)], dim=1)
        return vectors if ids is None else vectors[ids]

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"users": self.users, "items": self.items, "popularity": self.popularity}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Self:
        return cls(**config, **state)

    @classmethod
    def example(cls, split: Split) -> Self:
        """The two largest singular vectors of who consumed what."""
        matrix = torch.from_numpy(training_matrix(split).toarray())
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        users, items = (left[:, :2] * values[:2]), right[:2].T
        padding = torch.zeros(1, users.shape[1])
        counts = torch.from_numpy(split.train_counts()).float()
        return cls(torch.cat([padding, users]), torch.cat([padding, items]).contiguous(), counts)
