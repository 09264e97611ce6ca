"""What is known of users beside their histories, as vectors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.features.catalogue import Catalogue
from recsys.features.schema import DENSE, Feature
from recsys.models.bag_input import BagInput
from recsys.models.compositional import Composition
from recsys.models.embeddings import bag_tables
from recsys.models.frozen_vectors import FrozenVectors
from recsys.models.tables import table_device

USER_ID = Feature(name="user_id", column="user_id", type="categorical", entity="user")
"""A user's id, where the schema has a `user_table`, is one more feature: a bag of one row, or of none."""


class UserEncoder(nn.Module):
    """User vectors: id and side features, each projected to the model width and added up, as `ItemEncoder` does.

    All tables are looked up at once, in an EmbeddingBagCollection. A user that the catalogue does not know has no id
    and no features, and so the zero vector; one that training does not know has no id.

    Args:
        catalogue: ids and features of the users.
        width: the model width.
        init_std: standard deviation of the initial embeddings.

    Raises:
        ValueError: the schema has neither a `user_table` nor features of users.
    """

    known: Tensor
    numeric_values: Tensor

    def __init__(self, catalogue: Catalogue, width: int, init_std: float = 0.02):
        super().__init__()
        schema = catalogue.schema
        features = schema.of("user") + ((USER_ID,) if schema.user_table is not None else ())
        if not features:
            raise ValueError(f"schema `{schema.name}` tells nothing of users: set `user_table`, or give them features")
        bagged = tuple(feature for feature in features if feature.type not in DENSE)
        held = {feature.name: Composition.of(catalogue, str(feature.table)) for feature in bagged}
        tables = bag_tables(catalogue, bagged, held, width, init_std)
        self.bags = EmbeddingBagCollection(tables=tables, device=table_device())
        for table in self.bags.embedding_bags.values():
            table.sparse = True
        dims = {feature.name: schema.table(feature).dim or width for feature in bagged}
        self.project = nn.ModuleDict(
            {name: nn.Linear(dim, width, bias=False) for name, dim in dims.items() if dim != width}
        )
        self.bagged = tuple(dims)
        self.bag_input = BagInput(replace(catalogue, jagged=catalogue.user_jagged), self.bagged, (), held)
        numeric = [feature.name for feature in features if feature.type == "numeric"]
        self.numeric_map = nn.Linear(len(numeric), width, bias=False) if numeric else None
        if numeric:
            stacked = torch.stack([catalogue.user_numeric[name] for name in numeric], dim=1)
            self.register_buffer("numeric_values", stacked, persistent=False)
        given = [feature.name for feature in features if feature.type in ("vector", "sentence")]
        self.frozen = nn.ModuleList(FrozenVectors(catalogue.user_vectors[name], width) for name in given)
        self.width = width
        self.register_buffer("known", _known(catalogue), persistent=False)

    def forward(self, user_id: Tensor) -> Tensor:
        """Vectors of the users `user_id` `[n]` int64, at least one, `[n, width]`."""
        users = self._known_ids(user_id)
        vectors = torch.zeros(len(users), self.width, device=users.device)
        if self.bagged:
            pooled = self.bags(self.bag_input(users, None)).to_dict()
            for name in self.bagged:
                pool = self.bag_input.pooled(name, pooled)
                vectors = vectors + (self.project[name](pool) if name in self.project else pool)
        if self.numeric_map is not None:
            vectors = vectors + self.numeric_map(self.numeric_values[users])
        for frozen in self.frozen:
            assert isinstance(frozen, FrozenVectors)
            vectors = vectors + frozen.project(frozen.rows(users))
        return vectors

    def knows(self, user_id: Tensor) -> Tensor:
        """`[n]` bool, whether anything is known of the users `user_id` `[n]` int64: all others have the zero vector."""
        return self.known[self._known_ids(user_id)]

    def _known_ids(self, user_id: Tensor) -> Tensor:
        """The ids, 0 for those of a later log."""
        return user_id * (user_id < len(self.known))


def _known(catalogue: Catalogue) -> Tensor:
    """`[n_users + 1]` bool, users with an id that training knows, or with any feature that is not missing or 0."""
    told = [offsets.diff() > 0 for _, offsets in catalogue.user_jagged.values()]
    told += [values != 0 for values in catalogue.user_numeric.values()]
    told += [(values != 0).any(dim=1) for values in catalogue.user_vectors.values()]
    return torch.stack(told).any(dim=0)
