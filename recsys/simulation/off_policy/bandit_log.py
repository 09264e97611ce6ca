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

from recsys.features.jagged import JaggedColumn, expand_ranges
from recsys.simulation.off_policy.log_columns import (
    LogColumns,
    LogError,
    actions_of,
    as_written,
    candidates_of,
    check_filled,
    codes_of,
    features_of,
    first_row,
    lists_of,
    numbers_of,
    propensities_of,
)


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
        reward = numbers_of(frame, names.reward, origin)
        propensity = propensities_of(frame, names.propensity, origin)
        check_filled(frame, names.action, origin)
        raw_candidates = lists_of(frame, names.candidates, origin) if names.candidates in known else None
        index = actions_of(frame[names.action], raw_candidates, actions, origin)
        action = index.get_indexer(pd.Index(frame[names.action]))
        if (bad := first_row(action < 0)) is not None:
            raise LogError(
                f"{origin}: `{names.action}` is {as_written(frame[names.action].iloc[bad])} in row {bad}, which is "
                f"none of the {len(index)} actions; add it to `actions` or leave the row out"
            )
        candidates = None if raw_candidates is None else candidates_of(raw_candidates, index, action, names, origin)
        position = codes_of(frame, names.position, origin) if names.position in known else None
        slate = codes_of(frame, names.slate, origin)[0] if names.slate in known else None
        if slate is not None and position is not None and not pd.api.types.is_numeric_dtype(position[1].dtype):
            raise LogError(
                f"{origin}: `{names.position}` holds texts, and 10 would stand above 2; number the positions of a slate"
            )
        if names.user in known:
            unit = codes_of(frame, names.user, origin)[0]
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
            context=features_of(frame, names.context, origin),
            slate=slate,
            candidates=candidates,
            marginal=propensities_of(frame, marginal, origin) if marginal in known else None,
            table=frame,
            origin=origin,
        )
