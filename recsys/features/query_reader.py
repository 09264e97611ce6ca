"""Reading queries by their text, so that one that no log has seen is asked like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.queries import Queries
from recsys.features.raw_values import jagged_column
from recsys.features.schema import Feature, Schema
from recsys.features.sentences import SentenceEncoder, SentenceError, SentenceModel
from recsys.features.text import text_values
from recsys.features.vocabulary import Encoder, HashBuckets, Vocabulary

_TEXT = pd.StringDtype(na_value=np.nan)


@dataclass(frozen=True)
class QueryReader:
    """Turns texts into what a model reads of them, exactly as the preparation of a log did.

    Attributes:
        features: the schema's features of queries.
        encoders: of the tables that they feed, by the table's name.
        models: of the features that are sentences: what embedded them in the log.
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
    models: Mapping[str, SentenceModel] = field(default_factory=dict)
    facts: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def of(
        cls, schema: Schema, encoders: Mapping[str, Encoder], models: Mapping[str, SentenceModel]
    ) -> QueryReader | None:
        """The reader of a schema; None where it has no features of queries.

        Args:
            schema: of the log.
            encoders: `EventLog.encoders`, or the vocabularies alone: the encoder of a hash table is in the schema.
            models: `EventLog.sentence_models`.
        """
        features = schema.of("query")
        if not features:
            return None
        tables = {feature.table: schema.table(feature) for feature in features if feature.table is not None}
        return cls(
            features,
            {name: HashBuckets(table.buckets) if table.buckets else encoders[name] for name, table in tables.items()},
            {feature.name: models[feature.name] for feature in features if feature.type == "sentence"},
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

        Raises:
            SentenceError: the encoder of a sentence feature is not there, or is not the one that embedded the log.
        """
        given = pd.Index([text or None for text in texts], dtype=_TEXT)
        codes, distinct = pd.factorize(given)
        ids = np.arange(1, len(distinct) + 1)
        written = pa.array(distinct.tolist(), pa.string())
        jagged: dict[str, tuple[Tensor, Tensor]] = {}
        for feature in self.features:
            if feature.name in self.models:
                continue
            encoder = self.encoders[str(feature.table)]
            column, dropped, cut = jagged_column(text_values(feature, ids, written), encoder, len(distinct))
            jagged[feature.name] = (torch.from_numpy(column.values), torch.from_numpy(column.offsets))
            self.facts.update({f"{feature.name}_values_dropped": dropped, f"{feature.name}_values_cut": cut})
        vectors = {f.name: self._embed(f, distinct) for f in self.features if f.name in self.models}
        return Queries(jagged, vectors), codes.astype(np.int64) + 1

    def _embed(self, feature: Feature, texts: pd.Index) -> Tensor:
        """`[n + 1, dim]` float32; texts are rounded as in a log."""
        trained = self.models[feature.name]
        vectors = torch.zeros(len(texts) + 1, trained.dim)
        stripped = texts.str.strip()
        there = np.flatnonzero(stripped != "")
        self.facts[f"{feature.name}_vectors_missing"] += len(texts) - len(there)
        if len(there):
            embedded = self._sentence_encoders[feature.name].encode(stripped[there].tolist())
            vectors[torch.from_numpy(there) + 1] = torch.from_numpy(embedded).float()
        return vectors

    @cached_property
    def _sentence_encoders(self) -> dict[str, SentenceEncoder]:
        """The encoder of each sentence feature; found once, since telling it from another takes reading its files."""
        found = {f.name: SentenceEncoder.find(str(f.model)) for f in self.features if f.name in self.models}
        for name, encoder in found.items():
            if encoder.identity != self.models[name].identity:
                raise SentenceError(
                    f"{encoder.folder}: not the sentence encoder that embedded feature `{name}` when the log was "
                    "prepared; put that one there, or prepare the log and train again"
                )
        return found
