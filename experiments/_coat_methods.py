"""The methods that `coat.py` compares, and their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from recsys.features.exposed_pairs import ExposedPairs
from recsys.features.pair_batches import AllPairs, PairBatches, Triples
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.training.doubly_robust_objective import DoublyRobustObjective
from recsys.training.lagged_network import LaggedNetwork
from recsys.training.objective import Objective
from recsys.training.pair_objective import PairObjective, TripleObjective
from recsys.unbiased.doubly_robust import ImputationWeight, JointLearning, MoreRobust
from recsys.unbiased.logistic_exposure import LogisticExposure
from recsys.unbiased.normalized import DualUnbiased, SelfNormalized
from recsys.unbiased.pairwise import BPRLoss, UBPRLoss
from recsys.unbiased.pointwise import Naive, RelMF
from recsys.unbiased.posterior import PosteriorLabel, Shrinkage
from recsys.unbiased.propensity import ItemPower


@dataclass(frozen=True)
class Method:
    """A way to learn from pairs.

    Attributes:
        note: in words.
        objective: makes what a step minimises.
        batches: makes what it reads.
        lr: step size of the tables.
        against: methods that it is compared with beside `mf`.
    """

    note: str
    objective: Callable[[], Objective]
    batches: Callable[[], PairBatches] = AllPairs
    lr: float = 0.005
    against: tuple[str, ...] = ()


def doubly_robust(weight: ImputationWeight) -> DoublyRobustObjective:
    """Both networks alike; the weight of L2 of that which is judged is Rel-MF's, the other that of MRDR's release."""
    imputation = partial(MatrixFactorization, width=128, init_std=0.07)
    return DoublyRobustObjective(imputation, LogisticExposure(), weight, clip=0.1, l2=1e-5, imputation_l2=1e-3)


OF_DU = {"mf_du": 1e-4, "mf_du_l2_2e-4": 2e-4, "mf_du_l2_3e-4": 3e-4}
"""DU -> its weight of L2, that of the release first."""


def dual_unbiased(l2: float) -> Method:
    """DU."""
    return Method("dual propensities, clip 0.1", lambda: PairObjective(DualUnbiased(0.1), l2=l2), lr=0.01)


def balanced(l2: float) -> Method:
    """The neutral setting of DU: the same code without propensities, which tells what balance alone brings."""
    return Method(
        "positives and unlabeled pairs count the same, no propensities",
        lambda: PairObjective(DualUnbiased(0.1), ItemPower(eta=0.0), l2),
        lr=0.01,
        against=(*OF_DU,),
    )


# Of Rel-MF and DU as Lee et al., SIGIR 2021, tuned them; the release divides the loss of DU by the size of the batch,
# so that its weight of L2, 1e-7, is 1e-4 here. MF has their settings too, and the pairwise losses and SNIPS those of
# Rel-MF. The c of shrinkage is the best of 0.02, 0.05, 0.1 and 0.2 on the validation of seed 0, and so are clip, step
# size and L2 of the doubly robust ones, among clips of 0.05 and 0.1, step sizes of 0.005 and 0.01, and L2 of 1e-5 and
# 1e-4 beside 1e-5, 1e-4 and 1e-3 of the imputing network, not all of them together.
METHODS: dict[str, Method] = {
    "mf": Method("unlabeled pairs are irrelevant", lambda: PairObjective(Naive(), l2=1e-9)),
    "rel_mf": Method("inverse propensity, clip 0.1", lambda: PairObjective(RelMF(clip=0.1), l2=1e-5)),
    **{name: dual_unbiased(l2) for name, l2 in OF_DU.items()},
    **{name.replace("du", "balanced"): balanced(l2) for name, l2 in OF_DU.items()},
    "snips_mf": Method("self-normalised, clip 0.1", lambda: PairObjective(SelfNormalized(0.1), l2=1e-5)),
    "bpr_mf": Method(
        "10 unlabeled items for each positive", lambda: TripleObjective(BPRLoss(), l2=1e-5), lambda: Triples(10)
    ),
    "ubpr_mf": Method(
        "10 items for each positive, clip 0.1, beta 0",
        lambda: TripleObjective(UBPRLoss(clip=0.1, beta=0.0), l2=1e-5),
        lambda: Triples(10, positives=True),
    ),
    "posterior_mf": Method(
        "posterior labels of a lagged copy, from the third epoch on",
        lambda: PairObjective(PosteriorLabel(), l2=1e-5, lag=LaggedNetwork(warmup=170)),
    ),
    "shrinkage_mf": Method(
        "inverse propensity shrunk to a lagged copy, c 0.05, from the third epoch on",
        lambda: PairObjective(Shrinkage(c=0.05), l2=1e-5, lag=LaggedNetwork(warmup=170)),
    ),
    "dr_jl_mf": Method(
        "ratings below 4 are irrelevant; others imputed by 1 / theta, of logistic exposures, clip 0.1",
        lambda: doubly_robust(JointLearning()),
        ExposedPairs,
        lr=0.01,
    ),
    "mrdr_mf": Method(
        "as dr_jl_mf, imputed by (1 - theta) / theta^2", lambda: doubly_robust(MoreRobust()), ExposedPairs, lr=0.01
    ),
}
BASELINES = {"random": "all items alike, ties broken at random", "popularity": "training events of the item"}


def describe(name: str) -> str:
    """The settings of a method as text."""
    if name in BASELINES:
        return BASELINES[name]
    method = METHODS[name]
    objective, batches = method.objective(), method.batches()
    parts = [f"{type(part).__name__}{plain(part)}" for part in (objective, *objective.children(), batches)]
    lag = getattr(objective, "lag", None)
    return "; ".join([method.note, f"lr {method.lr}", *parts, *([] if lag is None else [f"lag {plain(lag)}"])])


def plain(part: Any) -> dict[str, Any]:
    """The settings among the attributes of an object."""
    kept = {n: v for n, v in vars(part).items() if isinstance(v, int | float) and not n.startswith("_")}
    return {name: value for name, value in sorted(kept.items()) if name not in ("training", "steps")}
