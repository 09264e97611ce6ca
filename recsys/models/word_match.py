"""The words that a query and an item share, compared directly instead of through the decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.features.catalogue import Catalogue
from recsys.features.queries import Queries
from recsys.models.bag_input import BagInput
from recsys.models.compositional import Composition
from recsys.models.tables import table_device


class WordMatch(nn.Module):
    """Vectors of items and queries whose inner product is a learned version of word matching.

    Each word has one vector; the longer it is, the more the word counts, as an inverse document frequency does. An item
    is the sum of its words at length one, so that a long text counts for no more than a short one; a query is the sum
    of its words times a learned weight. Random vectors are nearly orthogonal: before any training the inner product
    counts the words that both have. A decoder state also carries the person, the item's id and its attributes in the
    same dimensions, and has too few of them to tell thousands of words apart.

    Args:
        catalogue: texts of the items; its schema says which features of queries and items share a table.
        width: dimensions of a word.

    Raises:
        ValueError: no text of queries shares a table with a feature of the items.
    """

    def __init__(self, catalogue: Catalogue, width: int):
        super().__init__()
        self.width = width
        schema = catalogue.schema
        shared = {query: items for query, items in schema.shared_words().items() if items}
        if not shared:
            raise ValueError(
                f"word_width: schema `{schema.name}` has no text of queries that shares a table with a feature of the "
                "items, so that there are no words to match; give a text of the queries (`entity: query`) the `table` "
                "of an item text, or set `word_width: 0`"
            )
        self.query_features = tuple(shared)
        self.item_features = tuple(dict.fromkeys(name for names in shared.values() for name in names))
        by_table: dict[str, list[str]] = {}
        held: dict[str, Composition] = {}
        for feature in schema.of("query") + schema.of("item"):
            if feature.name in self.query_features + self.item_features:
                by_table.setdefault(str(feature.table), []).append(feature.name)
                held[feature.name] = Composition.of(catalogue, str(feature.table))
        self.words = EmbeddingBagCollection(
            tables=[
                config
                for table, names in by_table.items()
                for config in held[names[0]].tables(
                    EmbeddingBagConfig, f"match_{table}", names, width, width**-0.5, pooling=PoolingType.SUM
                )
            ],
            device=table_device(),
        )
        for embedding in self.words.embedding_bags.values():
            embedding.sparse = True
        self.query_weight = nn.Parameter(torch.ones(()))
        self.bag_input = BagInput(catalogue, self.item_features, self.query_features, held)

    def forward(self, ids: Tensor, queries: Queries | None) -> tuple[Tensor, Tensor]:
        """Vectors of items and of queries, from one lookup per table.

        Args:
            ids: `[n]` int64 items, at least one.
            queries: Q queries; None: there are none.

        Returns:
            `[n, width]` and `[Q + 1, width]`; row 0 of the latter, "no query", is zero, and so is whatever has no word.
        """
        n = len(ids)
        pooled = self.words(self.bag_input(ids, queries)).to_dict()
        items = torch.stack([self.bag_input.pooled(name, pooled)[:n] for name in self.item_features]).sum(0)
        asked = torch.stack([self.bag_input.pooled(name, pooled)[n:] for name in self.query_features]).sum(0)
        return F.normalize(items, dim=-1), self.query_weight * asked
