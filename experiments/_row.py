"""What a row of a table is: a model on a data set under a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STRICT, REFIT, GLOBAL_TIME = "leave_last_out_strict", "leave_last_out_refit", "global_time"
SPLITS: dict[str, dict[str, Any]] = {
    STRICT: {"class_path": "recsys.features.splits.LeaveLastOut"},
    REFIT: {"class_path": "recsys.features.splits.LeaveLastOut", "init_args": {"refit": True}},
    GLOBAL_TIME: {"class_path": "recsys.features.splits.GlobalTime"},
}
FRACTIONS = {"leave_last_out_half": 0.5, "leave_last_out_tenth": 0.1}
"""Protocols that train on a share of the users of the strict one, and judge all of them."""
DATASETS = ("movielens_100k", "amazon_beauty", "amazon_sports")
SEARCH_DATASETS = ("search_beauty", "search_cellphones", "search_sports")
"""Logs of purchases with queries, which `experiments/search_logs.py` makes."""
FEATURE_DATASETS = ("movielens_100k_features", "amazon_beauty_features", "amazon_sports_features")
"""Logs of which more features of items are known."""
SEEDS = (0, 1, 2)
BASELINES = {
    "popularity": "Popularity",
    "recent_popularity": "RecentPopularity",
    "decayed_popularity": "DecayedPopularity",
    "als": "ALS",
    "bpr": "BPR",
    "bm25": "BM25",
    "cosine": "Cosine",
    "tfidf": "TFIDF",
}
"""Name of the row -> class whose settings `recsys.evaluation.baselines` declares."""
SEARCH_BASELINES = {"popularity": "Popularity", "bm25": "BM25", "lexical_bm25": "LexicalBM25"}
"""Likewise, of search logs: word matching, and what people buy whatever they ask for."""
RANDOM_BASELINES = ("als", "bpr")
"""Those that draw numbers, and so have a run per seed."""


@dataclass(frozen=True)
class Row:
    """One row of a table: a model on a data set under a protocol.

    Attributes:
        dataset: name of the data set and of its recipe.
        protocol: a key of `SPLITS` or of `FRACTIONS`.
        model: name of the row.
        settings: arguments of `recsys fit` that differ from the recipe.
        seeds: one run each.
        note: what a reader must know of the settings.
        tasks: those that the model is made for; none: all that the log has.
        against: rows of the same table to compare with.
        candidates: whether it orders drawn candidates too; a network encodes each of them, which takes minutes.
    """

    dataset: str
    protocol: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seeds: tuple[int, ...] = SEEDS
    note: str = ""
    tasks: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    candidates: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether the library fits it without gradient steps."""
        return self.model in (SEARCH_BASELINES if self.searches else BASELINES)

    @property
    def searches(self) -> bool:
        """Whether its log has queries, and so tasks and candidates to rank."""
        return self.dataset in SEARCH_DATASETS

    @property
    def name(self) -> str:
        """`dataset/protocol/model`."""
        return f"{self.dataset}/{self.protocol}/{self.model}"


NETWORK, OBJECTIVE = "model.network.init_args", "model.objective.init_args"


def part(class_path: str, **init_args: Any) -> dict[str, Any]:
    """The configuration of a class of this package."""
    return {"class_path": f"recsys.{class_path}", "init_args": init_args}


def rule_of(protocol: str) -> dict[str, Any]:
    """The configuration of the split rule of a protocol."""
    if protocol in FRACTIONS:
        return part("features.fraction.Fraction", rule=SPLITS[STRICT], share=FRACTIONS[protocol])
    return SPLITS[protocol]
