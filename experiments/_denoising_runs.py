"""One training of the study of noise, in a JSON of its own that is found again.

A run belongs to a row, a weight of L2 and a seed, whoever asked for it: what `denoising_l2.py` trained with the weight
that it then chose is a seed of `denoising.py --l2 chosen`.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

from _denoising import CHOSEN_BY, Row, described, settings_of, train
from _results import write_json
from _runs import ROOT, say

RUNS = Path("runs/denoising")


def run_settings(row: Row, **changes: Any) -> dict[str, Any]:
    """All settings of a run, its method's included, by which it is known again."""
    return settings_of(row) | changes | {"method": described(row.method)}


def run_path(runs: Path, row: Row, settings: dict[str, Any], seed: int) -> Path:
    """Where its JSON lies under a folder of runs."""
    return runs / row.dataset / row.protocol / row.model / f"{settings['l2']:g}" / f"{seed}.json"


def is_done(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a run was made with these settings."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == settings


def run(row: Row, seed: int, settings: dict[str, Any], path: Path) -> None:
    """One training, whose JSON appears when it is finished."""
    from recsys.tracking.environment import git_state, machine, versions

    started, cpu = time.perf_counter(), time.process_time()
    found = train(row, seed, settings)
    content = found | {
        "settings": settings,
        "wall_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "versions": versions(),
        "git": git_state(ROOT),
        "machine": machine(),
    }
    write_json(path, content)
    say(
        f"{row.dataset}/{row.protocol}/{row.model}/{seed}, L2 {settings['l2']:g}: validation {CHOSEN_BY} "
        f"{max(validated(content)):.4f}, best epoch {found['best_epoch']}, {content['wall_s']} s, {content['cpu_s']} s "
        "of the processor"
    )


def validated(run: dict[str, Any]) -> list[float]:
    """The values of a run on validation users."""
    values: list[float] = run["curves"][f"validation {CHOSEN_BY}"]
    return values
