"""Two towers: users on the one side, items on the other, compared by their cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.models.embeddings import ItemEncoder
from recsys.models.item_tower import ItemTower
from recsys.models.network import SequenceNetwork
from recsys.models.tower import Tower
from recsys.models.user_encoder import UserEncoder


class TwoTower(SequenceNetwork):
    """Users and items meet in one inner product of unit vectors, and nowhere before.

    The tower of items reads ids and side features. That of users reads, added up:

    | part | what it is |
    | --- | --- |
    | history | mean of the encoder's vectors of the items so far |
    | user | id, where the schema has a `user_table`, and side features of the user |
    | query | what is searched for, where the schema has features of queries; zero for a recommendation |

    Both towers share the encoder of items. In training the user stands there once for each event, with the items up to
    it, and asks for the item that follows, with the query that it answered. A user without history whose features are
    known gets a vector of them, although training has seen them with histories only; a user of whom nothing is known
    gets what is popular.

    Args:
        catalogue: sizes, side features and training counts; the training job supplies it.
        width: of embeddings.
        hidden: widths of the hidden layers of each tower.
        dim: of the vectors that are compared.
        dropout: share of zeroed values behind each hidden layer.
        side_features: False knows items by their ids alone.
        ids: False knows items by their side features alone.
        user_features: False knows users by their histories alone.
        queries: read the query features of the schema, where it has any; False answers every request without its query.
        maskable: have a default vector for each feature of items, so that it can be hidden (`FeatureMaskingSSL`).
        hide_untrained_ids: know items without training events by their side features alone.
        feature_dropout: in training, hide each feature of each item that is looked up with this probability.

    Raises:
        ValueError: no features of items are left to know them by.

    Source:
        Covington et al., RecSys 2016; Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
        Recommendations", RecSys 2019.
    """

    items: ItemTower

    def __init__(
        self,
        catalogue: Catalogue,
        width: int = 64,
        hidden: Sequence[int] = (128,),
        dim: int = 64,
        dropout: float = 0.0,
        side_features: bool = True,
        ids: bool = True,
        user_features: bool = True,
        queries: bool = True,
        maskable: bool = False,
        hide_untrained_ids: bool = False,
        feature_dropout: float = 0.0,
    ):
        super().__init__(catalogue)
        hiding: dict[str, Any] = {"maskable": maskable, "hide_untrained_ids": hide_untrained_ids}
        hiding["feature_dropout"] = feature_dropout
        self.hyperparameters = {
            "width": width,
            "hidden": list(hidden),
            "dim": dim,
            "dropout": dropout,
            "side_features": side_features,
            "ids": ids,
            "user_features": user_features,
            "queries": queries,
        } | hiding
        schema = catalogue.schema
        self.dim = dim
        self.searches = queries and bool(schema.of("query"))
        encoder = ItemEncoder(catalogue, width, side_features, self.searches, ids, **hiding)
        self.items = ItemTower(encoder, Tower(width, hidden, dim, dropout))
        self.user_tower = Tower(width, hidden, dim, dropout)
        told = user_features and (schema.user_table is not None or bool(schema.of("user")))
        self.users = UserEncoder(catalogue, width) if told else None
        # Items stand on both sides, and words do where queries share their table: each begins as it is on the other.
        self.history_map = _identity(width)
        self.query_map = _identity(width) if self.searches else None

    def forward(self, batch: SequenceBatch, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        wanted = torch.arange(self.n_items + 1, device=batch.timestamp.device) if candidates is None else candidates
        distinct, place = torch.unique(torch.cat([batch.item_id, wanted]), return_inverse=True)
        encoded, asked = self.items.encoder.with_queries(distinct, batch.queries if self.searches else None)
        events, of_wanted = place.split([len(batch.item_id), len(wanted)])
        query = None if batch.target_query is None or not self.searches else asked[batch.target_query]
        return self._after_each(batch, encoded[events], query), self.match(self.items.tower(encoded))[of_wanted]

    def knows(self, user_id: Tensor) -> Tensor:
        return super().knows(user_id) if self.users is None else self.users.knows(user_id)

    def encode_vectors(self, batch: SequenceBatch, vectors: Tensor) -> Tensor:
        """Users after each event, who search for nothing.

        Args:
            batch: T events of B users.
            vectors: `[T, width]`, what `items.encoder` gives for the items of the events.

        Returns:
            `[T, dim]`, of length one.
        """
        return self._after_each(batch, vectors, None)

    def _after_each(self, batch: SequenceBatch, vectors: Tensor, query: Tensor | None) -> Tensor:
        users = None if self.users is None else self.users(batch.user_id).repeat_interleave(batch.lengths.long(), dim=0)
        return self._user_side(causal_means(vectors, batch.offsets.long()), users, query)

    def _user_side(self, history: Tensor, users: Tensor | None, query: Tensor | None) -> Tensor:
        """`[n, dim]`, of length one, from what there is of the three parts, `[n, width]` each."""
        x = self.history_map(history)
        if users is not None:
            x = x + users
        if query is not None and self.query_map is not None:
            x = x + self.query_map(query)
        return self.match(self.user_tower(x))

    @torch.no_grad()
    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        if not len(batch):  # TorchRec refuses to look nothing up, and other ranks wait where tables are sharded
            none = batch.item_id.new_zeros(1)
            return self.user_vectors(SequenceBatch.build(none, none, batch.item_id, batch.timestamp))[:0]
        n, known = len(batch.item_id), batch.lengths > 0
        ids = batch.item_id if n else batch.user_id.new_zeros(1)
        encoded, asked = self.items.encoder.with_queries(ids, batch.queries if self.searches else None)
        means = F.pad(causal_means(encoded[:n], batch.offsets.long()), (0, 0, 1, 0))
        history = means[batch.offsets[1:].long() * known]  # row 0, of no event, is zero
        users = query = None
        if self.users is not None:
            users, known = self.users(batch.user_id), known | self.users.knows(batch.user_id)
        if self.searches and batch.queries is not None and batch.request_query is not None:
            query, known = asked[batch.request_query], known | (batch.request_query > 0)
        vectors = self._user_side(history, users, query).float()
        return torch.cat([vectors * known.unsqueeze(-1), (~known).float().unsqueeze(-1)], dim=1)

    def match(self, vectors: Tensor) -> Tensor:
        """What `items` gives, `[n, dim]`, at length one."""
        return F.normalize(vectors, dim=-1)

    def dense_part(self) -> nn.Module:
        return self.user_tower

    @classmethod
    def build(cls, catalogue: Catalogue, hyperparameters: dict[str, Any]) -> TwoTower:
        return cls(catalogue, **hyperparameters)


def causal_means(vectors: Tensor, offsets: Tensor) -> Tensor:
    """The mean of each row's vectors so far, over jagged rows.

    The sums run over all rows and are subtracted at the beginning of each, in double precision: what the rows before
    have added up to is lost in rounding otherwise.

    Args:
        vectors: `[T, d]`, rows one after the other.
        offsets: `[B + 1]` int64, where each row begins and ends.

    Returns:
        `[T, d]`: after the first vector of a row, the second, and so on.

    Example:
        >>> causal_means(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([0, 2, 2, 3])).flatten().tolist()
        [1.0, 2.0, 7.0]
    """
    first = torch.repeat_interleave(offsets[:-1], offsets.diff())
    sums = F.pad(vectors.double().cumsum(0), (0, 0, 1, 0))
    number = torch.arange(1, len(vectors) + 1, device=vectors.device) - first
    return ((sums[1:] - sums[first]) / number.unsqueeze(-1)).to(vectors.dtype)


def _identity(width: int) -> nn.Linear:
    linear = nn.Linear(width, width, bias=False)
    nn.init.eye_(linear.weight)
    return linear
