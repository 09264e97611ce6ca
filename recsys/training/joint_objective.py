"""Recommendation, search and ranking, learned together by one network."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.drawn_negatives import Negatives
from recsys.features.negatives import NegativeSampler, Uniform
from recsys.losses.base import LossOutput, SampledLoss, SampledScores, SlotLoss, SlotScores, weighted_mean
from recsys.losses.info_nce import InfoNCE
from recsys.losses.ranks import total
from recsys.models.context import Context
from recsys.models.decoder import pad
from recsys.models.network import SequenceNetwork
from recsys.models.synergen import SynerGen
from recsys.models.tokens import Slots
from recsys.training.objective import LEAVE_PAIRS_OUT, Objective, ObjectiveError, checked, sampled_scores
from recsys.training.slot_negatives import SlotNegatives
from recsys.unbiased.position_weights import PositionWeights


class _Requests(NamedTuple):
    """R requests of a batch and what they should find.

    Attributes:
        slots: when and by whom they are made; recommendations first, then searches.
        target: `[R]` int64, the item to be found.
        at: `[R]` int64, the event of the batch that the target follows.
        search: `[R]` bool, whether the request is a search.
    """

    slots: Slots
    target: Tensor
    at: Tensor
    search: Tensor


class JointObjective(Objective):
    """Retrieval without and with a query, and ranking of candidates; needs a network like `SynerGen`.

    Every event after the first is a target of recommendation: it is asked for without its query, from what was known
    before its request. An event that answered a query is a target of search as well. Ranking is learned at some of
    these requests: the target among negatives that retrieval has drawn, so that no item is looked up for it.

    Each loss is a mean over its own targets before the weighted sum, so that a rare task is not drowned:

        recommendation * L_rec + search * L_search + ranking * (R_rec + R_search) / tasks that have targets

    Args:
        loss: of retrieval.
        negatives: shared by the batch; the pool of `ranking_negatives` too.
        ranking_loss: of ranking slots; None trains retrieval alone.
        ranking_negatives: which of the pool stand beside the positive in a ranking slot.
        ranking_slots: requests of a step at which ranking is learned, as many of each task as there are.
        recommendation: weight of retrieval without a query; 0 leaves the task out, its ranking too.
        search: weight of retrieval with one, likewise.
        ranking: weight of ranking.
        recommend_searched: whether an event that answered a query is asked for without it too.
        position_weights: what slots count by where their positive was clicked, within each task; None: all alike.

    Raises:
        ValueError: the sampler draws negatives for every position, which cannot be shared.
    """

    def __init__(
        self,
        loss: SampledLoss | None = None,
        negatives: NegativeSampler | None = None,
        ranking_loss: SlotLoss | None = None,
        ranking_negatives: SlotNegatives | None = None,
        ranking_slots: int = 32,
        recommendation: float = 1.0,
        search: float = 1.0,
        ranking: float = 1.0,
        recommend_searched: bool = True,
        position_weights: PositionWeights | None = None,
    ):
        super().__init__()
        self.loss = loss if loss is not None else InfoNCE(temperature=0.05)
        self.negatives = negatives if negatives is not None else Uniform(512)
        if getattr(self.negatives, "per_position", False):
            raise ValueError("JointObjective shares its negatives: set per_position to false in the sampler")
        self.ranking_loss = ranking_loss
        self.ranking_negatives = ranking_negatives if ranking_negatives is not None else SlotNegatives()
        self.ranking_slots = ranking_slots
        self.weights = {"recommendation": recommendation, "search": search, "ranking": ranking}
        self.recommend_searched = recommend_searched
        self.position_weights = position_weights

    def setup(self, catalogue: Catalogue, seed: int, device: torch.device) -> None:
        self.loss.setup(catalogue.n_items)
        self.negatives.setup(catalogue.n_items, catalogue.counts, seed, device)
        self.ranking_negatives.setup(seed + 1, device)
        if self.position_weights is not None:
            self.position_weights.to(device)
        self.generator = torch.Generator(device=device).manual_seed(seed + 2)

    def forward(self, network: SequenceNetwork, batch: SequenceBatch) -> LossOutput:
        if not isinstance(network, SynerGen):
            raise ObjectiveError(f"JointObjective trains a SynerGen, not a {type(network).__name__}")
        batch = checked(batch, SequenceBatch, LEAVE_PAIRS_OUT)
        assert batch.target is not None and batch.cutoff is not None, "training batches carry targets"
        drawn = self.negatives.sample(batch.target)
        context, vectors = network.encode(batch, torch.cat([batch.target, drawn.ids]))
        requests = self._requests(batch, searches=network.searches)
        states = network.ask(context, requests.slots)
        items = network.match(vectors)
        scores = sampled_scores(
            network.match(states), items[requests.at], items[len(batch.target) :], requests.target, drawn
        )
        loss, parts = self._retrieval(scores, requests.search)
        if self.ranking_loss is not None:
            ranking, ranking_parts = self._ranking(network, batch, context, vectors, requests, states, scores, drawn)
            loss = loss + self.weights["ranking"] * ranking
            parts |= ranking_parts
        return LossOutput(loss, {"loss": loss.detach()} | parts)

    def _requests(self, batch: SequenceBatch, searches: bool) -> _Requests:
        """All requests that a batch can be asked, of the tasks that have a weight."""
        assert batch.target is not None and batch.cutoff is not None and batch.target_timestamp is not None
        row = torch.repeat_interleave(batch.lengths.long())
        query = torch.zeros_like(row)
        if searches and batch.target_query is not None:
            query = batch.target_query
        wanted = (batch.target > 0) & (batch.cutoff > 0)
        if not self.recommend_searched and batch.target_query is not None:
            wanted &= batch.target_query == 0
        searched = (batch.target > 0) & (query > 0)
        places = {"recommendation": wanted.nonzero().squeeze(-1), "search": searched.nonzero().squeeze(-1)}
        free, asked = (at if self.weights[task] > 0 else at[:0] for task, at in places.items())
        at = torch.cat([free, asked])
        search = torch.arange(len(at), device=at.device) >= len(free)
        slots = Slots(row[at], batch.cutoff[at], batch.target_timestamp[at], query[at] * search)
        return _Requests(slots, batch.target[at], at, search)

    def _retrieval(self, scores: SampledScores, search: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over each task's rows."""
        rows = self.loss.rows(scores)
        of_task = {"recommendation": ~search, "search": search}
        means = {name: weighted_mean(rows, task.to(rows.dtype)) for name, task in of_task.items()}
        loss = torch.stack([self.weights[name] * mean for name, mean in means.items()]).sum()
        return loss, {name: mean.detach() for name, mean in means.items() if bool(total(of_task[name].sum()) > 0)}

    def _ranking(
        self,
        network: SynerGen,
        batch: SequenceBatch,
        context: Context,
        vectors: Tensor,
        requests: _Requests,
        states: Tensor,
        scores: SampledScores,
        drawn: Negatives,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The ranking loss of some requests, each task's mean counting the same."""
        assert self.ranking_loss is not None and batch.target is not None
        chosen = self._chosen(requests.search)
        slots, at = requests.slots.where(chosen), requests.at[chosen]
        negatives = self.ranking_negatives.choose(
            scores.negative[chosen].detach(),
            scores.positive[chosen].detach(),
            _wanted(batch)[slots.row],
            drawn.ids,
        )
        columns = torch.cat([at.unsqueeze(1), len(batch.target) + negatives.column], dim=1)
        logits = network.rank(context, slots, states[chosen], vectors[columns])
        action = torch.zeros_like(at) if batch.target_action is None else (batch.target_action[at] - 1).clamp(min=0)
        search = requests.search[chosen]
        loss, parts = self.ranking_loss(
            SlotScores(
                logits=logits,
                action=action,
                valid=torch.cat([torch.ones_like(at, dtype=torch.bool).unsqueeze(1), negatives.valid], dim=1),
                weight=self._slot_weights(batch, at, search, logits.dtype),
            )
        )
        return loss, {f"ranking_{name}": part for name, part in parts.items()}

    def _slot_weights(self, batch: SequenceBatch, at: Tensor, search: Tensor, dtype: torch.dtype) -> Tensor:
        """`[P]` weights of slots whose positives are the targets `at`; the sum of each task's is 1.

        Raises:
            ValueError: slots are to be weighed by position, and the log has none.
        """
        if self.position_weights is None:
            each = total(torch.stack([(~search).sum(), search.sum()]))
            return (1 / each.clamp(min=1).to(dtype))[search.long()]
        if batch.target_position is None:
            raise ValueError(
                "position_weights need the column of positions: name it as `events.position` in the schema"
            )
        weight: Tensor = self.position_weights(batch.target_position[at])
        each = total(torch.stack([weight[~search].sum(), weight[search].sum()]))
        return (weight / each.clamp_min(torch.finfo(weight.dtype).tiny)[search.long()]).to(dtype)

    def _chosen(self, search: Tensor) -> Tensor:
        """Places of the requests at which ranking is learned, ascending by user within each task's half."""
        half = self.ranking_slots // 2
        n_search, n_free = int(search.sum()), int((~search).sum())
        from_search = min(n_search, max(half, self.ranking_slots - n_free))
        from_free = min(n_free, self.ranking_slots - from_search)

        def draw(of: int, n: int) -> Tensor:
            order = torch.randperm(of, generator=self.generator, device=self.generator.device)
            return order[:n].sort().values

        return torch.cat([draw(n_free, from_free), n_free + draw(n_search, from_search)])

    def random_state(self) -> dict[str, Any]:
        return {
            "negatives": self.negatives.state_dict(),
            "ranking_negatives": self.ranking_negatives.state_dict(),
            "ranking_slots": self.generator.get_state(),
        }

    def load_random_state(self, state: dict[str, Any]) -> None:
        self.negatives.load_state_dict(state["negatives"])
        self.ranking_negatives.load_state_dict(state["ranking_negatives"])
        self.generator.set_state(state["ranking_slots"].cpu())


def _wanted(batch: SequenceBatch) -> Tensor:
    """`[B, 2 L]` int64, the items of each user's window and its targets, 0 where a row is shorter."""
    assert batch.target is not None
    both, _ = pad(torch.stack([batch.item_id, batch.target], dim=1), batch.lengths.long())
    return both.flatten(1)
