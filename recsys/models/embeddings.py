"""TorchRec tables of a schema, and the item encoder that turns ids and side features into item vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.catalogue import Catalogue
from recsys.features.queries import Queries
from recsys.features.schema import DENSE, Feature, SchemaError
from recsys.models.bag_input import BagInput
from recsys.models.compositional import Composition
from recsys.models.feature_mask import FeatureMask
from recsys.models.frozen_vectors import FrozenVectors
from recsys.models.tables import table_device
from recsys.models.word_match import WordMatch

if TYPE_CHECKING:
    from recsys.features.masking import View

POOLING = {"mean": PoolingType.MEAN, "sum": PoolingType.SUM}
DEFAULTS_SEED = 0x64656661756C74
"""Tells the draws of default vectors from all others of the same seed."""


class ItemEncoder(nn.Module):
    """Item vectors: id embedding plus side features, each projected to the model width and added up.

    Adding the projections is one linear map of the concatenated embeddings. An embedding that already has the model
    width is added as it is, so that ids alone cost no matrix product.

    Numbers and given vectors (`FrozenVectors`) are projected and added likewise.

    Ids are looked up in a TorchRec EmbeddingCollection and side features in an EmbeddingBagCollection. Gradients are
    sparse: a step touches the rows it looked up, whatever the size of the table.

    Queries are encoded the same way where `queries` is set: their text features may share tables with the items', and
    sentence vectors of one model share their projection, so that a query and an item of the same words start alike.

    Features can be hidden. In place of a hidden one stands its default vector, which is learned, where the encoder is
    `maskable`, and nothing otherwise: zero means something to a network that adds vectors up.

    Args:
        catalogue: sizes and side features of the items.
        width: the model width.
        side_features: False leaves ids alone.
        queries: encode the query features of the schema too.
        ids: False knows items by their side features alone, so that one without training events is like any other.
        init_std: standard deviation of the initial embeddings.
        word_width: dimensions of the vectors of a `WordMatch`, which stand after the others; 0: none.
        maskable: have a default vector for each feature, the id among them.
        hide_untrained_ids: hide the ids of items without training events, whose rows are as they were drawn.
        feature_dropout: in training, hide each feature of each item that is looked up with this probability; words are
            matched all the same.

    Raises:
        ValueError: items have neither ids nor side features, or none that would be left; or a share is not one.

    Attributes:
        feature_names: of the features of an item, `item_id` first where it has an id.
        defaults: `[features, width]` the default vectors; None where the encoder is not maskable.
    """

    numeric_values: Tensor
    item_rows: Tensor | None
    trained: Tensor | None
    defaults: nn.Parameter | None

    def __init__(
        self,
        catalogue: Catalogue,
        width: int,
        side_features: bool = True,
        queries: bool = False,
        ids: bool = True,
        init_std: float = 0.02,
        word_width: int = 0,
        maskable: bool = False,
        hide_untrained_ids: bool = False,
        feature_dropout: float = 0.0,
    ):
        super().__init__()
        schema = catalogue.schema
        features = schema.of("item") if side_features else ()
        if not ids and not features:
            raise ValueError("an item needs its id or side features: `ids: false` asks for features in the schema")
        if hide_untrained_ids and not features:
            raise ValueError(
                "`hide_untrained_ids: true` leaves nothing of an item without training events: it asks for features of "
                "items in the schema, and `side_features: true`"
            )
        if not 0 <= feature_dropout < 1:
            raise ValueError(f"feature_dropout must be at least 0 and below 1, not {feature_dropout}")
        self.feature_names = (*(["item_id"] if ids else []), *(feature.name for feature in features))
        self.feature_dropout = feature_dropout
        asked = schema.of("query") if queries else ()
        self.bagged = tuple(feature for feature in features if feature.type not in DENSE)
        self.query_texts = tuple(feature for feature in asked if feature.type not in DENSE)
        self.numeric = tuple(feature.name for feature in features if feature.type == "numeric")

        id_dim = schema.item_table.dim or width
        self.width = width
        self.id_rows = Composition.of(catalogue, "item_id")
        tables = self.id_rows.tables(EmbeddingConfig, "item_id", ["item_id"], id_dim, init_std)
        self.ids = EmbeddingCollection(tables=tables, device=table_device()) if ids else None
        self.register_buffer("item_rows", catalogue.item_rows, persistent=False)
        self.some_without_row = catalogue.item_rows is not None and not bool(catalogue.item_rows[1:].all())
        self.register_buffer("trained", catalogue.counts > 0 if ids and hide_untrained_ids else None, persistent=False)
        if ids and self.some_without_row and not features:
            raise SchemaError(
                "item_table: items that are seen less than `min_count` times have no row, and no side features either; "
                "let them share rows with `unknown: hash`"
            )
        in_bags = self.bagged + self.query_texts
        held = {feature.name: Composition.of(catalogue, str(feature.table)) for feature in in_bags}
        bags = bag_tables(catalogue, in_bags, held, width, init_std)
        self.lists = frozenset(feature.name for feature in self.bagged if feature.type != "categorical")
        self.summed = frozenset(name for bag in bags if bag.pooling is PoolingType.SUM for name in bag.feature_names)
        self.bags = EmbeddingBagCollection(tables=bags, device=table_device())
        for collection in (self.ids.embeddings if self.ids is not None else {}, self.bags.embedding_bags):
            for embedding in collection.values():
                embedding.sparse = True

        dims = {feature.name: schema.table(feature).dim or width for feature in in_bags}
        self.project = nn.ModuleDict(
            {
                name: nn.Linear(dim, width, bias=False)
                for name, dim in (({"item_id": id_dim} if ids else {}) | dims).items()
                if dim != width
            }
        )
        self.numeric_map = nn.Linear(len(self.numeric), width, bias=False) if self.numeric else None
        self.bag_input = BagInput(catalogue, [f.name for f in self.bagged], [f.name for f in self.query_texts], held)
        if self.numeric:
            stacked = torch.stack([catalogue.numeric[name] for name in self.numeric], dim=1)
            self.register_buffer("numeric_values", stacked, persistent=False)
        given = tuple(feature for feature in features if feature.type in ("vector", "sentence"))
        self.given = tuple(feature.name for feature in given)
        self.frozen = nn.ModuleList(FrozenVectors(catalogue.vectors[feature.name], width) for feature in given)
        # A query sentence goes through the projection of an item sentence of the same model, where there is one.
        self.query_sentences = tuple(feature for feature in asked if feature.type == "sentence")
        place = {feature.model: at for at, feature in enumerate(given) if feature.type == "sentence"}
        self.shared_projection = {f.name: place[f.model] for f in self.query_sentences if f.model in place}
        self.query_project = nn.ModuleDict(
            {
                feature.name: nn.Linear(catalogue.query_dims[feature.name], width, bias=False)
                for feature in self.query_sentences
                if feature.name not in self.shared_projection
            }
        )
        self.word_match = WordMatch(catalogue, word_width) if word_width else None
        self.register_parameter("defaults", None)
        if maskable:  # from a generator of its own: a network without default vectors draws the same initial weights
            own = torch.Generator().manual_seed(torch.initial_seed() ^ DEFAULTS_SEED)
            drawn = torch.randn(len(self.feature_names), width, generator=own, device="cpu")
            self.defaults = nn.Parameter(init_std * drawn)

    @property
    def maskable(self) -> bool:
        """Whether it has default vectors."""
        return self.defaults is not None

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of the items `ids` `[n]` int64, `[n, width + word_width]`; distinct ids spare the optimiser work."""
        return self.with_queries(ids, None)[0]

    def with_queries(self, ids: Tensor, queries: Queries | None) -> tuple[Tensor, Tensor]:
        """Vectors of items and of queries, from one lookup per table.

        Args:
            ids: `[n]` int64 items, at least one.
            queries: Q queries; None: there are none.

        Returns:
            `[n, width + word_width]` and `[Q + 1, width + word_width]`; row 0 of the latter, "no query", is zero.
        """
        drops = self.training and self.feature_dropout > 0
        mask = FeatureMask.at_random(self.feature_names, ids, self.feature_dropout) if drops else None
        vectors, asked = self._encode(ids, queries, mask)
        if self.word_match is None:
            return vectors, asked
        words, asked_words = self.word_match(ids, queries)
        return torch.cat([vectors, words], dim=1), torch.cat([asked, asked_words], dim=1)

    def views(self, ids: Tensor, views: Sequence[View], generator: torch.Generator | None = None) -> list[Tensor]:
        """Vectors of the same items with other features hidden, from one lookup per table.

        What no view shows is not looked up. Dimensions are dropped from embeddings and given vectors before they are
        projected; a number has one dimension. No words are matched.

        Args:
            ids: `[n]` int64 items, at least one.
            views: what is not seen of them.
            generator: of the values and dimensions that a view leaves to chance; None: torch's own.

        Returns:
            `[n, width]` for each view.

        Raises:
            ValueError: a view hides a feature that the encoder does not have, or there are no default vectors for it.
        """
        if unknown := frozenset().union(*(view.hidden for view in views)) - set(self.feature_names):
            raise ValueError(
                f"a view hides {sorted(unknown)}, and the network encodes only {list(self.feature_names)} of an item; "
                "`ids: true` and `side_features: true` have it encode all"
            )
        if not self.maskable and any(view.hidden or view.value_dropout for view in views):
            raise ValueError("a view hides features, for which the network needs default vectors: set `maskable: true`")
        mask = FeatureMask.of_views(self.feature_names, views, ids, self.lists, generator)
        return list(self._encode(ids, None, mask)[0].split(len(ids)))

    def _encode(self, ids: Tensor, queries: Queries | None, mask: FeatureMask | None) -> tuple[Tensor, Tensor]:
        """Vectors of the items in each of V views, `[V * n, width]`, and of queries, `[Q + 1, width]`."""

        def shown(vectors: Tensor, *names: str) -> Tensor:
            return vectors if mask is None else mask.see(vectors, *names)

        vectors, rows = self._id_vectors(ids, mask), 0 if queries is None else len(queries)
        n, asked = len(vectors), vectors.new_zeros(rows, self.width)
        if self._pools(rows, mask):
            pooled = self.bags(self.bag_input(ids, queries, mask)).to_dict()
            for feature in self.bagged:
                pool = self.bag_input.pooled(feature.name, pooled)[:n]
                if mask is not None and self.bag_input.held[feature.name].names(feature.name)[0] in self.summed:
                    pool = pool * mask.stretch[feature.name]
                vectors = vectors + self._to_width(feature.name, shown(pool, feature.name))
            for feature in self.query_texts if rows else ():
                asked = asked + self._to_width(feature.name, self.bag_input.pooled(feature.name, pooled)[n:])
        if self.numeric_map is not None:
            vectors = vectors + self.numeric_map(shown(self.numeric_values[ids], *self.numeric))
        for name, frozen in zip(self.given, self.frozen, strict=True):
            assert isinstance(frozen, FrozenVectors)
            vectors = vectors + frozen.project(shown(frozen.rows(ids), name))
        if queries is not None:
            for feature in self.query_sentences:
                asked = asked + self._query_projection(feature.name)(queries.vectors[feature.name])
        if self.defaults is not None and mask is not None:
            vectors = vectors + mask.hidden().to(vectors.dtype) @ self.defaults
        elif self.defaults is not None and self.trained is not None:
            vectors = vectors + torch.outer((~self.trained[ids]).to(vectors.dtype), self.defaults[0])
        return vectors, asked

    def _pools(self, rows: int, mask: FeatureMask | None) -> bool:
        """Whether bags are looked up, given the rows of queries."""
        if mask is None or (rows and self.query_texts):
            return bool(self.bagged or self.query_texts)
        return any(feature.name in mask.visible for feature in self.bagged)

    def _id_vectors(self, ids: Tensor, mask: FeatureMask | None) -> Tensor:
        """What the ids add to the vectors of items, `[V * n, width]`."""
        views = 1 if mask is None else mask.views
        if self.trained is not None and mask is not None:
            mask.hide("item_id", ~self.trained[ids].repeat(views))
        if self.ids is None or (mask is not None and "item_id" not in mask.visible):
            return torch.zeros(views * ids.shape[0], self.width, device=ids.device)
        rows = ids if self.item_rows is None else self.item_rows[ids]
        if self.trained is not None:
            rows = rows * self.trained[ids]
        places, keys = self.id_rows.partition.places(rows), self.id_rows.names("item_id")
        ones = torch.ones_like(rows, dtype=torch.int32).repeat(len(keys))
        looked_up = self.ids(KeyedJaggedTensor(keys=keys, values=torch.cat(places), lengths=ones))
        vectors = self.id_rows.combined([looked_up[key].values() for key in keys])
        if self.some_without_row or self.trained is not None:
            vectors = vectors * (rows > 0).unsqueeze(-1)
        return self._to_width("item_id", vectors if mask is None else mask.see(vectors, "item_id"))

    def _query_projection(self, name: str) -> nn.Module:
        if name not in self.shared_projection:
            return self.query_project[name]
        shared = self.frozen[self.shared_projection[name]]
        assert isinstance(shared, FrozenVectors)
        return shared.project

    def _to_width(self, name: str, embedding: Tensor) -> Tensor:
        return self.project[name](embedding) if name in self.project else embedding


def bag_tables(
    catalogue: Catalogue, features: tuple[Feature, ...], held: dict[str, Composition], width: int, init_std: float
) -> list[EmbeddingBagConfig]:
    """The tables of bags; features that name the same table share it."""
    by_table: dict[str, list[Feature]] = {}
    for feature in features:
        by_table.setdefault(str(feature.table), []).append(feature)
    tables = []
    for name, sharing in by_table.items():
        dim, pooling = catalogue.schema.table_named(name).dim or width, POOLING[sharing[0].pooling]
        names = [feature.name for feature in sharing]
        tables += held[names[0]].tables(EmbeddingBagConfig, name, names, dim, init_std, pooling=pooling)
    return tables
