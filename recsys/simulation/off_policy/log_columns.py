"""What the columns of a table of logged rounds are called, and what they must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recsys.features.jagged import JaggedColumn, offsets_of

MOST_CATEGORIES = 1000
"""Distinct texts of a column of the context; more are no categories."""


class LogError(ValueError):
    """A table of logged rounds that cannot be read as one."""


@dataclass(frozen=True)
class LogColumns:
    """Names of the columns of a table of logged rounds.

    Attributes:
        action: what was recommended, an integer or a text.
        reward: what came of it, a finite number.
        propensity: the chance that the logging policy had of recommending it in this round, above 0 and 1 at most. In
            a slate: given the actions that stand above.
        position: where it stood, an integer. Left out of a table: all rounds have one position.
        user: who was asked. Left out: every slate, or every round, is of another user.
        slate: rounds of one slate share a value. Left out: there are no slates.
        candidates: lists of the actions that could have been recommended. Left out: all.
        marginal_propensity: in a slate, the chance of the action at its position whatever stands above. Left out: the
            positions were filled independently of each other, and it is the propensity.
        context: columns of numbers, or of texts that are categories, that a reward model reads.
    """

    action: str = "action"
    reward: str = "reward"
    propensity: str = "propensity"
    position: str = "position"
    user: str = "user_id"
    slate: str = "slate_id"
    candidates: str = "candidates"
    marginal_propensity: str = "marginal_propensity"
    context: tuple[str, ...] = ()


def as_written(value: Any) -> str:
    """A value of a table as people write it: 7, and not np.int64(7)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def first_row(bad: NDArray[np.bool_]) -> int | None:
    """The first row where something is wrong."""
    return int(bad.argmax()) if bad.any() else None


def check_filled(frame: pd.DataFrame, name: str, origin: str) -> None:
    """Refuses a column with an empty value, as all of these do with what they cannot read, by a `LogError`."""
    if (bad := first_row(frame[name].isna().to_numpy())) is not None:
        raise LogError(f"{origin}: `{name}` is empty in row {bad}; fill it or leave the row out")


def numbers_of(frame: pd.DataFrame, name: str, origin: str) -> NDArray[np.float64]:
    """`[N]` finite numbers."""
    try:
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise LogError(f"{origin}: `{name}` is no column of numbers ({error})") from error
    if (bad := first_row(~np.isfinite(values))) is not None:
        raise LogError(f"{origin}: `{name}` is {values[bad]} in row {bad}; a finite number is needed, or leave it out")
    return values


def propensities_of(frame: pd.DataFrame, name: str, origin: str) -> NDArray[np.float64]:
    """`[N]` chances, above 0 and 1 at most."""
    values = numbers_of(frame, name, origin)
    if (bad := first_row((values <= 0) | (values > 1))) is not None:
        raise LogError(
            f"{origin}: `{name}` is {values[bad]:g} in row {bad}; the logging policy took the action, so its chance "
            "was above 0 and 1 at most. Log the chance that it had, or leave the row out"
        )
    return values


def codes_of(frame: pd.DataFrame, name: str, origin: str) -> tuple[NDArray[np.int64], pd.Index]:
    """Codes of a column, and its distinct values in ascending order."""
    check_filled(frame, name, origin)
    codes, values = pd.factorize(frame[name], sort=True)
    return codes.astype(np.int64), pd.Index(values)


def lists_of(frame: pd.DataFrame, name: str, origin: str) -> tuple[pd.Index, NDArray[np.int64]]:
    """Lists one after the other, and their offsets."""
    check_filled(frame, name, origin)
    try:
        lists = pa.array(frame[name], from_pandas=True)
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        return pd.Index(lists.flatten().to_pandas()), offsets_of(lengths)
    except (AttributeError, pa.ArrowException) as error:
        raise LogError(f"{origin}: `{name}` is no column of lists of actions ({error})") from error


def actions_of(
    logged: pd.Series, candidates: tuple[pd.Index, Any] | None, actions: Sequence[Any] | pd.Index | None, origin: str
) -> pd.Index:
    """All actions: those that are given, else those that were logged or candidates, in order."""
    if actions is None:
        found = pd.Index(logged.unique())
        if candidates is not None:
            found = found.append(candidates[0].unique()).unique()
        return found.sort_values()
    given = pd.Index(actions)
    if not given.is_unique:
        raise LogError(
            f"{origin}: `actions` has {as_written(given[given.duplicated()][0])} more than once; name each once"
        )
    return given


def candidates_of(
    raw: tuple[pd.Index, NDArray[np.int64]],
    index: pd.Index,
    action: NDArray[np.intp],
    names: LogColumns,
    origin: str,
) -> JaggedColumn:
    """Codes of the candidates, each once in a row and the logged action among them."""
    values, offsets = index.get_indexer(raw[0]), raw[1]
    row = np.repeat(np.arange(len(action)), np.diff(offsets))
    if (bad := first_row(values < 0)) is not None:
        raise LogError(
            f"{origin}: `{names.candidates}` names {as_written(raw[0][bad])} in row {row[bad]}, which is none of the "
            "actions; add it to `actions`"
        )
    pairs = row * len(index) + values
    if len(np.unique(pairs)) < len(pairs):
        ordered = np.sort(pairs)
        twice = int(ordered[1:][ordered[1:] == ordered[:-1]][0])
        raise LogError(
            f"{origin}: `{names.candidates}` names {as_written(index[twice % len(index)])} twice in row "
            f"{twice // len(index)}; name each once"
        )
    among = np.bincount(row[values == action[row]], minlength=len(action))
    if (lost := first_row(among == 0)) is not None:
        raise LogError(
            f"{origin}: `{names.action}` is none of the `{names.candidates}` in row {lost}; it was recommended, so it "
            "must be among them"
        )
    return JaggedColumn(values.astype(np.int64), offsets)


def features_of(frame: pd.DataFrame, names: Sequence[str], origin: str) -> NDArray[np.float64]:
    """Numbers as they are, texts as a column for each of their categories but the first."""
    blocks = []
    for name in names:
        if pd.api.types.is_numeric_dtype(frame[name].dtype):
            blocks.append(numbers_of(frame, name, origin)[:, None])
            continue
        codes, values = codes_of(frame, name, origin)
        if len(values) > MOST_CATEGORIES:
            raise LogError(
                f"{origin}: `{name}` has {len(values)} distinct texts; a context of {MOST_CATEGORIES} at most can be "
                "read. Group them, or leave the column out of the context"
            )
        blocks.append((codes[:, None] == np.arange(1, len(values))).astype(np.float64))
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(frame), 0))
