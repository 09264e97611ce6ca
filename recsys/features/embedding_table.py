"""An embedding table as a schema declares it: how raw values become its rows, and how the rows are held."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

MIN_DOCUMENT_FREQUENCY = 2
"""A word enters a vocabulary when this many texts hold it, unless the table says otherwise; a word of one text says
nothing of any other."""

LATER = ("min_count", "compression")
"""Options of tables that are younger than published results."""


class Strict(BaseModel):
    """A part of a schema: unknown keys are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Compression(Strict):
    """Two small tables in place of a large one: the vector of a row is made of a row of each.

    Sources: Shi et al., "Compositional Embeddings Using Complementary Partitions", KDD 2020; Zhang et al., "Model Size
    Reduction Using Frequency Based Double Hashing", RecSys 2020.
    """

    method: Literal["quotient_remainder", "double_hash"]
    """`quotient_remainder`: no two rows share both parts. `double_hash`: two independent hashes, so that few do."""
    rows: Annotated[int, Field(gt=1)]
    """Rows of the table of remainders, or of each of the two tables of hashes (padding excluded)."""
    combine: Literal["sum", "product"] = "sum"
    """What the two vectors become. A table that side features feed is pooled, which a product cannot be."""


class Table(Strict):
    """One TorchRec embedding table.

    A `vocabulary` table has one row per distinct value seen when the log is prepared; a `hash` table has
    `buckets` rows whatever the log holds. Row 0 is padding in both.
    """

    dim: Annotated[int, Field(gt=0)] | None = None
    """Embedding dimension; None takes the model's width."""
    encoding: Literal["vocabulary", "hash"] = "vocabulary"
    buckets: Annotated[int, Field(gt=1, lt=2**31)] | None = None
    """Rows of a hash table (padding excluded); required there, refused elsewhere."""
    min_count: Annotated[int, Field(gt=0)] | None = None
    """How often a value must be seen when the log is prepared to get a row of its own; a rarer one is unknown. None: 1,
    and for words of a text `MIN_DOCUMENT_FREQUENCY`. Ids, features of events and words of queries are counted by events
    (before equal ones are merged), features of items and users by the items and users that have the value."""
    unknown: Literal["drop", "hash"] = "drop"
    """What a value that the vocabulary does not know becomes: nothing, or one of `unknown_buckets` rows."""
    unknown_buckets: Annotated[int, Field(gt=0)] = 1
    compression: Compression | None = None
    """How the table is held; None: whole. The prepared log does not depend on it."""

    @model_validator(mode="after")
    def _check(self) -> Table:
        if (self.encoding == "hash") != (self.buckets is not None):
            raise ValueError("`buckets` is needed by `encoding: hash` and by nothing else")
        if self.encoding == "hash" and self.min_count is not None:
            raise ValueError("`min_count` says which values enter a vocabulary; a hash table has none")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what is not set of the later options: a schema without them keeps the fingerprint of its logs."""
        data: dict[str, Any] = dump(self)
        return {key: value for key, value in data.items() if key not in LATER or value is not None}

    @property
    def shared_rows(self) -> int:
        """Rows behind a vocabulary that unknown values share."""
        return self.unknown_buckets if self.unknown == "hash" else 0
