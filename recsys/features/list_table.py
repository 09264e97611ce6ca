"""Tables of shown lists: a row for each thing that was shown, and which of them were clicked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LONGEST = 1000
"""Positions of a list; a later one is an error in the table."""


class ListDataError(ValueError):
    """A table of shown lists that cannot be read as one."""


class ListTable(NamedTuple):
    """N lists of at most L positions.

    Attributes:
        names: `[N]` what tells the lists apart, ascending.
        row: `[R]` int64, the list of each row of the table.
        place: `[N, L]` int64, the row of the table that was shown at each position; -1 where a list has none.
        click: `[N, L]` uint8 of 0 and 1.
    """

    names: pd.Index
    row: NDArray[np.int64]
    place: NDArray[np.int64]
    click: NDArray[np.uint8]

    def of_lists(self, column: NDArray[np.int64], name: str, origin: str) -> NDArray[np.int64]:
        """`[N]` int64 values of a column `[R]` that has one value a list.

        Args:
            column: of codes.
            name: of the column.
            origin: what errors call the table.

        Raises:
            ListDataError: it has several.
        """
        values = column[self.place[:, 0]]
        if (column != values[self.row]).any():
            raise ListDataError(f"{origin}: `{name}` differs within a list")
        return values


def read_lists(frame: pd.DataFrame, list_id: str, position: str, click: str, origin: str = "the table") -> ListTable:
    """Reads a table whose rows come in any order.

    A position that a list lacks stays empty, but for the first, against which all others are weighed.

    Args:
        frame: the table, with at least one row.
        list_id: column that tells the lists apart; a list that was shown twice is two lists.
        position: column of the positions, from 1.
        click: column of 0 and 1.
        origin: what errors call the table.

    Raises:
        ListDataError: a column has values that it cannot have.

    Example:
        >>> frame = pd.DataFrame({"list": ["b", "a", "b"], "at": [2, 1, 1], "clicked": [1, 0, 0]})
        >>> table = read_lists(frame, "list", "at", "clicked")
        >>> table.place.tolist(), table.click.tolist()  # of `a` and of `b`
        ([[1, -1], [2, 0]], [[0, 0], [0, 1]])
    """
    at = integers(frame[position], position, 1, origin)
    if at.max() > LONGEST:
        raise ListDataError(f"{origin}: `{position}` goes to {at.max()}; nobody saw more than {LONGEST} documents")
    clicked = integers(frame[click], click, 0, origin)
    if clicked.max() > 1:
        raise ListDataError(f"{origin}: `{click}` is 0 or 1, not {clicked.max()}; several clicks are one")
    if frame[list_id].isna().any():
        raise ListDataError(f"{origin}: `{list_id}` is empty in {int(frame[list_id].isna().sum())} rows")
    row, names = pd.factorize(frame[list_id], sort=True)
    place = np.full((len(names), int(at.max())), -1, dtype=np.int64)
    place[row, at - 1] = np.arange(len(frame))
    if (twice := place[row, at - 1] != np.arange(len(frame))).any():
        first = int(twice.argmax())
        raise ListDataError(
            f"{origin}: list {names[row[first]]} has two documents at position {at[first]}; give each list that "
            f"was shown its own `{list_id}`"
        )
    if (headless := place[:, 0] < 0).any():
        raise ListDataError(
            f"{origin}: {int(headless.sum())} lists lack position 1, list {names[int(headless.argmax())]} among "
            f"them; `{position}` counts from 1, and lists whose first document is not logged must be left out"
        )
    clicks = np.zeros(place.shape, dtype=np.uint8)
    clicks[row, at - 1] = clicked
    return ListTable(pd.Index(names), row.astype(np.int64), place, clicks)


def integers(column: pd.Series, name: str, least: int, origin: str) -> NDArray[np.int64]:
    """`[R]` whole numbers of a column.

    Args:
        column: of a table.
        name: of the column.
        least: the smallest that it may have.
        origin: what errors call the table.

    Raises:
        ListDataError: a value is none, or smaller.
    """
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.isfinite(numbers) & (numbers >= least) & (numbers == np.floor(numbers)))
    if bad.any():
        raise ListDataError(
            f"{origin}: `{name}` is a whole number from {least}; row {int(bad.argmax())} has "
            f"{column.iloc[int(bad.argmax())]}"
        )
    return numbers.astype(np.int64)


def numbers(frame: pd.DataFrame, columns: Sequence[str], origin: str) -> NDArray[np.float32]:
    """`[R, F]` float32 features of a table.

    Args:
        frame: the table.
        columns: of the features.
        origin: what errors call the table.

    Raises:
        ListDataError: a column has no numbers, or lacks some.
    """
    if bad := [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]:
        raise ListDataError(f"{origin}: features are numbers, {bad} are not; leave them out or encode them")
    values = np.array(frame[list(columns)].to_numpy(dtype=np.float32, na_value=np.nan), order="C")  # its own memory
    if (bad_column := ~np.isfinite(values).all(axis=0)).any():
        raise ListDataError(
            f"{origin}: feature `{columns[int(bad_column.argmax())]}` is empty or infinite in some rows; fill it"
        )
    return values
