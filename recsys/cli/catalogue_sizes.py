"""The catalogue of a log that is only imagined: its sizes without its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import DENSE, Entity, Feature, Schema
from recsys.training.topology import PlanError


@dataclass(frozen=True)
class Sizes:
    """What there is to say of a catalogue without its values.

    Attributes:
        rows: table -> rows, padding included.
        lengths: feature of items or users that feeds a table -> values that one has of it, on average.
        dims: feature of items, users or queries that is a vector -> its dimensions.
        items: number of items; None: as many as the table `item_id` has rows for.
        users: number of users; None: as many as the table `user_id` has rows for, if there is one.
        actions: names of the actions.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    items: int | None = None
    users: int | None = None
    actions: tuple[str, ...] = ()

    @classmethod
    def of(cls, log: EventLog) -> Sizes:
        """Those of a log."""
        return cls(
            rows=log.table_rows,
            lengths={
                name: len(column.values) / max(len(column) - 1, 1)
                for name, column in {**log.item_features, **log.user_features}.items()
            },
            dims={
                name: values.shape[1]
                for name, values in {**log.item_vectors, **log.user_vectors, **log.query_vectors}.items()
            },
            items=log.n_items,
            users=log.n_users,
            actions=tuple(log.vocabularies["action"].values.astype(str)) if "action" in log.columns else (),
        )

    def check(self, schema: Schema) -> None:
        """Sees that everything named is in the schema.

        Raises:
            PlanError: something is not.
        """
        known = {
            "rows": ("table", schema.table_names()),
            "lengths": ("list or text of items or users", [feature.name for feature in _lists(schema)]),
            "dims": ("vector", [feature.name for feature in _vectors(schema)]),
        }
        for option, (kind, names) in known.items():
            if unknown := sorted(set(getattr(self, option)) - set(names)):
                there = ", ".join(names) or "none"
                raise PlanError(f"--{option}: schema `{schema.name}` has no {kind} `{unknown[0]}`; it has {there}")

    def open(self, schema: Schema) -> list[str]:
        """The options that would say what only a log could tell otherwise; none: it can do without."""
        rows = [name for name in schema.table_names() if schema.table_named(name).encoding != "hash"]
        open_ = [f"--rows {name}=..." for name in rows if name not in self.rows and not self._counted(schema, name)]
        if self.items is None and not (_own_rows(schema) and "item_id" in self.rows):
            open_.append("--n_items ...")
        open_ += [f"--lengths {feature.name}=..." for feature in _lists(schema) if feature.name not in self.lengths]
        return open_ + [f"--dims {feature.name}=..." for feature in _vectors(schema) if feature.name not in self.dims]

    def _counted(self, schema: Schema, name: str) -> bool:
        return name == "item_id" and _own_rows(schema) and self.items is not None


def catalogue_of(schema: Schema, given: Sizes, known: Sizes, max_length: int) -> Catalogue:
    """A catalogue of given sizes on the meta device: it takes no memory, and networks are built from it as from any.

    Args:
        schema: of the log.
        given: the sizes to plan for.
        known: those of the log, for what is not given; empty where nothing is `open`.
        max_length: events of a history that a model reads.

    Raises:
        PlanError: the number of items and the rows of their table contradict each other.
    """
    rows = {name: 1 + (schema.table_named(name).buckets or 0) for name in schema.table_names()}
    rows |= {name: n for name, n in {**known.rows, **given.rows}.items() if name in rows}
    own, shared = _own_rows(schema), schema.item_table.shared_rows
    of_rows = given.rows["item_id"] - 1 - shared if own and "item_id" in given.rows else None
    if given.items is not None and of_rows is not None and given.items != of_rows:
        raise PlanError(f"--n_items {given.items} and --rows item_id={rows['item_id']}: each item has a row; give one")
    n = next(count for count in (given.items, of_rows, known.items) if count is not None)
    if n < 1:
        raise PlanError("a catalogue has at least one item")
    if own:
        rows["item_id"] = n + 1 + shared
    users = known.users if known.users is not None else max(rows.get("user_id", 1) - 1, 1)
    lengths, dims = {**known.lengths, **given.lengths}, {**known.dims, **given.dims}
    own_ids = {"user_id": _bags(users, 1.0)} if schema.user_table is not None else {}
    return Catalogue(
        schema=schema,
        n_items=n,
        n_users=users,
        table_rows=rows | ({"action": 1 + len(known.actions)} if known.actions else {}),
        counts=_meta(torch.int64, n + 1),
        max_length=max_length,
        actions=known.actions,
        jagged=_jagged(schema, "item", n, lengths),
        numeric=_numeric(schema, "item", n),
        vectors=_given(schema, "item", n, dims),
        user_jagged=_jagged(schema, "user", users, lengths) | own_ids,
        user_numeric=_numeric(schema, "user", users),
        user_vectors=_given(schema, "user", users, dims),
        query_dims={f.name: dims[f.name] for f in _vectors(schema) if f.entity == "query"},
        # Networks look at its values: one of them, seen from every place.
        item_rows=None if own else torch.ones(1, dtype=torch.int64).expand(n + 1),
    )


def _jagged(schema: Schema, entity: Entity, n: int, lengths: Mapping[str, float]) -> dict[str, tuple[Tensor, Tensor]]:
    return {f.name: _bags(n, lengths.get(f.name, 1.0)) for f in schema.of(entity) if f.type not in DENSE}


def _bags(n: int, length: float) -> tuple[Tensor, Tensor]:
    return _meta(torch.int64, round(n * length)), _meta(torch.int64, n + 2)


def _numeric(schema: Schema, entity: Entity, n: int) -> dict[str, Tensor]:
    return {f.name: _meta(torch.float32, n + 1) for f in schema.of(entity) if f.type == "numeric"}


def _given(schema: Schema, entity: Entity, n: int, dims: Mapping[str, int]) -> dict[str, Tensor]:
    return {f.name: _meta(torch.float32, n + 1, dims[f.name]) for f in _vectors(schema) if f.entity == entity}


def _meta(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _own_rows(schema: Schema) -> bool:
    """Whether each item has a row of its own."""
    return schema.item_table.encoding == "vocabulary" and (schema.item_table.min_count or 1) == 1


def _lists(schema: Schema) -> list[Feature]:
    return [f for f in schema.of("item") + schema.of("user") if f.type in ("categorical_list", "text")]


def _vectors(schema: Schema) -> list[Feature]:
    return [feature for feature in schema.features if feature.type in ("vector", "sentence")]
