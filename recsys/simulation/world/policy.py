"""A policy: a recommender that scores candidates, and a rule that chooses from them."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.evaluation.scoring import device_of, evaluation_mode
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.order import Jagged, TopK
from recsys.retrieval.topk import Ranker
from recsys.simulation.world.histories import Histories, newest
from recsys.simulation.world.model_ids import ModelIds
from recsys.simulation.world.rules import Choice, Greedy, Rule

BLOCK_BYTES = 32 * 2**20
"""Candidates held at a time: sessions x candidates x 12 bytes. Scores of a model without vectors likewise."""
USER_BLOCK = 1024
"""Users whose histories a model reads at a time."""


class Policy:
    """Lists for users by their ids and histories.

    Args:
        model: any recommender.
        rule: chooses lists from the scored candidates.
        candidates: the best so many items of a user are his candidates; None: the length of the list for `Greedy`, the
            whole catalogue for other rules, so that every item that the user has not seen may be shown.
        repeat: whether users may get what they have consumed already.
        tie_seed: seed of the order among equal scores.
        ids: by which the model knows users and items; None: those of the world.
        max_length: newest events of a history that the model reads; None: all. None of the older ones is shown either.

    Raises:
        ValueError: candidates or events are not positive.
    """

    def __init__(
        self,
        model: Recommender,
        rule: Rule | None = None,
        *,
        candidates: int | None = None,
        repeat: bool = False,
        tie_seed: int = 0,
        ids: ModelIds | None = None,
        max_length: int | None = None,
    ) -> None:
        if candidates is not None and candidates < 1:
            raise ValueError(f"candidates must be at least 1, not {candidates}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        self.model, self.rule, self.repeat = model, rule or Greedy(), repeat
        self.ids, self.max_length = ids, max_length
        self._candidates = candidates
        self._ranker = Ranker(model, tie_seed=tie_seed)

    @property
    def n_items(self) -> int:
        """Size of the catalogue in which the policy names items."""
        return self.model.n_items if self.ids is None else len(self.ids.items) - 1

    @property
    def stochastic(self) -> bool:
        """Whether lists differ between sessions of one history."""
        return self.rule.stochastic

    def candidates(self, length: int) -> int:
        """Number of candidates of a user for lists of a length, at most the catalogue.

        Raises:
            ValueError: the lists are longer than that.
        """
        default = self.model.n_items if self.stochastic else length
        found = min(self._candidates or default, self.model.n_items)
        if found < length:
            raise ValueError(f"lists of {length} items need as many candidates, and the policy has {found}")
        return found

    def block(self, length: int) -> int:
        """How many sessions are simulated at a time."""
        return max(64, min(16_384, BLOCK_BYTES // (12 * self.candidates(length))))

    def rank(self, users: Tensor, histories: Histories, length: int) -> TopK:
        """The candidates of users `[n]`, best first, `[n, C]`; 0 and `-inf` where there are fewer."""
        wide = not isinstance(self.model, VectorRecommender)  # scores of the whole catalogue are held at once
        step = max(1, BLOCK_BYTES // (4 * (self.model.n_items + 1))) if wide else USER_BLOCK
        with evaluation_mode(self.model):
            parts = [self._rank(some, histories, length) for some in users.split(step)]
        items, scores = (torch.cat(column) for column in zip(*parts, strict=True))
        return TopK(items if self.ids is None else self.ids.back(items), scores)

    def _rank(self, users: Tensor, histories: Histories, length: int) -> tuple[Tensor, Tensor]:
        """Items of the model, and their scores."""
        batch = histories.of(users)
        if self.ids is not None:
            batch = self.ids.batch(batch)
        seen = None if self.repeat else Jagged(batch.item_id, batch.offsets)
        if self.max_length is not None:
            batch = newest(batch, self.max_length)
        ranked = self._ranker(batch.to(device_of(self.model)), self.candidates(length), seen=seen)
        return ranked.items.cpu(), ranked.scores.cpu()

    def choose(self, ranked: TopK, length: int, random: torch.Generator) -> tuple[Tensor, Choice]:
        """A list for each row of candidates: items `[n, L]`, 0 where there are fewer, and how they were chosen."""
        choice = self.rule.draw(ranked.scores, length, random)
        return ranked.items.gather(1, choice.columns), choice

    def propensity(self, ranked: TopK, items: Tensor) -> Tensor:
        """How likely the policy shows given lists, position by position.

        Args:
            ranked: candidates of n users.
            items: `[n, L]` int64, what was shown; 0 where a list is shorter.

        Returns:
            `[n, L]` float64: the chance of each item given those above it, 1 for 0.
        """
        columns = torch.full_like(items, -1)
        for position in range(items.shape[1]):
            same = ranked.items == items[:, position, None]
            columns[:, position] = torch.where(same.any(1), same.byte().argmax(1), -1)
        return self.rule.propensity(ranked.scores, columns).masked_fill(items == 0, 1.0)


class Lists:
    """The candidates of users by one policy, ranked again only where a history has changed.

    Args:
        policy: must depend on users and their histories alone.
        n_users: number of users.
        length: of the lists.
        budget: bytes of candidates that may be kept; where all users need more, they are ranked at each request.
    """

    def __init__(self, policy: Policy, n_users: int, length: int, budget: int = 256 * 2**20) -> None:
        self.policy, self.length = policy, length
        columns = policy.candidates(length)
        self._kept = (n_users + 1) * columns * 8 <= budget
        if self._kept:
            self._items = torch.zeros(n_users + 1, columns, dtype=torch.int32)
            self._scores = torch.zeros(n_users + 1, columns)
            self._ranked_at = torch.full((n_users + 1,), -1, dtype=torch.int64)

    def of(self, users: Tensor, histories: Histories) -> TopK:
        """The candidates of different users `[n]`, as `Policy.rank` gives them."""
        if not self._kept:
            return self.policy.rank(users, histories, self.length)
        # Histories only grow, so that their length says whether they have changed.
        lengths = histories.lengths[users]
        stale = self._ranked_at[users] != lengths
        if stale.any():
            changed = users[stale]
            found = self.policy.rank(changed, histories, self.length)
            self._items[changed], self._scores[changed] = found.items.int(), found.scores
            self._ranked_at[changed] = lengths[stale]
        return TopK(self._items[users].long(), self._scores[users])
