"""Items that nobody chose, put among those that users had, to see what they do to training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.event_log import EventLog
from recsys.features.jagged import offsets_of
from recsys.features.splits import HeldOut, Ids, Split, SplitError, SplitRule
from recsys.features.training_pairs import TrainingPairs

INJECTED = "injected"
"""Column of a log with noise: whether an event was injected."""


class InjectedNoise(SplitRule):
    """A split of another rule, whose training part got random items.

    See `inject`. Validation and test stay clean, and rules and cuts those of `rule`.

    Args:
        rule: splits the clean log.
        ratio: injected items of a user over distinct items of the user's training part.
        seed: draws items and places.
        avoid_held_out: never inject what the user's other parts hold.

    Raises:
        ValueError: the ratio is negative, or (when it splits) a user lacks items to inject.
        SplitError: another rule is wrapped around it.
    """

    def __init__(self, rule: SplitRule, ratio: float, seed: int = 0, avoid_held_out: bool = True) -> None:
        if not ratio >= 0:
            raise ValueError(f"ratio must be at least 0, not {ratio}")
        self.rule, self.ratio, self.seed, self.avoid_held_out = rule, ratio, seed, avoid_held_out

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of `rule`, whose cuts these are."""
        return self.rule.name

    def settings(self) -> dict[str, Any]:
        return {
            "rule": self.rule.described(),
            "ratio": self.ratio,
            "seed": self.seed,
            "avoid_held_out": self.avoid_held_out,
        }

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        raise SplitError(
            "InjectedNoise: noise makes another log, which no other rule can cut; wrap it around the other"
        )

    def __call__(self, log: EventLog) -> Split:
        return inject(self.rule(log), self.ratio, self.seed, self.avoid_held_out)


def inject(split: Split, ratio: float, seed: int = 0, avoid_held_out: bool = True) -> Split:
    """Adds `int(ratio * n)` random items to the n distinct training items of each user.

    The items of a user are distinct and uniform over those that the user did not have. Each stands behind a random
    training event of the user, with its time and its other columns. The new log has a column `injected`; its sources,
    and so its fingerprint, are those of the old one.

    Args:
        split: stays as it is.
        ratio: a user with fewer than `1 / ratio` items gets none.
        seed: draws items and places.
        avoid_held_out: draw outside of all events of the user. False, as in published protocols, draws outside of the
            training part alone: what is injected may be what validation and test ask for. It is then part of the
            history, where nobody looks for it, so that recall stays below 1; `recall_ceiling` says how far.

    Returns:
        The split of the new log, at the same cuts; with ratio 0 of the same events.

    Raises:
        ValueError: a user has too few other items.
    """
    log, pairs = split.log, TrainingPairs.of(split)
    users, items = _draw(split, pairs, ratio, np.random.default_rng([seed, 0]), avoid_held_out)
    lengths = split.train_end - split.train_start
    anchor = split.train_start[users] + np.random.default_rng([seed, 1]).integers(0, lengths[users])
    source = np.concatenate([np.arange(log.n_events), anchor])
    order = np.argsort(source, kind="stable")  # each behind its event
    columns = {name: np.asarray(column)[source[order]] for name, column in log.columns.items()}
    columns["item_id"] = np.concatenate([log.item_id, items]).astype(log.item_id.dtype)[order]
    columns[INJECTED] = order >= log.n_events
    before = offsets_of(np.bincount(anchor, minlength=log.n_events))  # events injected before each place of the log
    noisy = replace(
        log,
        columns=columns,
        offsets=log.offsets + before[log.offsets],
        facts=log.facts | {"injected_events": len(items)},
    )
    return _Moved(split, before, {"ratio": ratio, "seed": seed, "avoid_held_out": avoid_held_out})(noisy)


def recall_ceiling(split: Split, users: HeldOut) -> float:
    """The highest mean recall of a split with noise, where injected items are kept out of the lists with the history.

    Args:
        split: made by `inject`.
        users: the part that is judged, `split.test` for instance.
    """
    log = split.log
    rows = np.repeat(np.arange(len(users)), users.target_end - users.target_start)
    row, item = np.divmod(
        np.unique(rows * (log.n_items + 1) + np.asarray(log.item_id)[users.targets()]), log.n_items + 1
    )
    noise = np.flatnonzero(log.columns[INJECTED])
    keys = log.user_ids()[noise] * (log.n_items + 1) + np.asarray(log.item_id)[noise]
    reachable = ~np.isin(users.users[row] * (log.n_items + 1) + item, keys)
    return float((np.bincount(row, reachable) / np.bincount(row)).mean())


class _Moved(SplitRule):
    """The cuts of a split in the log with noise.

    Args:
        split: of the clean log.
        before: `[n_events + 1]`, events injected before each place of that log.
        noise: how they were drawn.
    """

    def __init__(self, split: Split, before: Ids, noise: dict[str, Any]) -> None:
        self.split, self.before, self.noise = split, before, noise
        self.name = split.rule

    def settings(self) -> dict[str, Any]:
        return {"clean": self.split.hash} | self.noise

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        clean = self.split
        validation, test = (
            _merged(*(HeldOut(part.users, *map(self._moved, part.arrays()[1:])) for part in parts))
            for parts in ((clean.validation, clean.validation_cold_users), (clean.test, clean.test_cold_users))
        )
        facts = {"injected_events": log.facts["injected_events"]}
        cuts = {name: value for name, value in clean.facts.items() if name.endswith("_cut")}
        return self._moved(clean.train_start), self._moved(clean.train_end), validation, test, cuts | facts

    def _moved(self, places: Ids) -> Ids:
        return places + self.before[places]


def _merged(first: HeldOut, second: HeldOut) -> HeldOut:
    order = np.argsort(np.concatenate([first.users, second.users]))
    arrays = zip(first.arrays(), second.arrays(), strict=True)
    return HeldOut(*(np.concatenate(both)[order] for both in arrays))


def _draw(
    split: Split, pairs: TrainingPairs, ratio: float, random: np.random.Generator, avoid_held_out: bool
) -> tuple[Ids, Ids]:
    """Users, ascending, and the items to inject, `[n]` int64 each, no pair twice."""
    log, stride = split.log, pairs.n_items + 1
    counts = (ratio * np.diff(pairs.offsets)).astype(np.int64)
    forbidden = pairs.users * stride + pairs.items
    if avoid_held_out:
        forbidden = np.unique(log.user_ids() * stride + np.asarray(log.item_id))
    free = log.n_items - np.bincount(forbidden // stride, minlength=log.n_users + 1)
    if (counts > free).any():
        user = int(np.flatnonzero(counts > free)[0])
        raise ValueError(
            f"ratio {ratio}: user {log.users.values[user - 1]} is to get {counts[user]} items and has not had only "
            f"{free[user]} of {log.n_items}; take a smaller ratio, or leave the user out of the log"
        )
    users = np.repeat(np.arange(log.n_users + 1), counts)
    items = np.zeros(len(users), dtype=np.int64)
    left = np.arange(len(users))
    while len(left):
        items[left] = random.integers(1, stride, len(left))
        keys = users * stride + items
        keys[left] = np.where(np.isin(keys[left], forbidden), -1, keys[left])
        settled = np.ones(len(users), dtype=bool)
        settled[left] = False
        left = left[(keys[left] < 0) | _repeated(keys, settled)[left]]
    return users, items


def _repeated(keys: Ids, settled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which keys stand there before: settled ones come first, others in order."""
    order = np.lexsort((~settled, keys))
    again = np.zeros(len(keys), dtype=bool)
    again[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return again
