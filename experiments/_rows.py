"""The declared rows of the study: data set, protocol, model, settings and seeds of everything that is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from _row import (
    BASELINES,
    DATASETS,
    NETWORK,
    OBJECTIVE,
    RANDOM_BASELINES,
    SEARCH_BASELINES,
    SEARCH_DATASETS,
    SEEDS,
    SPLITS,
    STRICT,
    Row,
    part,
)
from _rows_ssl import feature_rows

ABLATED = ("movielens_100k", "amazon_beauty")
RETRIEVAL: dict[str, Any] = {"job.rerank": None}
"""Of rows that are about retrieval: their ranking is learned, but is not judged, which takes minutes."""
IDS_ALONE: dict[str, Any] = {f"{NETWORK}.side_features": False}

TEMPERATURE = 0.05
NEGATIVES = 256
# The ablations of Beauty have 45 runs on two cores: a smaller model makes them affordable.
ABLATION: dict[str, dict[str, Any]] = {
    "movielens_100k": {},
    "amazon_beauty": {
        f"{NETWORK}.width": 64,
        f"{NETWORK}.layers": 2,
        f"{NETWORK}.heads": 2,
        "trainer.max_epochs": 20,
    }
    | IDS_ALONE,
}
ABLATION_NOTE = {
    "movielens_100k": "the recipe with this one part changed",
    "amazon_beauty": "a smaller model than the recipe's: ids alone, width 64, 2 layers, 2 heads, at most 20 epochs",
}


ROTARY = {
    "none": "NoRotary",
    "index": "IndexRotary",
    "time": "TimeRotary",
    "early_fusion": "EarlyFusion",
    "split_by_dim": "SplitByDim",
    "split_by_head": "SplitByHead",
    "rote": "RoTE",
}

_INFO_NCE = part("losses.info_nce.InfoNCE", temperature=TEMPERATURE)
_UNIFORM = part("features.negatives.Uniform", n=NEGATIVES)
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "info_nce_uniform": (_INFO_NCE, _UNIFORM),
    # Every position has negatives of its own: fewer of them, or their vectors would take gigabytes.
    "info_nce_uniform_per_position": (_INFO_NCE, part("features.negatives.Uniform", n=32, per_position=True)),
    "info_nce_popularity": (_INFO_NCE, part("features.negatives.Popularity", n=NEGATIVES, alpha=0.5, corrected=True)),
    "info_nce_in_batch": (_INFO_NCE, part("features.negatives.InBatch", n=NEGATIVES, corrected=True)),
    "info_nce_mixed": (
        _INFO_NCE,
        part(
            "features.negatives.Mixed",
            samplers=[
                part("features.negatives.Uniform", n=NEGATIVES // 2),
                part("features.negatives.InBatch", n=NEGATIVES // 2),
            ],
            corrected=True,
        ),
    ),
    "full_softmax": (part("losses.full_softmax.FullSoftmax", temperature=TEMPERATURE), _UNIFORM),
    "bce": (part("losses.bce.BCE", temperature=TEMPERATURE), _UNIFORM),
    "gbce": (part("losses.gbce.GBCE", temperature=TEMPERATURE), _UNIFORM),
}
"""Name -> loss and negatives."""


@dataclass(frozen=True)
class Variant:
    """How a row of a search log differs from `synergen`.

    Attributes:
        note: in words.
        settings: arguments of `recsys fit`.
        tasks: as of a row.
        candidates: likewise.
    """

    note: str
    settings: Mapping[str, Any]
    tasks: tuple[str, ...] = ()
    candidates: bool = False


CONTROLS = {
    "query_only": Variant(
        "knows the query and nothing of the person",
        {"model.network": "_controls.QueryOnly", f"{OBJECTIVE}.recommendation": 0.0} | RETRIEVAL,
        tasks=("search",),
    ),
    "history_only": Variant(
        "reads no query: it answers a search as it recommends", {f"{NETWORK}.queries": False} | RETRIEVAL
    ),
}
SINGLE_TASK = {
    "recommendation_only": Variant(
        "the same network, trained to recommend alone",
        {f"{NETWORK}.ranking": False, f"{OBJECTIVE}.search": 0.0, f"{OBJECTIVE}.ranking_loss": None},
        tasks=("recommendation",),
    ),
}
PARTS = {
    "recommendation_weight_1": Variant(
        "weight 1 of recommendation without a query instead of 5", {f"{OBJECTIVE}.recommendation": 1.0} | RETRIEVAL
    ),
    "searches_as_targets_off": Variant(
        "a purchase that answered a query is not asked for without it",
        {f"{OBJECTIVE}.recommend_searched": False} | RETRIEVAL,
    ),
    "pointwise": Variant(
        "the pointwise part of the ranking loss alone",
        {f"{OBJECTIVE}.ranking_loss": part("losses.pointwise.Pointwise")},
        candidates=True,
    ),
    "pairwise": Variant(
        "the pairwise part of the ranking loss alone",
        {f"{OBJECTIVE}.ranking_loss": part("losses.pairwise.Pairwise")},
        candidates=True,
    ),
    "random_negatives": Variant(
        "no hard negatives in ranking slots",
        {f"{OBJECTIVE}.ranking_negatives": part("training.slot_negatives.SlotNegatives", n=8, hard=0.0)},
    ),
    "no_task_tokens": Variant(
        "no vectors that tell context, retrieval and ranking tokens apart",
        {f"{NETWORK}.task_tokens": False} | RETRIEVAL,
    ),
    "no_word_match": Variant(
        "no vectors of words beside the answers: queries and items meet in the decoder alone",
        {f"{NETWORK}.word_width": 0} | RETRIEVAL,
    ),
    "ranking_weight_0.3": Variant("weight 0.3 of ranking instead of 1", {f"{OBJECTIVE}.ranking": 0.3}),
    "ranking_weight_3": Variant("weight 3 of ranking instead of 1", {f"{OBJECTIVE}.ranking": 3.0}),
    "id_only": Variant(
        "items are known by their ids alone, and no word is matched; queries keep their words", IDS_ALONE | RETRIEVAL
    ),
    "text_only": Variant("items are known by their attributes and words alone", {f"{NETWORK}.ids": False} | RETRIEVAL),
}
SEARCH_ROTARY = {
    f"rotary_{name}": Variant(
        f"positions and times by {kind}", {f"{NETWORK}.rotary": part(f"models.rotary.{kind}")} | RETRIEVAL
    )
    for name, kind in ROTARY.items()
    if name != "split_by_dim"  # that of the recipe
}
SMALL: dict[str, Any] = {
    f"{NETWORK}.width": 64,
    f"{NETWORK}.word_width": 64,
    "trainer.max_epochs": 4,
    "validation.users": 2000,
}
"""Of the parts that are taken away one by one: forty trainings of the recipe would take two days on two cores."""
SMALL_NOTE = "width 64, words 64, 4 epochs, validated on 2,000 users"
ABLATIONS = {
    "small": Variant(
        f"the recipe at {SMALL_NOTE}, which the rows below differ from in one part", SMALL, candidates=True
    )
} | {
    name: replace(variant, note=f"{variant.note}; {SMALL_NOTE}", settings=SMALL | variant.settings)
    for name, variant in (PARTS | SEARCH_ROTARY).items()
}
SEARCH_VARIANTS: dict[str, tuple[dict[str, Variant], dict[str, Variant]]] = {
    "search_beauty": (CONTROLS | SINGLE_TASK, ABLATIONS),
    "search_cellphones": (CONTROLS, {}),  # every event of it is a search: there is nothing to recommend
    "search_sports": ({}, {}),
}
"""Data set -> the controls, which come before the baselines, and the ablations, which come after them."""


def rows() -> list[Row]:
    """Every declared row, the main models and baselines first."""
    table: list[Row] = []
    for dataset in DATASETS:
        for protocol in SPLITS:
            table.append(Row(dataset, protocol, "synergen"))
            table.append(Row(dataset, protocol, "synergen_id", IDS_ALONE, note="ids alone, no side features"))
            for name in BASELINES:
                table.append(Row(dataset, protocol, name, seeds=SEEDS if name in RANDOM_BASELINES else SEEDS[:1]))
    for dataset in ABLATED:
        base, note = ABLATION[dataset], ABLATION_NOTE[dataset]
        for name, kind in ROTARY.items():
            settings = base | {f"{NETWORK}.rotary": part(f"models.rotary.{kind}")}
            table.append(Row(dataset, STRICT, f"rotary_{name}", settings, note=note))
        for name, (loss, negatives) in LOSSES.items():
            settings = base | {f"{OBJECTIVE}.loss": loss, f"{OBJECTIVE}.negatives": negatives}
            counted = f"{note}; {NEGATIVES} negatives, 32 where each position has its own"
            table.append(Row(dataset, STRICT, f"loss_{name}", settings, note=counted))
    return table + feature_rows() + [row for dataset in SEARCH_DATASETS for row in search_rows(dataset)]


def search_rows(dataset: str) -> list[Row]:
    """The rows of a search log; they take long, so the joint model, its controls and the baselines come first."""
    controls, ablations = SEARCH_VARIANTS[dataset]
    compared = {"small": tuple(name for name in ablations if name != "small")}
    made = {
        name: Row(
            dataset,
            STRICT,
            name,
            variant.settings,
            note=variant.note,
            tasks=variant.tasks,
            against=compared.get(name, ()),
            candidates=variant.candidates,
        )
        for name, variant in (controls | ablations).items()
    }
    note = "one network for recommendation, search and the ranking of both"
    return [
        Row(dataset, STRICT, "synergen", note=note, against=tuple(controls), candidates=True),
        *(made[name] for name in controls),
        *(Row(dataset, STRICT, name, seeds=SEEDS[:1]) for name in SEARCH_BASELINES),
        *(made[name] for name in ablations),
    ]


def selected(dataset: str = "*", protocol: str = "*", model: str = "*") -> list[Row]:
    """The rows whose names match the globs.

    Raises:
        ValueError: none does.
    """
    found = [
        row
        for row in rows()
        if fnmatchcase(row.dataset, dataset) and fnmatchcase(row.protocol, protocol) and fnmatchcase(row.model, model)
    ]
    if not found:
        raise ValueError(f"no row matches {dataset}/{protocol}/{model}; `--list` shows all")
    return found
