"""TorchRec tables of a schema, and the item encoder that turns ids and side features into item vectors."""

from __future__ import annotations

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
from recsys.models.tables import table_device
from recsys.models.word_match import WordMatch

POOLING = {"mean": PoolingType.MEAN, "sum": PoolingType.SUM}


class FrozenVectors(nn.Module):
    """Given vectors of the items, projected to the model width. They are no parameters: only the projection learns.

    A saved model has the vectors in its catalogue, and so they are in no checkpoint.

    Args:
        values: `[n_items + 1, dim]` float; kept as they are, without a copy.
        width: the model width.
    """

    values: Tensor

    def __init__(self, values: Tensor, width: int):
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        self.project = nn.Linear(values.shape[1], width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """The projected vectors of the items `ids` `[n]` int64, `[n, width]`."""
        return self.project(self.values[ids].to(self.project.weight.dtype))


class ItemEncoder(nn.Module):
    """Item vectors: id embedding plus side features, each projected to the model width and added up.

    Adding the projections is one linear map of the concatenated embeddings. An embedding that already has the model
    width is added as it is, so that ids alone cost no matrix product.

    Numbers and given vectors (`FrozenVectors`) are projected and added likewise.

    Ids are looked up in a TorchRec EmbeddingCollection and side features in an EmbeddingBagCollection. Gradients are
    sparse: a step touches the rows it looked up, whatever the size of the table.

    Queries are encoded the same way where `queries` is set: their text features may share tables with the items', and
    sentence vectors of one model share their projection, so that a query and an item of the same words start alike.

    Args:
        catalogue: sizes and side features of the items.
        width: the model width.
        side_features: False leaves ids alone.
        queries: encode the query features of the schema too.
        ids: False knows items by their side features alone, so that one without training events is like any other.
        init_std: standard deviation of the initial embeddings.
        word_width: dimensions of the vectors of a `WordMatch`, which stand after the others; 0: none.
    """

    numeric_values: Tensor
    item_rows: Tensor | None

    def __init__(
        self,
        catalogue: Catalogue,
        width: int,
        side_features: bool = True,
        queries: bool = False,
        ids: bool = True,
        init_std: float = 0.02,
        word_width: int = 0,
    ):
        super().__init__()
        schema = catalogue.schema
        if not ids and not (side_features and schema.of("item")):
            raise ValueError("an item needs its id or side features: `ids: false` asks for features in the schema")
        features = schema.of("item") if side_features else ()
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
        if ids and self.some_without_row and not features:
            raise SchemaError(
                "item_table: items that are seen less than `min_count` times have no row, and no side features either; "
                "let them share rows with `unknown: hash`"
            )
        in_bags = self.bagged + self.query_texts
        held = {feature.name: Composition.of(catalogue, str(feature.table)) for feature in in_bags}
        bags = _bag_tables(catalogue, in_bags, held, width, init_std)
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
        n, rows = ids.shape[0], 0 if queries is None else len(queries)
        vectors = self._id_vectors(ids)
        asked = vectors.new_zeros(rows, self.width)
        if self.bagged or self.query_texts:
            pooled = self.bags(self.bag_input(ids, queries)).to_dict()
            for feature in self.bagged:
                vectors = vectors + self._to_width(feature.name, self.bag_input.pooled(feature.name, pooled)[:n])
            for feature in self.query_texts if rows else ():
                asked = asked + self._to_width(feature.name, self.bag_input.pooled(feature.name, pooled)[n:])
        if self.numeric_map is not None:
            vectors = vectors + self.numeric_map(self.numeric_values[ids])
        for frozen in self.frozen:
            vectors = vectors + frozen(ids)
        if queries is not None:
            for feature in self.query_sentences:
                asked = asked + self._query_projection(feature.name)(queries.vectors[feature.name])
        if self.word_match is None:
            return vectors, asked
        words, asked_words = self.word_match(ids, queries)
        return torch.cat([vectors, words], dim=1), torch.cat([asked, asked_words], dim=1)

    def _id_vectors(self, ids: Tensor) -> Tensor:
        """What the ids add to the vectors of items, `[n, width]`."""
        if self.ids is None:
            return torch.zeros(ids.shape[0], self.width, device=ids.device)
        rows = ids if self.item_rows is None else self.item_rows[ids]
        places, keys = self.id_rows.partition.places(rows), self.id_rows.names("item_id")
        ones = torch.ones_like(rows, dtype=torch.int32).repeat(len(keys))
        looked_up = self.ids(KeyedJaggedTensor(keys=keys, values=torch.cat(places), lengths=ones))
        vectors = self.id_rows.combined([looked_up[key].values() for key in keys])
        if self.some_without_row:
            vectors = vectors * (rows > 0).unsqueeze(-1)
        return self._to_width("item_id", vectors)

    def _query_projection(self, name: str) -> nn.Module:
        if name not in self.shared_projection:
            return self.query_project[name]
        shared = self.frozen[self.shared_projection[name]]
        assert isinstance(shared, FrozenVectors)
        return shared.project

    def _to_width(self, name: str, embedding: Tensor) -> Tensor:
        return self.project[name](embedding) if name in self.project else embedding


def _bag_tables(
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
