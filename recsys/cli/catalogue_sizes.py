"""The catalogue of a log that is only imagined: its sizes without its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import DENSE, Feature, Schema
from recsys.training.topology import PlanError


@dataclass(frozen=True)
class Sizes:
    """What there is to say of a catalogue without its values.

    Attributes:
        rows: table -> rows, padding included.
        lengths: feature of the items that feeds a table -> values that an item has of it, on average.
        dims: feature of items or queries that is a vector -> its dimensions.
        items: number of items; None: as many as the table `item_id` has rows for.
        actions: names of the actions.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    items: int | None = None
    actions: tuple[str, ...] = ()

    @classmethod
    def of(cls, log: EventLog) -> Sizes:
        """Those of a log."""
        return cls(
            rows=log.table_rows,
            lengths={name: len(column.values) / max(log.n_items, 1) for name, column in log.item_features.items()},
            dims={name: values.shape[1] for name, values in {**log.item_vectors, **log.query_vectors}.items()},
            items=log.n_items,
            actions=tuple(log.vocabularies["action"].values.astype(str)) if "action" in log.columns else (),
        )

    def check(self, schema: Schema) -> None:
        """Sees that everything named is in the schema.

        Raises:
            PlanError: something is not.
        """
        known = {
            "rows": ("table", schema.table_names()),
            "lengths": ("list or text of the items", [feature.name for feature in _lists(schema)]),
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
    lengths = {f.name: 1.0 for f in schema.of("item") if f.type not in DENSE} | {**known.lengths, **given.lengths}
    dims = {**known.dims, **given.dims}
    return Catalogue(
        schema=schema,
        n_items=n,
        n_users=0,
        table_rows=rows | ({"action": 1 + len(known.actions)} if known.actions else {}),
        counts=_meta(torch.int64, n + 1),
        max_length=max_length,
        actions=known.actions,
        jagged={
            name: (_meta(torch.int64, round(n * length)), _meta(torch.int64, n + 2)) for name, length in lengths.items()
        },
        numeric={f.name: _meta(torch.float32, n + 1) for f in schema.of("item") if f.type == "numeric"},
        vectors={f.name: _meta(torch.float32, n + 1, dims[f.name]) for f in _vectors(schema) if f.entity == "item"},
        query_dims={f.name: dims[f.name] for f in _vectors(schema) if f.entity == "query"},
        # Networks look at its values: one of them, seen from every place.
        item_rows=None if own else torch.ones(1, dtype=torch.int64).expand(n + 1),
    )


def _meta(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _own_rows(schema: Schema) -> bool:
    """Whether each item has a row of its own."""
    return schema.item_table.encoding == "vocabulary" and (schema.item_table.min_count or 1) == 1


def _lists(schema: Schema) -> list[Feature]:
    return [feature for feature in schema.of("item") if feature.type in ("categorical_list", "text")]


def _vectors(schema: Schema) -> list[Feature]:
    return [f for f in schema.of("item") + schema.of("query") if f.type in ("vector", "sentence")]
