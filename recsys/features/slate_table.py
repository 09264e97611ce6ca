"""Reading slates from a table beside the event log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.features.event_log import EventLog
from recsys.features.list_table import ListDataError, integers, read_lists
from recsys.features.query_reader import QueryReader
from recsys.features.slates import Slates
from recsys.features.validation import UNITS
from recsys.features.vocabulary import Vocabulary


class SlateTable:
    """A Parquet file or a DataFrame with a row for each item that was shown.

    Users and items are named as in the log. An item that the log does not know leaves its position empty; a slate whose
    first item is unknown is left out, for all positions are weighed against the first.

    Args:
        slates: path of the file, or the table itself.
        batch_size: slates of a training step, of all processes together; losses over clicks are normalised over it, so
            at least 128.
        clicked_only: leave out slates without clicks, which teach softmax losses nothing; `RegressionEM` needs them.
        request_id: column that tells the slates apart.
        user_id: column of the users.
        timestamp: column of the time of the request, in the unit of the log's schema or as dates.
        item_id: column of the items.
        position: column of the positions, from 1.
        click: column of 0 and 1.
        query: column of the text that was searched for, empty for none. None: nobody searched.
        context: column of int from 0, the situation a slate was shown in. None: one.

    Raises:
        ValueError: the batch size is below 1.

    Example:
        >>> from recsys.features.schema import Schema
        >>> events = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [10, 20]})
        >>> log = EventLog.from_frame(events, Schema(name="two events"))
        >>> shown = pd.DataFrame({"request_id": [7, 7], "user_id": "u", "timestamp": 15, "item_id": ["a", "b"]})
        >>> slates = SlateTable(shown.assign(position=[2, 1], click=[0, 1])).read(log)
        >>> batch = slates.batch(np.array([0]))
        >>> batch.item.tolist(), batch.click.tolist(), batch.histories.item_id.tolist()  # `b` first, after event `a`
        ([[2, 1]], [[1.0, 0.0]], [1])
    """

    def __init__(
        self,
        slates: str | pd.DataFrame,
        batch_size: int = 128,
        clicked_only: bool = True,
        request_id: str = "request_id",
        user_id: str = "user_id",
        timestamp: str = "timestamp",
        item_id: str = "item_id",
        position: str = "position",
        click: str = "click",
        query: str | None = None,
        context: str | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"slates: batch_size must be positive, not {batch_size}")
        self.slates, self.batch_size, self.clicked_only = slates, batch_size, clicked_only
        self.request_id, self.user_id, self.timestamp, self.item_id = request_id, user_id, timestamp, item_id
        self.position, self.click, self.query, self.context = position, click, query, context

    def read(self, log: EventLog) -> Slates:
        """All slates, those without clicks among them.

        Args:
            log: that has the histories.

        Raises:
            ListDataError: the file cannot be read as a table of slates, or the log reads no queries.
        """
        frame, origin = self._frame()
        if not len(frame):
            raise ListDataError(f"{origin}: empty")
        table = read_lists(frame, self.request_id, self.position, self.click, origin)
        user, time = (
            table.of_lists(codes, name, origin)
            for codes, name in (
                (_ids(log.users, frame[self.user_id], self.user_id, origin), self.user_id),
                (self._seconds(frame, log, origin), self.timestamp),
            )
        )
        # One more item, unknown, which the places -1 point at.
        items = np.append(_ids(log.items, frame[self.item_id], self.item_id, origin), 0)
        item = items[table.place].astype(np.int32)
        context = None
        if self.context is not None:
            context = table.of_lists(integers(frame[self.context], self.context, 0, origin), self.context, origin)
        query, queries = np.zeros_like(user), None
        if self.query is not None:
            reader = QueryReader.of(log.schema, log.encoders, log.sentence_models)
            if reader is None:
                raise ListDataError(
                    f"{origin}: `{self.query}` holds queries, and the schema has no feature that reads them"
                )
            codes, texts = pd.factorize(frame[self.query].replace("", None))
            query = table.of_lists(codes.astype(np.int64), self.query, origin) + 1
            queries, _ = reader.read(texts.tolist())
        slates = Slates(log, user, time, item, table.click * (item > 0), query, queries, context)
        headed = item[:, 0] > 0
        holes = int(((item == 0) & (table.place >= 0)).sum())
        return slates.where(headed, unknown_items=holes, first_item_unknown=int((~headed).sum()))

    def _frame(self) -> tuple[pd.DataFrame, str]:
        named = [self.request_id, self.user_id, self.timestamp, self.item_id, self.position, self.click]
        named += [name for name in (self.query, self.context) if name is not None]
        if isinstance(self.slates, pd.DataFrame):
            there, origin = list(self.slates.columns), "the table of slates"
        elif Path(self.slates).exists():
            there, origin = pq.ParquetDataset(self.slates).schema.names, str(self.slates)
        else:
            raise ListDataError(f"{self.slates}: no such file or folder")
        if missing := [name for name in named if name not in there]:
            raise ListDataError(f"{origin}: no column {missing}; it has {there}")
        if isinstance(self.slates, pd.DataFrame):
            return self.slates, origin
        return pd.read_parquet(self.slates, columns=named), origin

    def _seconds(self, frame: pd.DataFrame, log: EventLog, origin: str) -> NDArray[np.int64]:
        """`[R]` Unix seconds."""
        column = frame[self.timestamp]
        if pd.api.types.is_numeric_dtype(column):
            return integers(column // UNITS[log.schema.events.timestamp_unit], self.timestamp, 0, origin)
        times = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
        if (bad := times.isna().to_numpy()).any():
            raise ListDataError(
                f"{origin}: `{self.timestamp}` holds times; row {int(bad.argmax())} has {column.iloc[bad.argmax()]}"
            )
        return times.to_numpy(dtype="datetime64[s]").astype(np.int64)


def _ids(vocabulary: Vocabulary, column: pd.Series, name: str, origin: str) -> NDArray[np.int64]:
    """`[R]` ids, 0 for what the log does not know."""
    if column.isna().any():
        raise ListDataError(f"{origin}: `{name}` is empty in {int(column.isna().sum())} rows")
    try:
        return vocabulary.encode(column)
    except TypeError as error:
        raise ListDataError(f"{origin}: `{name}` is named otherwise than in the log: {error}") from None
