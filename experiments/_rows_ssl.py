"""The rows of the study of self-supervised terms: what learning items from their features adds, with how few data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from _row import FEATURE_DATASETS, FRACTIONS, NETWORK, STRICT, Row, part

BASE = "base"
MODELS = ("two_tower", "synergen")
SHARES = {STRICT: 1.0} | FRACTIONS
RETRIEVAL = part(
    "training.objective.RetrievalObjective",
    loss=part("losses.info_nce.InfoNCE", temperature=0.07),
    negatives=part("features.negatives.InBatch", n=1024, corrected=True),
)
"""As the recipes have it."""
WEIGHT, TEMPERATURE, OVERLAP = 0.3, 0.1, 0.8
RATE = 0.2


@dataclass(frozen=True)
class Method:
    """What is added to a model.

    Attributes:
        note: in words.
        auxiliary: a term beside the task; None: none.
        feature_dropout: share of the features that the task itself does not see.
    """

    note: str
    auxiliary: Mapping[str, Any] | None = None
    feature_dropout: float = 0.0


def _views(masking: str, **more: Any) -> dict[str, Any]:
    masked = part(f"features.masking.{masking}")
    return part(
        "training.feature_masking.FeatureMaskingSSL",
        masking=masked, weight=WEIGHT, temperature=TEMPERATURE, n=1024, **more,
    )  # fmt: skip


METHODS = {
    BASE: Method("the task alone; as all others it hides the ids of items without training events"),
    "feature_dropout": Method(f"the task sees each feature of an item with probability {1 - RATE}", None, RATE),
    "spread_out": Method(
        "items are told apart from each other, without views",
        part("training.spread_out.SpreadOut", weight=WEIGHT, temperature=TEMPERATURE, n=1024),
    ),
    "rfm": Method("two views that hide random halves of the features", _views("RandomMasking")),
    "cfm": Method("two views that hide features that tell of each other", _views("CorrelatedMasking")),
    "cfm_later": Method(
        "two views that hide random dimensions of all features, and no negatives whose values overlap by more than "
        f"{OVERLAP}: what a later publication puts in place of hidden features",
        _views("DimensionMasking", eliminate_overlap=OVERLAP),
    ),
}
"""Name -> what it is. Weights, temperatures and rates are those of the literature, not chosen on these data."""

EPOCHS = {"movielens_100k_features": (24, 8), "amazon_beauty_features": (12, 3), "amazon_sports_features": (12, 3)}
"""Most epochs of a training on all users, and the patience; the recipes have the same."""
EVERY = {"movielens_100k_features": 2, "amazon_beauty_features": 1, "amazon_sports_features": 1}
"""Epochs from one validation to the next, likewise."""
DROPOUT = {"movielens_100k_features": 0.2, "amazon_beauty_features": 0.5, "amazon_sports_features": 0.5}
"""Of SynerGen, as in the recipes that it has."""


def feature_rows() -> list[Row]:
    """Each method with each model at each share of the users, compared with the model's base."""
    return [
        Row(
            dataset,
            protocol,
            f"{model}_{name}",
            _model(model, dataset, method) | _objective(method) | _length(dataset, share),
            note=method.note,
            against=() if name == BASE else (f"{model}_{BASE}",),
        )
        for dataset in FEATURE_DATASETS
        for protocol, share in SHARES.items()
        for model in MODELS
        for name, method in METHODS.items()
    ]


def _model(model: str, dataset: str, method: Method) -> dict[str, Any]:
    """The recipes are two towers, of which nothing but dropout differs."""
    dropped = {"feature_dropout": method.feature_dropout} if method.feature_dropout else {}
    if model == "two_tower":
        return {f"{NETWORK}.{name}": value for name, value in dropped.items()}
    network = part(
        "models.synergen.SynerGen",
        width=64, layers=2, heads=2, dropout=DROPOUT[dataset], rotary=part("models.rotary.SplitByDim"),
        maskable=True, hide_untrained_ids=True, **dropped,
    )  # fmt: skip
    return {"model.network": network}


def _objective(method: Method) -> dict[str, Any]:
    if method.auxiliary is None:
        return {}
    both = part("training.auxiliary.WithAuxiliary", main=RETRIEVAL, auxiliary=[dict(method.auxiliary)])
    return {"model.objective": both}


def _length(dataset: str, share: float) -> dict[str, Any]:
    """A share of the users makes that share of the steps an epoch: as many more epochs make the same training."""
    if share == 1:
        return {}
    epochs, patience = EPOCHS[dataset]
    rarer = round(1 / share)
    return {
        "trainer.max_epochs": epochs * rarer,
        "job.patience": patience * rarer,
        "validation.every_n_epochs": EVERY[dataset] * rarer,
        "diagnostics.every_n_epochs": EVERY[dataset] * rarer,
    }
