"""Which rows of a table the values of a log fall on, and how often they are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.raw_values import RawValues
from recsys.features.schema import Entity
from recsys.features.vocabulary import Encoder


class Lookups(NamedTuple):
    """Distinct raw values, and how often each is looked up.

    Attributes:
        values: `[n]` distinct values.
        events: `[n]` int64: once for each event whose item, user, query or own feature has the value.
    """

    values: pd.Index
    events: NDArray[np.int64]

    @classmethod
    def of(cls, raw: RawValues, events: Mapping[Entity, NDArray[np.int64]]) -> Lookups:
        """The lookups of a feature.

        Args:
            raw: its values.
            events: `[n + 1]` events of each item and each user; of queries and of event features `raw` knows them.
        """
        of_entity = events.get(raw.feature.entity, raw.copies)
        assert of_entity is not None, f"nobody counted the events of `{raw.feature.name}`"
        return cls(raw.distinct, _sums(raw.at, of_entity[raw.ids], len(raw.distinct)))


@dataclass(frozen=True)
class TableUsage:
    """The rows of a table that the values of a log fall on, row 0 for those that become nothing.

    Attributes:
        rows: `[k]` int64 rows, ascending.
        values: `[k]` int64, distinct values on each of them.
        events: `[k]` int64, lookups of each of them, by event.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.int64]
    events: NDArray[np.int64]

    @classmethod
    def of(cls, encoder: Encoder, lookups: Sequence[Lookups]) -> TableUsage:
        """The usage of a table.

        Args:
            encoder: of the table.
            lookups: of everything that feeds it; a value may stand in several.

        Example:
            >>> from recsys.features.vocabulary import Vocabulary
            >>> words = Vocabulary.of(["red", "shoe"])
            >>> usage = TableUsage.of(words, [Lookups(pd.Index(["red", "tie", "hat"]), np.array([5, 1, 2]))])
            >>> usage.rows.tolist(), usage.values.tolist(), usage.events.tolist()
            ([0, 1], [2, 1], [3, 5])
        """
        filled = [part for part in lookups if len(part.values)]
        if not filled:
            none = np.zeros(0, dtype=np.int64)
            return cls(none, none, none)
        place, values = pd.factorize(filled[0].values.append([part.values for part in filled[1:]]))
        events = _sums(place, np.concatenate([part.events for part in filled]), len(values))
        rows, at = np.unique(encoder.encode(values), return_inverse=True)
        return cls(rows, np.bincount(at, minlength=len(rows)), _sums(at, events, len(rows)))

    def stacked(self) -> NDArray[np.int64]:
        """`[3, k]`: rows, values and events, for a file."""
        return np.stack([self.rows, self.values, self.events])


def _sums(place: NDArray[np.integer], summands: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """`[n]` sums of the summands by place; exact below 2^53."""
    return np.bincount(place, summands, minlength=n).astype(np.int64)
