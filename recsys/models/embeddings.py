"""TorchRec tables of a schema, and the item encoder that turns ids and side features into item vectors."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.catalogue import Catalogue, gather_jagged
from recsys.features.schema import DENSE, Feature

POOLING = {"mean": PoolingType.MEAN, "sum": PoolingType.SUM}


class FrozenVectors(nn.Module):
    """Given vectors of the items, projected to the model width. They are no parameters: only the projection learns.

    A saved model has the vectors in its catalogue, and so they are in no checkpoint.

    Args:
        values: `[n_items + 1, dim]` float32; kept without a copy.
        width: the model width.
    """

    values: Tensor

    def __init__(self, values: Tensor, width: int):
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        self.project = nn.Linear(values.shape[1], width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """The projected vectors of the items `ids` `[n]` int64, `[n, width]`."""
        return self.project(self.values[ids])


class ItemEncoder(nn.Module):
    """Item vectors: id embedding plus side features, each projected to the model width and added up.

    Adding the projections is one linear map of the concatenated embeddings. An embedding that already has the model
    width is added as it is, so that ids alone cost no matrix product.

    Numbers and given vectors (`FrozenVectors`) are projected and added likewise.

    Ids are looked up in a TorchRec EmbeddingCollection and side features in an EmbeddingBagCollection. Gradients are
    sparse: a step touches the rows it looked up, whatever the size of the table.

    Args:
        catalogue: sizes and side features of the items.
        width: the model width.
        side_features: False leaves ids alone.
        init_std: standard deviation of the initial embeddings.
    """

    numeric_values: Tensor

    def __init__(self, catalogue: Catalogue, width: int, side_features: bool = True, init_std: float = 0.02):
        super().__init__()
        schema = catalogue.schema
        features = schema.of("item") if side_features else ()
        self.bagged = tuple(feature for feature in features if feature.type not in DENSE)
        self.numeric = tuple(feature.name for feature in features if feature.type == "numeric")
        init = partial(nn.init.normal_, std=init_std)

        id_dim = schema.item_table.dim or width
        self.ids = EmbeddingCollection(
            tables=[EmbeddingConfig(
                name="item_id", embedding_dim=id_dim, num_embeddings=catalogue.table_rows["item_id"],
                feature_names=["item_id"], init_fn=init,
            )]
        )  # fmt: skip
        self.bags = EmbeddingBagCollection(tables=_bag_configs(catalogue, self.bagged, width, init))
        for table in (*self.ids.embeddings.values(), *self.bags.embedding_bags.values()):
            table.sparse = True

        dims = {feature.name: schema.table(feature).dim or width for feature in self.bagged}
        self.project = nn.ModuleDict(
            {
                name: nn.Linear(dim, width, bias=False)
                for name, dim in ({"item_id": id_dim} | dims).items()
                if dim != width
            }
        )
        self.numeric_map = nn.Linear(len(self.numeric), width, bias=False) if self.numeric else None
        for feature in self.bagged:
            values, offsets = catalogue.jagged[feature.name]
            self.register_buffer(f"{feature.name}_values", values, persistent=False)
            self.register_buffer(f"{feature.name}_offsets", offsets, persistent=False)
        if self.numeric:
            stacked = torch.stack([catalogue.numeric[name] for name in self.numeric], dim=1)
            self.register_buffer("numeric_values", stacked, persistent=False)
        vectors = (catalogue.vectors[feature.name] for feature in features if feature.type == "vector")
        self.frozen = nn.ModuleList(FrozenVectors(values, width) for values in vectors)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of the items `ids` `[n]` int64, `[n, width]`; distinct ids spare the optimiser a merge."""
        ones = torch.ones_like(ids, dtype=torch.int32)
        looked_up = self.ids(KeyedJaggedTensor(keys=["item_id"], values=ids, lengths=ones))
        vectors = self._to_width("item_id", looked_up["item_id"].values())
        if self.bagged:
            pooled = self.bags(self._bag_input(ids)).to_dict()
            for feature in self.bagged:
                vectors = vectors + self._to_width(feature.name, pooled[feature.name])
        if self.numeric_map is not None:
            vectors = vectors + self.numeric_map(self.numeric_values[ids])
        for frozen in self.frozen:
            vectors = vectors + frozen(ids)
        return vectors

    def _to_width(self, name: str, embedding: Tensor) -> Tensor:
        return self.project[name](embedding) if name in self.project else embedding

    def _bag_input(self, ids: Tensor) -> KeyedJaggedTensor:
        picked = [
            gather_jagged(getattr(self, f"{f.name}_values"), getattr(self, f"{f.name}_offsets"), ids)
            for f in self.bagged
        ]
        values, lengths = zip(*picked, strict=True)
        return KeyedJaggedTensor(
            keys=[feature.name for feature in self.bagged], values=torch.cat(values), lengths=torch.cat(lengths)
        )


def _bag_configs(
    catalogue: Catalogue, features: tuple[Feature, ...], width: int, init: partial[Tensor]
) -> list[EmbeddingBagConfig]:
    """One table for each table name of the schema; features that name the same table share it."""
    by_table: dict[str, list[Feature]] = {}
    for feature in features:
        by_table.setdefault(feature.table or feature.name, []).append(feature)
    return [
        EmbeddingBagConfig(
            name=name,
            embedding_dim=catalogue.schema.table(sharing[0]).dim or width,
            num_embeddings=catalogue.table_rows[name],
            feature_names=[feature.name for feature in sharing],
            pooling=POOLING[sharing[0].pooling],
            init_fn=init,
        )
        for name, sharing in by_table.items()
    ]
