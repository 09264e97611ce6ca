"""Reading queries by their text, so that one that no log has seen is asked like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.queries import Queries
from recsys.features.raw_values import jagged_column
from recsys.features.schema import Feature, Schema
from recsys.features.text import text_values
from recsys.features.vocabulary import Encoder, HashBuckets, Vocabulary

_TEXT = pd.StringDtype(na_value=np.nan)


@dataclass(frozen=True)
class QueryReader:
    """Turns texts into what a model reads of them, exactly as the preparation of a log did.

    Attributes:
        features: the schema's features of queries.
        encoders: of the tables that they feed, by the table's name.
        facts: counts since the reader was made, as in `EventLog.facts`: words that a table does not know
            (`<feature>_values_dropped`) and those beyond `max_values` (`<feature>_values_cut`), of distinct texts.

    Example:
        >>> words = Feature(name="words", type="text", entity="query")
        >>> reader = QueryReader((words,), {"words": Vocabulary.of(["hat", "red", "shoe"])})
        >>> queries, rows = reader.read(["Red shoes, red hat", None])
        >>> rows.tolist(), queries.jagged["words"][0].tolist(), dict(reader.facts)["words_values_dropped"]
        ([1, 0], [2, 2, 1], 1)
    """

    features: tuple[Feature, ...]
    encoders: Mapping[str, Encoder]
    facts: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def of(cls, schema: Schema, encoders: Mapping[str, Encoder]) -> QueryReader | None:
        """The reader of a schema; None where it has no features of queries.

        Args:
            schema: of the log.
            encoders: `EventLog.encoders`, or the vocabularies alone: the encoder of a hash table is in the schema.
        """
        features = schema.of("query")
        if not features:
            return None
        tables = {feature.table: schema.table(feature) for feature in features if feature.table is not None}
        return cls(
            features,
            {name: HashBuckets(table.buckets) if table.buckets else encoders[name] for name, table in tables.items()},
        )

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """What has to be saved beside the schema to make the reader again."""
        return {name: encoder for name, encoder in self.encoders.items() if isinstance(encoder, Vocabulary)}

    def read(self, texts: Sequence[str | None]) -> tuple[Queries, NDArray[np.int64]]:
        """Reads queries.

        Args:
            texts: `[n]` queries; None or an empty text is no query.

        Returns:
            The distinct queries, and the row of each text in them, `[n]` int64; 0 for no query.
        """
        given = pd.Index([text or None for text in texts], dtype=_TEXT)
        codes, distinct = pd.factorize(given)
        ids = np.arange(1, len(distinct) + 1)
        written = pa.array(distinct.tolist(), pa.string())
        jagged: dict[str, tuple[Tensor, Tensor]] = {}
        for feature in self.features:
            encoder = self.encoders[str(feature.table)]
            column, dropped, cut = jagged_column(text_values(feature, ids, written), encoder, len(distinct))
            jagged[feature.name] = (torch.from_numpy(column.values), torch.from_numpy(column.offsets))
            self.facts.update({f"{feature.name}_values_dropped": dropped, f"{feature.name}_values_cut": cut})
        return Queries(jagged), codes.astype(np.int64) + 1
