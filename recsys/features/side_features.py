"""Side features: what the columns of a side table become for every entity of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.features.dense_features import Embed, numeric_column, sentence_column, vector_column
from recsys.features.jagged import JaggedColumn
from recsys.features.raw_values import RawValues, jagged_column
from recsys.features.schema import Feature
from recsys.features.side_tables import SideTable, is_text, plain
from recsys.features.text import text_values
from recsys.features.vocabulary import Encoder


@dataclass(frozen=True)
class SideFeatures:
    """The features of one kind of entity, ids 1..n.

    Attributes:
        jagged: feature name -> `[n + 1]` rows of table rows.
        numeric: feature name -> `[n + 1]` float32.
        vectors: feature name -> `[n + 1, dim]` float32 or float16.
        scaling: numeric feature name -> (mean, standard deviation).
        facts: what was missing, dropped and cut, counted.
    """

    jagged: dict[str, JaggedColumn] = field(default_factory=dict)
    numeric: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    vectors: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    scaling: dict[str, tuple[float, float]] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)


def side_features(
    features: Sequence[Feature],
    side: SideTable,
    raw: Mapping[str, RawValues],
    encoders: Mapping[str, Encoder],
    n: int,
    embed: Embed,
) -> SideFeatures:
    """Everything that the features of one kind of entity become.

    Args:
        features: of that kind.
        side: its side table.
        raw: the values of those that feed a table.
        encoders: of the tables.
        n: number of entities.
        embed: embeds the texts of sentences.

    Raises:
        DataError: a column cannot be used.
    """
    numbers = {f.name: numeric_column(f, side, n) for f in features if f.type == "numeric"}
    vectors: dict[str, tuple[NDArray[Any], int]] = {
        f.name: vector_column(f, side, n) for f in features if f.type == "vector"
    }
    vectors |= {f.name: sentence_column(f, side, n, embed) for f in features if f.type == "sentence"}
    bags = {f.name: jagged_column(raw[f.name], encoders[str(f.table)], n) for f in features if f.table is not None}
    facts = {f"{name}_vectors_missing": missing for name, (_, missing) in vectors.items()}
    for name, (_, dropped, cut) in bags.items():
        facts |= {f"{name}_values_dropped": dropped, f"{name}_values_cut": cut}
    return SideFeatures(
        jagged={name: column for name, (column, _, _) in bags.items()},
        numeric={name: values for name, (values, _) in numbers.items()},
        vectors={name: values for name, (values, _) in vectors.items()},
        scaling={name: scaling for name, (_, scaling) in numbers.items()},
        facts=facts,
    )


def raw_values(feature: Feature, side: SideTable) -> RawValues:
    """The values of a categorical, categorical list or text column; missing ones are left out.

    Raises:
        DataError: the column's type does not fit the feature's.
    """
    if feature.type == "text":
        return replace(text_values(feature, side.ids, side.texts(feature)), copies=side.copies)
    column, ids = plain(side.columns[feature.column]), side.ids
    if feature.separator is not None:
        _require(feature, side, column, is_text(column.type), f"text separated by `{feature.separator}`")
        column = pc.split_pattern(column, feature.separator)
    elif feature.type == "categorical_list":
        lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        _require(feature, side, column, lists, "lists (or text, with `separator` set)")
    if feature.type == "categorical_list":
        ids = np.repeat(ids, pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False))
        column = pc.list_flatten(column)
    if feature.separator is not None:
        column = pc.utf8_trim_whitespace(column)
    try:
        return RawValues.of(feature, ids, column)
    except TypeError:
        raise side.wrong_type(feature, column.type, "integers or strings") from None


def _require(feature: Feature, side: SideTable, column: pa.Array, fits: bool, wanted: str) -> None:
    if not fits and not pa.types.is_null(column.type):
        raise side.wrong_type(feature, column.type, wanted)
