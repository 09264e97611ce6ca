"""What a model must know of the data before it can be built: sizes, side features and training counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recsys.features.schema import DENSE, Schema

if TYPE_CHECKING:
    from recsys.features.splits import Split


@dataclass(frozen=True)
class Catalogue:
    """Items and users of a log as tensors, independent of the log itself.

    Attributes:
        schema: the schema of the log.
        n_items: items are numbered 1..n_items; row 0 is padding everywhere.
        n_users: users are numbered 1..n_users.
        table_rows: rows of each embedding table, padding included; holds `item_id`.
        actions: names of the action codes 1, 2, ...; empty for a log without actions.
        counts: `[n_items + 1]` int64, training events of each item.
        max_length: events of a history that a model reads, the newest ones.
        jagged: item feature name -> (values int64 `[sum of lengths]`, offsets int64 `[n_items + 2]`).
        numeric: item feature name -> float32 `[n_items + 1]`.
        vectors: item feature name -> float `[n_items + 1, dim]`, which no model changes.
        query_dims: name of each query feature that is a vector -> its dimension.
        item_rows: `[n_items + 1]` int64, the row of the table `item_id` of each item, 0 for none; None: its own id.
    """

    schema: Schema
    n_items: int
    n_users: int
    table_rows: dict[str, int]
    counts: Tensor
    max_length: int = 50
    actions: tuple[str, ...] = ()
    jagged: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    numeric: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    query_dims: dict[str, int] = field(default_factory=dict)
    item_rows: Tensor | None = None

    @classmethod
    def from_split(cls, split: Split, max_length: int = 50) -> Catalogue:
        """The catalogue of a log, with item counts of the training part of `split` alone."""
        log = split.log
        counts = torch.tensor(split.train_counts(), dtype=torch.int64)
        jagged = {
            name: (torch.tensor(column.values, dtype=torch.int64), torch.tensor(column.offsets, dtype=torch.int64))
            for name, column in log.item_features.items()
        }
        numeric = {name: torch.tensor(values, dtype=torch.float32) for name, values in log.item_numeric.items()}
        vectors = {name: torch.tensor(values) for name, values in log.item_vectors.items()}
        actions = tuple(log.vocabularies["action"].values.astype(str)) if "action" in log.columns else ()
        rows = log.table_rows | ({"action": 1 + len(actions)} if actions else {})
        dims = {name: values.shape[1] for name, values in log.query_vectors.items()}
        own = log.item_rows()
        return cls(
            schema=log.schema,
            n_items=log.n_items,
            n_users=log.n_users,
            table_rows=rows,
            counts=counts,
            max_length=max_length,
            actions=actions,
            jagged=jagged,
            numeric=numeric,
            vectors=vectors,
            query_dims=dims,
            item_rows=None if own is None else torch.tensor(own),
        )

    def config(self) -> dict[str, Any]:
        """The JSON-able part; `tensors` is the rest."""
        return {
            "schema": self.schema.model_dump(mode="json"),
            "n_items": self.n_items,
            "n_users": self.n_users,
            "table_rows": self.table_rows,
            "max_length": self.max_length,
            "actions": list(self.actions),
            "query_dims": self.query_dims,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a safetensors file."""
        out = {"counts": self.counts} | {f"numeric.{name}": values for name, values in self.numeric.items()}
        out |= {} if self.item_rows is None else {"item_rows": self.item_rows}
        out |= {f"vectors.{name}": values for name, values in self.vectors.items()}
        for name, (values, offsets) in self.jagged.items():
            out |= {f"jagged.{name}.values": values, f"jagged.{name}.offsets": offsets}
        return out

    @classmethod
    def from_parts(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Catalogue:
        """Rebuilds what `config` and `tensors` gave."""
        schema = Schema.parse(config["schema"])
        features = schema.of("item")
        return cls(
            schema=schema,
            n_items=config["n_items"],
            n_users=config["n_users"],
            table_rows=config["table_rows"],
            counts=tensors["counts"],
            max_length=config["max_length"],
            actions=tuple(config.get("actions", ())),  # models saved before there were any lack both
            query_dims=config.get("query_dims", {}),
            item_rows=tensors.get("item_rows"),
            jagged={
                feature.name: (tensors[f"jagged.{feature.name}.values"], tensors[f"jagged.{feature.name}.offsets"])
                for feature in features
                if feature.type not in DENSE
            },
            numeric={f.name: tensors[f"numeric.{f.name}"] for f in features if f.type == "numeric"},
            vectors={f.name: tensors[f"vectors.{f.name}"] for f in features if f.type in ("vector", "sentence")},
        )

    def __repr__(self) -> str:
        return f"Catalogue({self.schema.name}: {self.n_items} items, {self.n_users} users, tables {self.table_rows})"


def gather_jagged(values: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Picks rows of a jagged tensor.

    Args:
        values: `[sum of lengths]`.
        offsets: `[n + 1]` int64.
        rows: `[m]` int64, in any order, repeats allowed.

    Returns:
        The picked values `[sum of the picked lengths]` and their lengths `[m]` int64.

    Example:
        >>> gather_jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 1, 1, 3]), torch.tensor([2, 0]))
        (tensor([8, 9, 7]), tensor([2, 1]))
    """
    start = offsets[rows]
    lengths = offsets[rows + 1] - start
    before = lengths.cumsum(0) - lengths
    at = torch.repeat_interleave(start - before, lengths) + torch.arange(int(lengths.sum()), device=rows.device)
    return values[at], lengths
