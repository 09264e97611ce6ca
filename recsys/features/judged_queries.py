"""Queries whose documents have grades of relevance, as sets for learning to rank come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.datasets import ROOT_VARIABLE, DatasetError
from recsys.features.list_table import ListDataError, integers, numbers


class JudgedQueries(NamedTuple):
    """Q queries of at most D documents, in ascending order of their ids; documents keep the order of the table.

    Attributes:
        features: `[Q, D, F]` float32, zeros where a query has fewer documents.
        grade: `[Q, D]` int64 from 0, 0 where it has fewer.
        mask: `[Q, D]` bool, false where it has fewer.
    """

    features: NDArray[np.float32]
    grade: NDArray[np.int64]
    mask: NDArray[np.bool_]

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        features: Sequence[str] | None = None,
        query_id: str = "query_id",
        grade: str = "relevance",
        origin: str = "the table",
    ) -> JudgedQueries:
        """Reads a table with a row for each document of a query.

        Args:
            frame: the table.
            features: columns of numbers; None: all columns that are named nowhere else.
            query_id: column that tells the queries apart.
            grade: column of whole numbers from 0.
            origin: what errors call the table.

        Raises:
            ListDataError: a column is missing or has values that it cannot have.

        Example:
            >>> table = pd.DataFrame({"query_id": ["b", "a", "b"], "relevance": [2, 1, 0], "price": [3.0, 5.0, 4.0]})
            >>> queries = JudgedQueries.from_frame(table)
            >>> queries.grade.tolist(), queries.mask.tolist()  # of `a` and of `b`
            ([[1, 0], [2, 0]], [[True, False], [True, True]])
        """
        columns = [name for name in frame.columns if name not in (query_id, grade)] if features is None else features
        if missing := [name for name in (query_id, grade, *columns) if name not in frame.columns]:
            raise ListDataError(f"{origin}: no column {missing}; it has {_some(frame.columns)}")
        if not len(frame) or not len(columns):
            raise ListDataError(f"{origin}: {'no column of features' if len(frame) else 'empty'}")
        if frame[query_id].isna().any():
            raise ListDataError(f"{origin}: `{query_id}` is empty in {int(frame[query_id].isna().sum())} rows")
        values, grades = numbers(frame, columns, origin), integers(frame[grade], grade, 0, origin)
        query, names = pd.factorize(frame[query_id], sort=True)
        order, count = np.argsort(query, kind="stable"), np.bincount(query)
        row = query[order]
        at = np.arange(len(frame)) - (np.cumsum(count) - count)[row]
        shape = len(names), int(count.max())
        made = cls(np.zeros((*shape, len(columns)), np.float32), np.zeros(shape, np.int64), np.zeros(shape, np.bool_))
        made.features[row, at], made.grade[row, at], made.mask[row, at] = values[order], grades[order], True
        return made


def load_judged(name: str, root: str | Path | None = None) -> dict[str, JudgedQueries]:
    """The parts of a set for learning to rank: `documents.parquet`, whose column `split` names the part of a query.

    Args:
        name: of the folder.
        root: folder with one sub-folder per data set; None takes the environment variable `RECSYS_DATA`.

    Returns:
        `{"train": ..., "test": ...}` and further parts, if there are any.

    Raises:
        DatasetError: the file is nowhere; the message says where it was looked for.
        ListDataError: the file cannot be read as such a set.
    """
    root = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if root is None:
        raise DatasetError(f"{name}: set {ROOT_VARIABLE} (or `root`) to the folder that holds `{name}/`")
    file = Path(root) / name / "documents.parquet"
    if not file.exists():
        raise DatasetError(f"{name}: no {file}; docs/data-format.md says how the folder is laid out")
    frame = pd.read_parquet(file)
    if missing := [column for column in ("query_id", "relevance", "split") if column not in frame.columns]:
        raise ListDataError(f"{file}: no column {missing}; it has {_some(frame.columns)}")
    if frame["split"].isna().any():
        raise ListDataError(f"{file}: `split` is empty in {int(frame['split'].isna().sum())} rows")
    parts: list[str] = frame["split"].astype(str).unique().tolist()
    if not {"train", "test"} <= set(parts):
        raise ListDataError(f"{file}: `split` names {parts}, and must name `train` and `test`")
    if (twice := frame.groupby("query_id")["split"].nunique() > 1).any():
        raise ListDataError(f"{file}: query {twice.idxmax()} stands in several parts; give each part its own queries")
    documents = frame.drop(columns="split")
    return {
        part: JudgedQueries.from_frame(documents[frame["split"] == part], origin=f"{file}, part `{part}`")
        for part in parts
    }


def _some(columns: pd.Index) -> str:
    """Names for a message, which may be hundreds."""
    return f"{list(columns[:10])}{f' and {len(columns) - 10} more' if len(columns) > 10 else ''}"
