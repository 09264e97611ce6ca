"""The weight of L2 in the study of noise: that of the publication, or for each method the one that validates best."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from _runs import ROOT

PUBLISHED, CHOSEN = "published", "chosen"
PUBLISHED_L2 = 1e-4
GRID = (5e-3, 1e-3, 2e-3, 1e-2, 2e-2, 5e-2)
RESULTS = Path("experiments/results/denoising")
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("movielens_100k", "mf"): {"lr": 0.005},
    ("gowalla", "mf"): {"epochs": 50, "every": 5, "patience": 15},
    ("gowalla", "lightgcn"): {"epochs": 30, "every": 5, "patience": 15, "lr": 0.05},
}
"""Of a data set and a backbone, where they differ from those of the published weight: with enough L2 a larger step and
fewer epochs suffice."""


def path_of(dataset: str, noise: str, backbone: str, method: str) -> Path:
    """Where `denoising_l2.py` writes what it chose, relative to the repository."""
    return RESULTS / dataset / "l2" / f"{noise}_{backbone}_{method}.json"


def chosen(dataset: str, noise: str, backbone: str, method: str) -> float | None:
    """The weight of L2 of a method; None: none was chosen."""
    found = choice(dataset, noise, backbone, method)
    return None if found is None else found["chosen"]


@cache
def choice(dataset: str, noise: str, backbone: str, method: str) -> Mapping[str, Any] | None:
    """All that `denoising_l2.py` wrote of a method; None: nothing."""
    path = ROOT / path_of(dataset, noise, backbone, method)
    if not path.exists():
        return None
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
