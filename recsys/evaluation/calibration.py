"""Whether scores are probabilities, and how to make them so.

A request has one item to be found in a catalogue of V, so that honest probabilities are small: 1e-4 is common. They are
judged on one positive and N drawn negatives a request, each negative standing for all that it was drawn from.

A model that was trained on K negatives a positive, drawn uniformly, knows the odds among those K + 1 items: its logits
are too high by `sampling_shift`. Where it was trained otherwise, `fit_platt` learns scale and offset on validation
requests, and test requests judge them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from recsys.evaluation.candidates import scored_candidates
from recsys.evaluation.intervals import wilson
from recsys.evaluation.relevance import ColdTargets
from recsys.evaluation.tasks import Part, Task
from recsys.features.splits import Split
from recsys.models.recommender import Recommender

Values = NDArray[np.float64]


@dataclass(frozen=True)
class WeightedLogits:
    """Logits with labels, each entry counting as many times as its weight says.

    Attributes:
        logit: `[n]` float64.
        label: `[n]` bool.
        weight: `[n]` float64, positive.
    """

    logit: Values
    label: NDArray[np.bool_]
    weight: Values

    @property
    def base_rate(self) -> float:
        """Weighted share of positives: the probability that knows nothing."""
        return float(self.weight[self.label].sum() / self.weight.sum())


@dataclass(frozen=True)
class Platt:
    """Probabilities from logits: `p = sigmoid(scale * logit + offset)`.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999.

    Example:
        >>> corrected = Platt(scale=1.0, offset=-sampling_shift(101, 10))
        >>> round(float(corrected(0.0)), 4)  # odds of 1 : 1 against 10 drawn items are 1 : 10 against all 100
        0.0909
    """

    scale: float
    offset: float

    def __call__(self, logits: ArrayLike) -> Values:
        """Probabilities of logits of any shape, float64."""
        return np.asarray(expit(self.scale * np.asarray(logits, dtype=np.float64) + self.offset))


def sampling_shift(n_items: int, negatives: int) -> float:
    """How much too high the logits are of a model that was trained on drawn negatives: `log((V - 1) / K)`.

    Odds are learned against K negatives where the catalogue has V - 1. Source: King and Zeng, "Logistic regression in
    rare events data", Political Analysis 2001 (prior correction).

    Args:
        n_items: items of the catalogue, V.
        negatives: uniform negatives beside each positive in training, K.

    Example:
        >>> round(sampling_shift(10_001, 100), 4)  # log(100)
        4.6052
    """
    if n_items < 2 or negatives < 1:
        raise ValueError(f"two items and one negative at least are needed, not {n_items} and {negatives}")
    return math.log((n_items - 1) / negatives)


def sampled_logits(
    model: Recommender,
    split: Split,
    *,
    which: Part = "validation",
    task: Task | None = None,
    negatives: int = 99,
    seed: int = 0,
    max_length: int | None = None,
    filter_seen: bool = True,
    cold_targets: ColdTargets | None = None,
) -> WeightedLogits:
    """What a model says of one item to be found and N drawn ones for each request, weighted to the whole catalogue.

    A negative weighs as many items as it stands for: those that are neither in the history nor wanted, over N.

    Args:
        model: whose `candidate_scores` are read as logits.
        split: the split it was trained on.
        which: the part that the requests are of; what is fitted is judged on another.
        task: as in `evaluate`.
        negatives: items drawn for each request.
        seed: of the drawing.
        max_length: events of a history that the model is given, the newest ones; None: all.
        filter_seen: whether an item of the history is no item to be found.
        cold_targets: as in `evaluate`.

    Raises:
        ValueError: as in `evaluate`, or a user has too few items to draw from.
    """
    found = scored_candidates(
        model,
        split,
        which=which,
        task=task,
        negatives=negatives,
        seed=seed,
        max_length=max_length,
        filter_seen=filter_seen,
        cold_targets=cold_targets,
    )
    drawn, judged = found.candidates, found.candidates.positive > 0
    label = drawn.items[judged] == drawn.positive[judged][:, None]
    weight = np.where(label, 1.0, (drawn.pool[judged] / negatives)[:, None])
    return WeightedLogits(found.scores[judged].ravel().astype(np.float64), label.ravel(), weight.ravel())


def fit_platt(sample: WeightedLogits) -> Platt:
    """Scale and offset of highest weighted likelihood.

    Raises:
        ValueError: positives and negatives do not overlap, so that no finite scale is the best.
    """
    x, y, w = sample.logit, sample.label, sample.weight
    if y.all() or not y.any() or min(x[y].max() - x[~y].min(), x[~y].max() - x[y].min()) <= 0:
        raise ValueError(
            "the logits of positives and negatives do not overlap, and so no finite scale fits them best; "
            "more requests are needed"
        )
    mean = np.average(x, weights=w)
    spread = math.sqrt(np.average((x - mean) ** 2, weights=w))
    z = np.stack([(x - mean) / spread, np.ones_like(x)])
    w = w / w[y].sum()  # a step is then judged against the positives, however rare they are

    def loss(parameters: Values) -> tuple[float, Values]:
        logits = parameters @ z
        return float(w @ (np.logaddexp(0, logits) - y * logits)), z @ (w * (expit(logits) - y))

    def hessian(parameters: Values) -> Values:
        p = expit(parameters @ z)
        return np.asarray((z * (w * p * (1 - p))) @ z.T)

    start = np.array([0.0, logit(sample.base_rate)])
    scale, offset = minimize(loss, start, jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-9}).x
    return Platt(float(scale / spread), float(offset - scale * mean / spread))


def reliability_table(
    probability: ArrayLike, label: ArrayLike, weight: ArrayLike, bins: int = 15, level: float = 0.95
) -> pd.DataFrame:
    """What was predicted and what came true, in bins of equal weight, lowest probabilities first.

    Equal probabilities share a bin, the one of the middle of their weight, so that fewer bins than asked for may come.

    Args:
        probability: `[n]` in 0..1.
        label: `[n]` 0 or 1.
        weight: `[n]` positive.
        bins: number of bins.
        level: of the intervals.

    Returns:
        `weight, positives, predicted, observed, low, high`: total weight, weight of the positives, weighted means, and
        the Wilson interval of `observed`, which takes the weight as a number of independent trials.

    Raises:
        ValueError: lengths differ, values are out of range, or there are no bins.
    """
    p, y, w = (np.asarray(values, dtype=np.float64) for values in (probability, label, weight))
    if not (p.ndim == 1 and p.shape == y.shape == w.shape and len(p)):
        raise ValueError(f"one probability, label and weight per entry are needed, not {p.shape}, {y.shape}, {w.shape}")
    if bins < 1 or not ((p >= 0) & (p <= 1) & ((y == 0) | (y == 1)) & (w > 0)).all():
        raise ValueError("probabilities lie in 0..1, labels are 0 or 1, weights positive, and one bin is the least")
    place = np.unique(p, return_inverse=True)[1]
    mass = np.bincount(place, w)
    middle = np.cumsum(mass) - mass / 2
    at = np.minimum((bins * middle / mass.sum()).astype(np.int64), bins - 1)[place]
    total, positives, predicted = (np.bincount(at, values, bins) for values in (w, w * y, w * p))
    some = total > 0
    total, positives = total[some], positives[some]
    low, high = wilson(positives, total, level)
    return pd.DataFrame(
        {
            "weight": total,
            "positives": positives,
            "predicted": predicted[some] / total,
            "observed": positives / total,
            "low": low,
            "high": high,
        }
    )


def expected_calibration_error(probability: ArrayLike, label: ArrayLike, weight: ArrayLike, bins: int = 15) -> float:
    """Weighted mean over bins of equal weight of `|predicted - observed|`, see `reliability_table`.

    Where positives are rare it is small for any model that says "rarely": compare it with the base rate.

    Source: Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural language processing
    models", EMNLP 2015 (bins of equal mass).

    Example:
        >>> expected_calibration_error([0.25, 0.25, 0.5], [0, 1, 1], [2, 2, 4], bins=2)  # (|.25 - .5| + |.5 - 1|) / 2
        0.375
    """
    table = reliability_table(probability, label, weight, bins)
    return float(np.average((table["predicted"] - table["observed"]).abs(), weights=table["weight"]))
