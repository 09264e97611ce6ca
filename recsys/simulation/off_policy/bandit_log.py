"""Logged recommendations with propensities and rewards, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.features.jagged import JaggedColumn, expand_ranges, offsets_of

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


@dataclass(frozen=True)
class BanditLog:
    """N rounds over A actions.

    Attributes:
        action: `[N]` int64, code of the action, an index into `actions`.
        reward: `[N]` float64.
        propensity: `[N]` float64, in (0, 1].
        actions: `[A]` raw values of the actions.
        position: `[N]` int64, code of the position, an index into `positions`.
        positions: `[P]` raw values of the positions, ascending.
        unit: `[N]` int64, code of the user.
        context: `[N, D]` float64 features.
        slate: `[N]` int64 codes; None: no slates.
        candidates: codes of the actions that could have been recommended; None: all.
        marginal: `[N]` float64 marginal propensities of a slate; None: they are `propensity`.
        table: the columns of the log as they were read, for policies that ask by them.
        origin: what errors call the table.
    """

    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    propensity: NDArray[np.float64]
    actions: pd.Index
    position: NDArray[np.int64]
    positions: pd.Index
    unit: NDArray[np.int64]
    context: NDArray[np.float64]
    slate: NDArray[np.int64] | None
    candidates: JaggedColumn | None
    marginal: NDArray[np.float64] | None
    table: pd.DataFrame
    origin: str

    def __len__(self) -> int:
        return len(self.action)

    @property
    def n_actions(self) -> int:
        """A."""
        return len(self.actions)

    @property
    def width(self) -> int:
        """Most actions that a round could have had."""
        return self.n_actions if self.candidates is None else int(self.candidates.lengths.max(initial=1))

    def candidate_block(self, rounds: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """`[b, C]` candidates of rounds `[b]`, -1 where one has fewer; None: all actions."""
        if self.candidates is None:
            return None
        lists = self.candidates.gather(rounds)
        lengths = lists.lengths
        padded = np.full((len(rounds), int(lengths.max(initial=1))), -1, dtype=np.int64)
        row = np.repeat(np.arange(len(rounds)), lengths)
        padded[row, expand_ranges(np.zeros_like(lengths), lengths)] = lists.values
        return padded

    def check_single(self) -> None:
        """Sees to it that each round stands alone.

        Raises:
            LogError: rounds share a slate, whose propensities are given what stands above.
        """
        if self.slate is not None and (count := np.bincount(self.slate)).max() > 1:
            raise LogError(
                f"{self.origin}: {int((count > 1).sum()):,} slates have several rounds, which cannot be weighed one by "
                "one; keep the first position of each, or estimate slates with `evaluate_slates`"
            )

    def logged_at(self) -> NDArray[np.bool_]:
        """`[P, A]`, whether each action was ever logged at each position."""
        logged = np.zeros((len(self.positions), self.n_actions), dtype=np.bool_)
        logged[self.position, self.action] = True
        return logged

    @classmethod
    def read(
        cls, path: str | Path, columns: LogColumns | None = None, actions: Sequence[Any] | pd.Index | None = None
    ) -> BanditLog:
        """Reads a Parquet file. See `from_frame`.

        Raises:
            LogError: it cannot be read, or `from_frame` refuses it.
        """
        try:
            frame = pq.read_table(path).to_pandas()
        except (OSError, pa.ArrowException) as error:
            raise LogError(f"{path}: no Parquet file of logged rounds ({error})") from error
        return cls.from_frame(frame, columns, actions, str(path))

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        columns: LogColumns | None = None,
        actions: Sequence[Any] | pd.Index | None = None,
        origin: str = "the log",
    ) -> BanditLog:
        """Reads a table with a row for each round.

        Args:
            frame: the table.
            columns: names of its columns; None: the default ones.
            actions: all actions that a policy may recommend, logged or not; None: those that are logged or candidates.
            origin: what errors call the table.

        Raises:
            LogError: a column is missing, or has a value that it cannot have; rows are counted from 0.

        Example:
            >>> table = pd.DataFrame({"action": ["b", "a"], "reward": [1, 0], "propensity": [0.5, 0.25]})
            >>> log = BanditLog.from_frame(table, actions=["a", "b", "c"])
            >>> log.action.tolist(), log.propensity.tolist(), len(log), log.n_actions
            ([1, 0], [0.5, 0.25], 2, 3)
        """
        names = columns or LogColumns()
        wanted = [names.action, names.reward, names.propensity, *names.context]
        if missing := [name for name in wanted if name not in frame.columns]:
            raise LogError(
                f"{origin}: no column `{missing[0]}`; it has {', '.join(map(str, frame.columns))}. "
                "Rename it, or name the columns by `LogColumns`"
            )
        if not len(frame):
            raise LogError(f"{origin}: no rounds")
        known = set(frame.columns)
        reward = _numbers(frame, names.reward, origin)
        propensity = _propensities(frame, names.propensity, origin)
        _filled(frame, names.action, origin)
        raw_candidates = _flat(frame, names.candidates, origin) if names.candidates in known else None
        index = _vocabulary(frame[names.action], raw_candidates, actions, origin)
        action = index.get_indexer(pd.Index(frame[names.action]))
        if (bad := _first(action < 0)) is not None:
            raise LogError(
                f"{origin}: `{names.action}` is {as_written(frame[names.action].iloc[bad])} in row {bad}, which is "
                f"none of the {len(index)} actions; add it to `actions` or leave the row out"
            )
        candidates = None if raw_candidates is None else _candidates(raw_candidates, index, action, names, origin)
        position = _codes(frame, names.position, origin) if names.position in known else None
        slate = _codes(frame, names.slate, origin)[0] if names.slate in known else None
        if slate is not None and position is not None and not pd.api.types.is_numeric_dtype(position[1].dtype):
            raise LogError(
                f"{origin}: `{names.position}` holds texts, and 10 would stand above 2; number the positions of a slate"
            )
        if names.user in known:
            unit = _codes(frame, names.user, origin)[0]
        else:
            unit = np.arange(len(frame), dtype=np.int64) if slate is None else slate
        marginal = names.marginal_propensity
        return cls(
            action=action.astype(np.int64),
            reward=reward,
            propensity=propensity,
            actions=index,
            position=np.zeros(len(frame), dtype=np.int64) if position is None else position[0],
            positions=pd.Index([1]) if position is None else position[1],
            unit=unit,
            context=_features(frame, names.context, origin),
            slate=slate,
            candidates=candidates,
            marginal=_propensities(frame, marginal, origin) if marginal in known else None,
            table=frame,
            origin=origin,
        )


def as_written(value: Any) -> str:
    """A value of a table as people write it: 7, and not np.int64(7)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _first(bad: NDArray[np.bool_]) -> int | None:
    """The first row where something is wrong."""
    return int(bad.argmax()) if bad.any() else None


