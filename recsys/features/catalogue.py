"""What a model must know of the data before it can be built: sizes, side features and training counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.jagged import JaggedColumn, offsets_of
from recsys.features.schema import Schema
from recsys.features.training_pairs import TrainingPairs

if TYPE_CHECKING:
    from recsys.features.splits import Split

Jagged = tuple[Tensor, Tensor]
"""Values `[sum of lengths]` int64 and offsets `[rows + 1]` int64."""

_DENSE, _JAGGED = ("numeric", "vectors", "user_numeric", "user_vectors"), ("jagged", "user_jagged")
"""The fields of features, as names of tensors begin."""


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
        user_jagged: the same as `jagged`, of users, offsets `[n_users + 2]`. Where the schema has a `user_table`,
            `user_id` is among them: the row of the user's id, none for a user without training targets.
        user_numeric: the same as `numeric`, of users.
        user_vectors: the same as `vectors`, of users.
        interactions: the distinct training items of each user, ascending, offsets `[n_users + 2]`; None: the network
            that it is for knows no pairs of users and items.
        exposures: the distinct items of each user that were exposed in training, taken or not, likewise; None: not
            known. Training alone reads them, and they are not saved.
    """

    schema: Schema
    n_items: int
    n_users: int
    table_rows: dict[str, int]
    counts: Tensor
    max_length: int = 50
    actions: tuple[str, ...] = ()
    jagged: dict[str, Jagged] = field(default_factory=dict)
    numeric: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    query_dims: dict[str, int] = field(default_factory=dict)
    item_rows: Tensor | None = None
    user_jagged: dict[str, Jagged] = field(default_factory=dict)
    user_numeric: dict[str, Tensor] = field(default_factory=dict)
    user_vectors: dict[str, Tensor] = field(default_factory=dict)
    interactions: Jagged | None = None
    exposures: Jagged | None = None

    @classmethod
    def from_split(
        cls,
        split: Split,
        max_length: int = 50,
        interactions: bool = False,
        exposures: TrainingPairs | None = None,
    ) -> Catalogue:
        """The catalogue of a log, with item counts of the training part of `split` alone.

        Args:
            split: of the log.
            max_length: events of a history that a model reads.
            interactions: for networks of pairs: users are known by their ids, whether the schema has a `user_table` or
                not, and which items each had is told.
            exposures: pairs that were exposed, as batches of pairs know them; None: they do not.
        """
        log = split.log
        counts = torch.tensor(split.train_counts(), dtype=torch.int64)
        of_users = log.user_features
        if interactions:
            of_users = of_users | {"user_id": _trained_users(split, least=1)}
        elif log.schema.user_table is not None:
            of_users = of_users | {"user_id": _trained_users(split, least=2)}
        actions = tuple(log.vocabularies["action"].values.astype(str)) if "action" in log.columns else ()
        rows = log.table_rows | ({"action": 1 + len(actions)} if actions else {})
        if interactions and log.schema.user_table is None:
            rows = rows | {"user_id": 1 + log.n_users}
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
            jagged=_jagged(log.item_features),
            numeric=_numeric(log.item_numeric),
            vectors=_vectors(log.item_vectors),
            query_dims=dims,
            item_rows=None if own is None else torch.tensor(own),
            user_jagged=_jagged(of_users),
            user_numeric=_numeric(log.user_numeric),
            user_vectors=_vectors(log.user_vectors),
            interactions=_of_pairs(TrainingPairs.of(split)) if interactions else None,
            exposures=None if exposures is None else _of_pairs(exposures),
        )

    def without_users(self) -> Catalogue:
        """The same without what is known of users."""
        return replace(self, user_jagged={}, user_numeric={}, user_vectors={}, interactions=None, exposures=None)

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
        out = {"counts": self.counts} | ({} if self.item_rows is None else {"item_rows": self.item_rows})
        for kind in _DENSE:
            out |= {f"{kind}.{name}": values for name, values in getattr(self, kind).items()}
        for kind in _JAGGED:
            for name, (values, offsets) in getattr(self, kind).items():
                out |= {f"{kind}.{name}.values": values, f"{kind}.{name}.offsets": offsets}
        if self.interactions is not None:
            out |= {"interactions.values": self.interactions[0], "interactions.offsets": self.interactions[1]}
        return out

    @classmethod
    def from_parts(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Catalogue:
        """Rebuilds what `config` and `tensors` gave."""
        dense: dict[str, Any] = {kind: _below(kind, tensors) for kind in _DENSE}
        jagged: dict[str, Any] = {kind: _pairs(_below(kind, tensors)) for kind in _JAGGED}
        return cls(
            schema=Schema.parse(config["schema"]),
            n_items=config["n_items"],
            n_users=config["n_users"],
            table_rows=config["table_rows"],
            counts=tensors["counts"],
            max_length=config["max_length"],
            actions=tuple(config.get("actions", ())),  # models saved before there were any lack both
            query_dims=config.get("query_dims", {}),
            item_rows=tensors.get("item_rows"),
            interactions=(tensors["interactions.values"], tensors["interactions.offsets"])
            if "interactions.values" in tensors
            else None,
            **dense,
            **jagged,
        )

    def __repr__(self) -> str:
        return f"Catalogue({self.schema.name}: {self.n_items} items, {self.n_users} users, tables {self.table_rows})"


def _jagged(columns: Mapping[str, JaggedColumn]) -> dict[str, Jagged]:
    return {
        name: (torch.tensor(column.values, dtype=torch.int64), torch.tensor(column.offsets, dtype=torch.int64))
        for name, column in columns.items()
    }


def _numeric(columns: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in columns.items()}


def _vectors(columns: Mapping[str, NDArray[np.floating]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in columns.items()}


def _trained_users(split: Split, least: int) -> JaggedColumn:
    """The row of each user's id, none where training says nothing of the user: it would stay as it was drawn.

    Args:
        split: whose training events count.
        least: events from which on training says something: 2 where each is the target of the one before, 1 in pairs.
    """
    log = split.log
    rows = np.arange(log.n_users + 1) if log.schema.user_table is None else log.user_rows()
    rows[split.train_end - split.train_start < least] = 0
    return JaggedColumn(rows[rows > 0], offsets_of(np.sign(rows)))


def _of_pairs(pairs: TrainingPairs) -> Jagged:
    return torch.tensor(pairs.items, dtype=torch.int64), torch.tensor(pairs.offsets, dtype=torch.int64)


def _below(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with `kind`, by the rest of it."""
    start = f"{kind}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, Jagged]:
    names = [name.removesuffix(".offsets") for name in tensors if name.endswith(".offsets")]
    return {name: (tensors[f"{name}.values"], tensors[f"{name}.offsets"]) for name in names}


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
