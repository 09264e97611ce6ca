"""What stands at the input of each kind of token: context events, retrieval slots and ranking slots."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.features.catalogue import Catalogue

CONTEXT, RETRIEVAL, RANKING = range(3)


class SlotTokens(nn.Module):
    """Token inputs of a model that answers requests.

    | token | input |
    | --- | --- |
    | context event | item + action + query + type |
    | retrieval slot | masked item + query + type |
    | ranking slot | candidate + masked action + query + type |

    No slot holds the item or the action that it is to find. An event or request without a query has a vector that says
    so. The map of queries starts as the identity: where queries and items share a table, a search begins as a
    comparison of words.

    Args:
        catalogue: names the actions.
        width: model width.
        queries: whether events and requests have queries.
        ranking: whether there are ranking slots.
        task_tokens: tell the kinds apart by a vector of their own (off for ablations).
        init_std: standard deviation of the initial vectors.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        width: int,
        queries: bool,
        ranking: bool,
        task_tokens: bool = True,
        init_std: float = 0.02,
    ):
        super().__init__()

        def vectors(n: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n, width) * init_std)

        n_actions = len(catalogue.actions)
        self.kind = vectors(3) if task_tokens and (queries or ranking) else None
        self.action = vectors(n_actions + 1) if n_actions else None
        self.masked_item = vectors(1) if queries else None
        self.masked_action = vectors(1) if ranking else None
        self.no_query = vectors(1) if queries else None
        self.query_map = nn.Linear(width, width, bias=False) if queries else None
        if self.query_map is not None:
            nn.init.eye_(self.query_map.weight)

    def encode_queries(self, vectors: Tensor) -> Tensor | None:
        """Pooled queries `[Q + 1, width]` as they enter tokens, the same shape; row 0 is "no query"."""
        if self.query_map is None or self.no_query is None:
            return None
        return torch.cat([self.no_query, self.query_map(vectors[1:])])

    def context(self, items: Tensor, action: Tensor | None, queries: Tensor | None, query: Tensor | None) -> Tensor:
        """Inputs of T context events.

        Args:
            items: `[T, width]` item vectors.
            action: `[T]` int64 action codes; None for a log without.
            queries: `[Q + 1, width]` from `encode_queries`.
            query: `[T]` int64 rows of `queries`; None: no event has one.
        """
        x = items
        if self.action is not None and action is not None:
            x = x + self.action[action]
        return self._add_query(x, queries, query, CONTEXT)

    def retrieval(self, queries: Tensor, query: Tensor) -> Tensor:
        """Inputs of S retrieval slots, `[S, width]`, from the rows `query` `[S]` of `queries`."""
        assert self.masked_item is not None, "a model without queries has no retrieval slots"
        return self._add_query(self.masked_item, queries, query, RETRIEVAL)

    def ranking(self, candidates: Tensor, queries: Tensor | None, query: Tensor) -> Tensor:
        """Inputs of S ranking slots, `[S, width]`, from the item vectors of the candidates `[S, width]`."""
        assert self.masked_action is not None, "the model has no ranking head"
        return self._add_query(candidates + self.masked_action, queries, query, RANKING)

    def _add_query(self, x: Tensor, queries: Tensor | None, query: Tensor | None, kind: int) -> Tensor:
        if self.no_query is not None:
            x = x + (self.no_query if queries is None or query is None else queries[query])
        return x if self.kind is None else x + self.kind[kind]
