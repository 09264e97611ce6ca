"""SynerGen-style decoder: one causal Transformer that retrieves and ranks, with and without a query."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.models.context import Context, Inputs
from recsys.models.decoder import Decoder, pad
from recsys.models.embeddings import ItemEncoder
from recsys.models.network import SequenceNetwork
from recsys.models.ranking_head import RankingHead, candidate_score, values_of
from recsys.models.rotary import Rotary, SplitByDim, rotary_config, rotary_from_config
from recsys.models.slot_tokens import SlotTokens
from recsys.models.tokens import Slots

Similarity = Literal["cosine", "dot"]

COSINE_SCALE = 100.0
"""Of the retrieval scores in the ranking head, which learns how many logits a cosine is worth: a few dozen."""
SLOT_BLOCK = 1 << 14
"""Ranking slots encoded at a time when candidates are scored."""


class SynerGen(SequenceNetwork):
    """Decoder over context tokens, and over slots that ask what comes next or what a candidate is worth.

    | request | answered by |
    | --- | --- |
    | recommend | the state of the last event before the request, matched with all items |
    | search | a retrieval slot that holds the query, matched with all items |
    | rank candidates | a ranking slot for each, which holds the candidate, and the query if there is one |

    Inputs and outputs share the item vectors. With `cosine` similarity both sides are brought to length one, on the
    output side only. Source: SynerGen, arXiv 2509.21777.

    With `word_width` the vectors of a `WordMatch` stand after those of items and after answers, so that one inner
    product adds both comparisons: a state alone has too few dimensions to tell thousands of words apart. They are no
    part of the cosine, no token holds them, and a request without a query has zeros there.

    Args:
        catalogue: sizes, side features and training counts; the training job supplies it.
        width: model width.
        layers: decoder blocks.
        heads: attention heads.
        hidden_ratio: width of the feed-forward layer over the model width.
        dropout: share of zeroed values at the input and in each residual branch.
        rotary: where position and time enter.
        similarity: inner product of unit vectors (`cosine`) or of plain ones (`dot`).
        side_features: False uses ids alone.
        ids: False uses side features alone.
        queries: read the query features of the schema, where it has any; False answers every request without its query.
        ranking: have a ranking head. Train it with `JointObjective`.
        task_tokens: tell context, retrieval and ranking tokens apart by a vector of their own.
        action_values: name of an action -> what it is worth when candidates are ranked; 1 where none is given.
        word_width: dimensions in which the words of a query are matched with those of the items; 0: in none, they meet
            in the decoder alone. `queries: false` and `side_features: false` leave nothing to match.
        maskable: have a default vector for each feature of items, so that it can be hidden (`FeatureMaskingSSL`).
        hide_untrained_ids: know items without training events by their side features alone.
        feature_dropout: in training, hide each feature of each item that is looked up with this probability.

    Raises:
        ValueError: `action_values` names an action that the log does not have, or a value is not above 0; no features
            of items are left to know them by; or `word_width` is set and queries share no table with items.
    """

    reads_users: ClassVar[bool] = False
    items: ItemEncoder
    action_values: Tensor

    def __init__(
        self,
        catalogue: Catalogue,
        width: int = 128,
        layers: int = 2,
        heads: int = 2,
        hidden_ratio: float = 8 / 3,
        dropout: float = 0.2,
        rotary: Rotary = SplitByDim(),  # noqa: B008 (frozen)
        similarity: Similarity = "cosine",
        side_features: bool = True,
        ids: bool = True,
        queries: bool = True,
        ranking: bool = False,
        task_tokens: bool = True,
        action_values: dict[str, float] | None = None,
        word_width: int = 0,
        maskable: bool = False,
        hide_untrained_ids: bool = False,
        feature_dropout: float = 0.0,
    ):
        super().__init__(catalogue)
        hiding: dict[str, Any] = {"maskable": maskable, "hide_untrained_ids": hide_untrained_ids}
        hiding["feature_dropout"] = feature_dropout
        self.hyperparameters = {
            "width": width,
            "layers": layers,
            "heads": heads,
            "hidden_ratio": hidden_ratio,
            "dropout": dropout,
            "rotary": rotary_config(rotary),
            "similarity": similarity,
            "side_features": side_features,
            "ids": ids,
            "queries": queries,
            "ranking": ranking,
            "task_tokens": task_tokens,
            "action_values": action_values,
            "word_width": word_width,
        } | hiding
        self.heads, self.head_dim = heads, width // heads
        self.rotary, self.similarity = rotary, similarity
        self.searches = queries and bool(catalogue.schema.of("query"))
        self.width, self.word_width = width, word_width if queries and side_features else 0
        self.items = ItemEncoder(
            catalogue, width, side_features, self.searches, ids, word_width=self.word_width, **hiding
        )
        self.decoder = Decoder(width, layers, heads, hidden_ratio, dropout)
        # Made last: a model without them draws the same initial weights as if they did not exist.
        self.tokens = SlotTokens(catalogue, width, self.searches, ranking, task_tokens)
        scale = COSINE_SCALE if similarity == "cosine" else 1.0
        self.head = RankingHead(width, max(len(catalogue.actions), 1), scale) if ranking else None
        self.register_buffer("action_values", values_of(catalogue.actions, action_values or {}), persistent=False)

    def encode(self, batch: SequenceBatch, candidates: Tensor) -> tuple[Context, Tensor]:
        """Encodes histories, and looks candidates up with them: one lookup per table.

        Args:
            batch: T events of B users.
            candidates: `[M]` int64 item ids; none needed.

        Returns:
            The context, and the item vectors of the candidates `[M, width + word_width]`.
        """
        items, vectors, queries = self._look_up(batch, candidates)
        return self._context(batch, items, queries), vectors

    def _look_up(self, batch: SequenceBatch, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of events `[T, width]`, and of candidates and queries: `[M, d]` and `[Q + 1, d]` with their words."""
        distinct, place = torch.unique(torch.cat([batch.item_id, candidates]), return_inverse=True)
        if not distinct.numel():  # TorchRec refuses to look nothing up
            distinct = batch.user_id.new_zeros(1)
        vectors, queries = self.items.with_queries(distinct, batch.queries if self.searches else None)
        events, wanted = place.split([batch.item_id.shape[0], candidates.shape[0]])
        return self._split(vectors)[0][events], vectors[wanted], queries

    def _split(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder reads of vectors, `[..., width]`, and what stands after it for words."""
        if not self.word_width:
            return vectors, vectors[..., :0]
        own, words = vectors.split([self.width, self.word_width], dim=-1)
        return own, words

    def _widen(self, states: Tensor, words: Tensor | None = None) -> Tensor:
        """States `[..., width]` with words `[..., word_width]` after them; None: zeros."""
        if not self.word_width:
            return states
        return F.pad(states, (0, self.word_width)) if words is None else torch.cat([states, words], dim=-1)

    def _inputs(self, batch: SequenceBatch, items: Tensor, queries: Tensor) -> Inputs:
        asked, words = self._split(queries)
        encoded = self.tokens.encode_queries(asked) if len(asked) else None
        action = batch.features["action"].values() if self.tokens.action is not None else None
        lengths = batch.lengths.long()
        x, at = pad(self.tokens.context(items, action, encoded, batch.query), lengths)
        times, _ = pad(batch.timestamp, lengths)
        newest = times.gather(1, (lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        index = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        multiplier = self.rotary.multiplier(index, times, newest, self.heads, self.head_dim)
        return Inputs(x, at, multiplier, newest, encoded, words)

    def _context(self, batch: SequenceBatch, items: Tensor, queries: Tensor) -> Context:
        x, at, multiplier, newest, asked, words = self._inputs(batch, items, queries)
        states, caches = self.decoder(x, multiplier)
        found = self._widen(states.flatten(0, 1)[at])
        return Context(found, caches, batch.offsets.long(), x.shape[1], newest, asked, words)

    def encode_vectors(self, batch: SequenceBatch, vectors: Tensor) -> Tensor:
        return self.match(self._context(batch, self._split(vectors)[0], vectors[:0]).states)

    def ask(self, context: Context, slots: Slots) -> Tensor:
        """The answers to requests, `[S, width + word_width]`; `match` makes them comparable with items.

        A request without query is answered by the context itself; one without query and history has no answer, and
        gets zeros.
        """
        start = context.offsets[slots.row]
        known = (slots.cutoff > 0).unsqueeze(-1)
        if context.states.shape[0]:
            states = context.states[(start + slots.cutoff - 1).clamp(min=0)] * known
        else:
            states = context.newest.new_zeros(len(start), self.width + self.word_width, dtype=torch.float32)
        searching = slots.query.nonzero().squeeze(-1)
        if context.queries is None or not len(searching):
            return states
        asking = slots.where(searching)
        inputs = self.tokens.retrieval(context.queries, asking.query)
        found = self._widen(self._slot_states(context, asking, inputs), context.words[asking.query])
        return states.index_put((searching,), found.to(states.dtype))

    def rank(self, context: Context, slots: Slots, answers: Tensor, candidates: Tensor) -> Tensor:
        """Logits of candidates.

        Args:
            context: the encoded histories.
            slots: P requests.
            answers: `[P, width + word_width]` what `ask` gave for them.
            candidates: `[P, C, width + word_width]` item vectors.

        Returns:
            `[P, C, A]` logit of each action.
        """
        assert self.head is not None, "the model has no ranking head; set `ranking: true`"
        n, per_slot = candidates.shape[:2]
        each = slots.repeat(per_slot)
        inputs = self.tokens.ranking(self._split(candidates)[0].flatten(0, 1), context.queries, each.query)
        states = self._slot_states(context, each, inputs).view(n, per_slot, -1)
        with torch.no_grad():  # ranking reads what retrieval thinks, and does not teach it
            retrieval = (self.match(candidates) @ self.match(answers).unsqueeze(-1)).squeeze(-1)
        logits: Tensor = self.head(states, retrieval)
        return logits

    def _slot_states(self, context: Context, slots: Slots, inputs: Tensor) -> Tensor:
        """`[S, width]` states of slots from their inputs."""
        places = slots.places(len(context.newest), context.length)
        index = slots.spread(slots.cutoff, places.at, places.shape)
        times = slots.spread(slots.timestamp, places.at, places.shape)
        multiplier = self.rotary.multiplier(index, times, context.newest, self.heads, self.head_dim)
        states: Tensor = self.decoder.slots(inputs, multiplier, places, context.caches)
        return states

    def forward(self, batch: SequenceBatch, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        every = torch.arange(self.n_items + 1, device=batch.timestamp.device) if candidates is None else candidates
        context, vectors = self.encode(batch, every)
        return self.match(context.states), self.match(vectors)

    def requests(self, batch: SequenceBatch, context: Context) -> Slots:
        """One request for each user of a batch, at the end of the history."""
        query = batch.request_query if self.searches and batch.queries is not None else None
        return Slots(
            row=torch.arange(len(batch), device=batch.user_id.device),
            cutoff=batch.lengths.long(),
            timestamp=context.newest if batch.request_timestamp is None else batch.request_timestamp,
            query=torch.zeros_like(batch.user_id) if query is None else query,
        )

    @torch.no_grad()
    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        known = (batch.lengths > 0).unsqueeze(-1)
        if self.searches and batch.request_query is not None and bool(batch.request_query.any()):
            context, _ = self.encode(batch, batch.item_id[:0])
            slots = self.requests(batch, context)
            known = known | (slots.query > 0).unsqueeze(-1)
            states = self.ask(context, slots)
        else:  # nobody searches: no slot needs the states of the other events
            items, _, queries = self._look_up(batch, batch.item_id[:0])
            inputs = self._inputs(batch, items, queries)
            states = self._widen(self.decoder.last(inputs.x, inputs.multiplier, batch.lengths.long()))
        answers = self.match(states).float()
        return torch.cat([answers * known, (~known).float()], dim=1)

    @property
    def ranks(self) -> bool:
        return self.head is not None

    @torch.no_grad()
    def candidate_scores(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        if self.head is None:
            return super().candidate_scores(batch, candidates)
        distinct, place = torch.unique(candidates, return_inverse=True)
        context, vectors = self.encode(batch, distinct)
        slots = self.requests(batch, context)
        answers = self.ask(context, slots)
        block = max(1, SLOT_BLOCK // max(len(batch), 1))
        scores = [
            candidate_score(self.rank(context, slots, answers, vectors[part]).float(), self.action_values)
            for part in place.split(block, dim=1)
        ]
        known = ((slots.cutoff > 0) | (slots.query > 0)).unsqueeze(-1)  # nobody else has ever asked a ranking slot
        ranked = torch.where(known, torch.cat(scores, dim=1), self.popularity[candidates])
        return ranked.masked_fill(candidates == 0, -torch.inf)

    def dense_part(self) -> nn.Module:
        return self.decoder

    def match(self, vectors: Tensor) -> Tensor:
        if self.similarity != "cosine":
            return vectors
        own, words = self._split(vectors)
        return self._widen(F.normalize(own, dim=-1), words)

    @classmethod
    def build(cls, catalogue: Catalogue, hyperparameters: dict[str, Any]) -> SynerGen:
        rotary = rotary_from_config(hyperparameters["rotary"])
        return cls(catalogue, **{**hyperparameters, "rotary": rotary})