def _filled(frame: pd.DataFrame, name: str, origin: str) -> None:
    if (bad := _first(frame[name].isna().to_numpy())) is not None:
        raise LogError(f"{origin}: `{name}` is empty in row {bad}; fill it or leave the row out")


def _numbers(frame: pd.DataFrame, name: str, origin: str) -> NDArray[np.float64]:
    try:
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise LogError(f"{origin}: `{name}` is no column of numbers ({error})") from error
    if (bad := _first(~np.isfinite(values))) is not None:
        raise LogError(f"{origin}: `{name}` is {values[bad]} in row {bad}; a finite number is needed, or leave it out")
    return values


def _propensities(frame: pd.DataFrame, name: str, origin: str) -> NDArray[np.float64]:
    values = _numbers(frame, name, origin)
    if (bad := _first((values <= 0) | (values > 1))) is not None:
        raise LogError(
            f"{origin}: `{name}` is {values[bad]:g} in row {bad}; the logging policy took the action, so its chance "
            "was above 0 and 1 at most. Log the chance that it had, or leave the row out"
        )
    return values


def _codes(frame: pd.DataFrame, name: str, origin: str) -> tuple[NDArray[np.int64], pd.Index]:
    """Codes of a column, and its distinct values in ascending order."""
    _filled(frame, name, origin)
    codes, values = pd.factorize(frame[name], sort=True)
    return codes.astype(np.int64), pd.Index(values)


def _flat(frame: pd.DataFrame, name: str, origin: str) -> tuple[pd.Index, NDArray[np.int64]]:
    """Lists one after the other, and their offsets."""
    _filled(frame, name, origin)
    try:
        lists = pa.array(frame[name], from_pandas=True)
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        return pd.Index(lists.flatten().to_pandas()), offsets_of(lengths)
    except (AttributeError, pa.ArrowException) as error:
        raise LogError(f"{origin}: `{name}` is no column of lists of actions ({error})") from error


def _vocabulary(
    logged: pd.Series, candidates: tuple[pd.Index, Any] | None, actions: Sequence[Any] | pd.Index | None, origin: str
) -> pd.Index:
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


def _candidates(
    raw: tuple[pd.Index, NDArray[np.int64]],
    index: pd.Index,
    action: NDArray[np.intp],
    names: LogColumns,
    origin: str,
) -> JaggedColumn:
    values, offsets = index.get_indexer(raw[0]), raw[1]
    row = np.repeat(np.arange(len(action)), np.diff(offsets))
    if (bad := _first(values < 0)) is not None:
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
    if (lost := _first(among == 0)) is not None:
        raise LogError(
            f"{origin}: `{names.action}` is none of the `{names.candidates}` in row {lost}; it was recommended, so it "
            "must be among them"
        )
    return JaggedColumn(values.astype(np.int64), offsets)


def _features(frame: pd.DataFrame, names: Sequence[str], origin: str) -> NDArray[np.float64]:
    """Numbers as they are, texts as a column for each of their categories but the first."""
    blocks = []
    for name in names:
        if pd.api.types.is_numeric_dtype(frame[name].dtype):
            blocks.append(_numbers(frame, name, origin)[:, None])
            continue
        codes, values = _codes(frame, name, origin)
        if len(values) > MOST_CATEGORIES:
            raise LogError(
                f"{origin}: `{name}` has {len(values)} distinct texts; a context of {MOST_CATEGORIES} at most can be "
                "read. Group them, or leave the column out of the context"
            )
        blocks.append((codes[:, None] == np.arange(1, len(values))).astype(np.float64))
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(frame), 0))
