"""A log of shown lists: documents once, and for each list where its documents stand and which were clicked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys.unbiased.shown_lists import ShownLists

LONGEST = 1000
"""Positions of a list; a later one is an error in the table."""


class ListDataError(ValueError):
    """A table of shown lists that cannot be read as one."""


class LoggedLists:
    """N shown lists of at most L documents.

    Args:
        documents: `[R, F]` float32 features; lists may share documents.
        place: `[N, L]` int64 row of the document that was shown at each position, -1 where a list is shorter.
        click: `[N, L]` of 0 and 1.
        context: `[N]` int64 from 0; None: one context.
    """

    def __init__(self, documents: Tensor, place: Tensor, click: Tensor, context: Tensor | None = None):
        self.documents, self.place, self.context = documents, place, context
        self.click = click.to(torch.uint8)

    def __len__(self) -> int:
        return len(self.place)

    @property
    def positions(self) -> int:
        """L."""
        return self.place.shape[1]

    @property
    def n_features(self) -> int:
        """F."""
        return self.documents.shape[1]

    def lists(self, which: Tensor) -> ShownLists:
        """The lists `which` `[B]` int64, padded."""
        place = self.place[which]
        mask = place >= 0
        features = self.documents[place.clamp(min=0)] * mask.unsqueeze(-1)
        context = None if self.context is None else self.context[which]
        return ShownLists(features, self.click[which].float(), mask, context)

    def clicked(self) -> LoggedLists:
        """The lists with a click, over the same documents."""
        kept = (self.click > 0).any(dim=1)
        context = None if self.context is None else self.context[kept]
        return LoggedLists(self.documents, self.place[kept], self.click[kept], context)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        features: Sequence[str] | None = None,
        query_id: str = "query_id",
        position: str = "position",
        click: str = "click",
        context: str | None = None,
        origin: str = "the table",
    ) -> LoggedLists:
        """Reads a table with a row for each shown document, in any order.

        A position that a list lacks (an advertisement, a document without features) stays empty, but for the first,
        against which all others are weighed.

        Args:
            frame: the table.
            features: columns of numbers; None: all columns that are named nowhere else.
            query_id: column that tells the lists apart; a query that was shown twice is two lists.
            position: column of the positions, from 1.
            click: column of 0 and 1.
            context: column of int from 0, the same for all rows of a list; None: one context.
            origin: what errors call the table.

        Raises:
            ListDataError: a column is missing or has values that it cannot have.

        Example:
            >>> table = pd.DataFrame({"query_id": ["b", "a", "b"], "position": [2, 1, 1], "click": [1, 0, 0]})
            >>> log = LoggedLists.from_frame(table.assign(price=[3.0, 5.0, 4.0]))
            >>> log.lists(torch.tensor([0, 1])).features.squeeze(-1)  # of `a` and of `b`
            tensor([[5., 0.],
                    [4., 3.]])
        """
        named = [query_id, position, click, *([] if context is None else [context])]
        columns = [name for name in frame.columns if name not in named] if features is None else list(features)
        if missing := [name for name in [*named, *columns] if name not in frame.columns]:
            raise ListDataError(f"{origin}: no column {missing}; it has {list(frame.columns)}")
        if not len(frame) or not columns:
            raise ListDataError(f"{origin}: {'no column of features' if len(frame) else 'empty'}")
        at = _integers(frame[position], position, 1, origin)
        if at.max() > LONGEST:
            raise ListDataError(f"{origin}: `{position}` goes to {at.max()}; nobody saw more than {LONGEST} documents")
        clicked = _integers(frame[click], click, 0, origin)
        if clicked.max() > 1:
            raise ListDataError(f"{origin}: `{click}` is 0 or 1, not {clicked.max()}; several clicks are one")
        documents = _numbers(frame, columns, origin)
        if frame[query_id].isna().any():
            raise ListDataError(f"{origin}: `{query_id}` is empty in {int(frame[query_id].isna().sum())} rows")
        row, names = pd.factorize(frame[query_id], sort=True)
        place = np.full((len(names), int(at.max())), -1, dtype=np.int64)
        place[row, at - 1] = np.arange(len(frame))
        if (twice := place[row, at - 1] != np.arange(len(frame))).any():
            first = int(twice.argmax())
            raise ListDataError(
                f"{origin}: list {names[row[first]]} has two documents at position {at[first]}; give each list that "
                f"was shown its own `{query_id}`"
            )
        if (headless := place[:, 0] < 0).any():
            raise ListDataError(
                f"{origin}: {int(headless.sum())} lists lack position 1, list {names[int(headless.argmax())]} among "
                f"them; `{position}` counts from 1, and lists whose first document is not logged must be left out"
            )
        clicks = np.zeros(place.shape, dtype=np.uint8)
        clicks[row, at - 1] = clicked
        where = None
        if context is not None:
            codes = _integers(frame[context], context, 0, origin)
            where = codes[place[:, 0]]
            if (codes != where[row]).any():
                raise ListDataError(f"{origin}: `{context}` differs within a list")
        of_lists = None if where is None else torch.from_numpy(where)
        return cls(torch.from_numpy(documents), torch.from_numpy(place), torch.from_numpy(clicks), of_lists)


def _integers(column: pd.Series, name: str, least: int, origin: str) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.isfinite(numbers) & (numbers >= least) & (numbers == np.floor(numbers)))
    if bad.any():
        raise ListDataError(
            f"{origin}: `{name}` is a whole number from {least}; row {int(bad.argmax())} has "
            f"{column.iloc[int(bad.argmax())]}"
        )
    return numbers.astype(np.int64)


def _numbers(frame: pd.DataFrame, columns: Sequence[str], origin: str) -> np.ndarray:
    """`[R, F]` float32."""
    if bad := [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]:
        raise ListDataError(f"{origin}: features are numbers, {bad} are not; leave them out or encode them")
    values = np.array(frame[list(columns)].to_numpy(dtype=np.float32, na_value=np.nan), order="C")  # its own memory
    if (bad_column := ~np.isfinite(values).all(axis=0)).any():
        raise ListDataError(
            f"{origin}: feature `{columns[int(bad_column.argmax())]}` is empty or infinite in some rows; fill it"
        )
    return values
