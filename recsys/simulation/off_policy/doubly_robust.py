"""Doubly robust: a reward model, corrected by the weighted residuals of the log."""

from __future__ import annotations

from recsys.simulation.off_policy.rounds import Rounds
from recsys.simulation.off_policy.terms import Terms


class DoublyRobust:
    """`mean(E q + w (r - q))`, with `q` the predicted reward of the logged action and `E q` that of the policy.

    Unbiased where propensities are right, whatever the model says, which is fitted to other users; a good model takes
    the variance of IPW away.

    Source: Dudik, Langford and Li, "Doubly robust policy evaluation and learning", ICML 2011.
    """

    name = "DR"

    def __call__(self, rounds: Rounds) -> Terms:
        terms = rounds.expected + rounds.weight * (rounds.reward - rounds.predicted)
        return Terms(terms, pull=rounds.pull(rounds.weight))


class SelfNormalizedDR:
    """`mean(E q) + sum(w (r - q)) / sum(w)`.

    Source: Thomas and Brunskill, "Data-efficient off-policy policy evaluation", ICML 2016, as the weighted doubly
    robust estimator of one step.
    """

    name = "SNDR"

    def __call__(self, rounds: Rounds) -> Terms:
        weight = rounds.weight
        pull = rounds.pull(weight / max(float(weight.mean()), 1e-12))
        return Terms(rounds.expected, weight * (rounds.reward - rounds.predicted), weight, pull)
