"""Tables of a schema as TorchRec holds them: in one piece, or in two small parts whose vectors are combined."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, TypeVar

from torch import Tensor, nn
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from recsys.features.catalogue import Catalogue
from recsys.features.partitions import Partition, partition_of

Config = TypeVar("Config", bound=BaseEmbeddingConfig)

COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": operator.add, "product": operator.mul}

STD_OF_PART: dict[str, Callable[[float, int], float]] = {
    "sum": lambda std, parts: std / parts**0.5,
    "product": lambda std, parts: std ** (1 / parts),
}
"""The standard deviation of independent parts that gives what they combine to the one wanted."""


@dataclass(frozen=True)
class Composition:
    """One table of a schema as the TorchRec tables that hold it, each trained and sharded like any other.

    Sources: Shi et al., KDD 2020, and Zhang et al., RecSys 2020, as `recsys.features.partitions` tells.

    Attributes:
        partition: which row of each part a row of the table is made of.
        combine: what the vectors of the parts become, `sum` or `product`.
    """

    partition: Partition
    combine: str = "sum"

    @classmethod
    def of(cls, catalogue: Catalogue, name: str) -> Composition:
        """How the table of that name is held.

        Raises:
            SchemaError: its compression saves nothing.
        """
        table = catalogue.schema.table_named(name)
        partition = partition_of(name, table, catalogue.table_rows[name])
        return cls(partition) if table.compression is None else cls(partition, table.compression.combine)

    def names(self, name: str) -> list[str]:
        """The names of the parts of a table, or of a feature that looks them up; of one part, the name itself."""
        return [name + suffix for suffix in self.partition.suffixes]

    def tables(
        self, config: type[Config], name: str, features: Sequence[str], dim: int, std: float, **settings: Any
    ) -> list[Config]:
        """The configuration of each part.

        Args:
            config: for single rows or for bags.
            name: of the table.
            features: that look it up.
            dim: of the vectors.
            std: standard deviation of the initial vectors, once they are combined.
            settings: more for `config`.
        """
        init = partial(nn.init.normal_, std=STD_OF_PART[self.combine](std, len(self.partition.sizes)))
        keys = zip(*(self.names(feature) for feature in features), strict=True)
        return [
            config(
                name=part, embedding_dim=dim, num_embeddings=rows, feature_names=list(feeding), init_fn=init, **settings
            )
            for part, rows, feeding in zip(self.names(name), self.partition.sizes, keys, strict=True)
        ]

    def combined(self, parts: Sequence[Tensor]) -> Tensor:
        """`[n, dim]` vectors of the table from those of its parts."""
        return reduce(COMBINE[self.combine], parts)
