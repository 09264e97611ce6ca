"""No kind of user and no kind of item pays for the mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from recsys.evaluation.exposure import GROUPS, group_of_decile
from recsys.evaluation.slices import history_slices
from recsys.tracking.gates.case import Pair, PromotionCase
from recsys.tracking.gates.gate import Gate, GateError, Verdict
from recsys.tracking.gates.paired import Margin, Sample, all_numbers, check_level, samples, tested


class SliceGuardrail(Gate):
    """Refuses where the challenger is worse by more than the margin in some slice, and not by bad luck.

    Slices are users by the length of their history, judged by `metric`, and tail and cold items, judged by their recall
    within `k`. One-sided paired bootstrap by user, Holm over slices and tasks: a challenger that is worse by no more
    than the margin anywhere is refused with a chance of `level` at most. The burden is on the gate, because small
    slices could never show that nothing is lost; `numbers` hold the intervals, and say how much could have been seen.

    Args:
        metric: of requests, for slices of users.
        k: length of the lists in which items are to be found.
        edges: first length of history of each slice of users but the first.
        groups: of items, of cold, head, torso and tail.
        level: the chance of a false refusal.
        relative: a loss of up to this share of the champion's mean is allowed.
        absolute: a loss of up to this is allowed; added where both are given.
        least_users: slices of fewer users are not judged; `numbers` hold how many they have.

    Raises:
        GateError: level, margin or groups make no sense.
    """

    def __init__(
        self,
        metric: str = "NDCG@10",
        k: int = 10,
        edges: Sequence[int] = (5, 20),
        groups: Sequence[str] = ("cold", "tail"),
        level: float = 0.05,
        relative: float = 0.1,
        absolute: float = 0.0,
        least_users: int = 50,
    ) -> None:
        check_level(level)
        if unknown := set(groups) - set(GROUPS):
            raise GateError(f"no group {', '.join(sorted(unknown))} of items; there are {', '.join(GROUPS)}")
        self.metric, self.k, self.edges, self.groups = metric, k, list(edges), list(groups)
        self.level, self.margin, self.least_users = level, Margin(relative, absolute), least_users

    def check(self, case: PromotionCase) -> Verdict:
        everything = [*self._users(case), *(sample for pair in case.pairs() for sample in self._items(pair))]
        judged = [sample for sample in everything if _users_with_value(sample) >= self.least_users]
        small = {f"{s.name} users": n for s in everything if (n := _users_with_value(s)) < self.least_users}
        unseen = f"; {len(small)} of fewer than {self.least_users} users not judged" if small else ""
        limit = f"no slice worse by more than {self.margin}, level {self.level:g}, Holm"
        if not judged:
            return Verdict("SliceGuardrail", True, small, limit, f"nothing to judge{unseen}", ran=False)
        found = tested(judged, self.margin, "worse", self.level)
        worse = [test for test in found if test.p <= self.level]
        sentence = "worse: " + "; ".join(map(str, worse)) if worse else f"none of {len(found)} slices is worse{unseen}"
        return Verdict("SliceGuardrail", not worse, all_numbers(found) | small, limit, sentence)

    def _users(self, case: PromotionCase) -> Iterator[Sample]:
        for pair, sample in zip(case.pairs(), samples(case, [self.metric], None), strict=True):
            for name, rows in history_slices(pair.challenger.history_length, self.edges):
                yield Sample(
                    f"{sample.name}, history {name}",
                    sample.champion[rows],
                    sample.challenger[rows],
                    sample.users[rows],
                    self.metric,
                )

    def _items(self, pair: Pair) -> Iterator[Sample]:
        first, second = pair.champion.targets, pair.challenger.targets
        if not (np.array_equal(first.row, second.row) and np.array_equal(first.item, second.item)):
            raise GateError("champion and challenger look for different items; nothing can be paired")
        found = [((t.rank > 0) & (t.rank <= self.k)).astype(np.float64) for t in (first, second)]
        users, group = pair.challenger.users[second.row], group_of_decile(second.decile)
        metric = f"Recall@{self.k}"
        for name in self.groups:
            rows = group == GROUPS.index(name)
            yield Sample(f"{pair.named(metric)}, {name} items", found[0][rows], found[1][rows], users[rows], metric)


def _users_with_value(sample: Sample) -> int:
    return len(np.unique(sample.users[~np.isnan(sample.challenger)]))
