"""Pictures of the propensities of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.evaluation.plots import propensity_curves

Row = dict[str, Any]


def draw_settings(rows: Sequence[Row], results: Path, sessions: int | None = None) -> None:
    """One picture for each setting in which dual learning was trained, of all methods that find propensities.

    Args:
        rows: of a table.
        results: folder of the pictures.
        sessions: rows of logs of this size alone; None: of fresh sessions.
    """
    for row in rows:
        if row["method"] != "dual" or row["sessions"] != sessions:
            continue
        setting = {key: row[key] for key in ("users", "eta", "ranker", "sessions")}
        beside = [r for r in rows if {k: r[k] for k in setting} == setting]
        curves = {r["method"]: r["propensities"] for r in beside if "propensities" in r and r["method"] != "ipw_true"}
        title = f"{row['users']}, severity {row['eta']:g}, {row['ranker']} production ranker"
        _draw(results / f"{row['users']}-{row['eta']:g}-{row['ranker']}.png", curves, row["examined"], title)


def draw_switch(rows: Sequence[Row], results: Path) -> None:
    """One picture for each row, of the propensities at the switch, soon after it, and in the end."""
    for row in rows:
        looks = row["followed"]
        half = sum(look["truth"] == looks[0]["truth"] for look in looks)
        shown = [looks[half - 1], *looks[half : half + 3], looks[-1]]
        curves = {f"step {look['step']:,}": look["propensities"] for look in shown}
        title = f"severity {row['eta']:g}, and more from step {looks[half - 1]['step']:,} on ({row['method']})"
        _draw(results / f"switch-{row['method']}.png", curves, row["examined"], title)


def _draw(picture: Path, curves: Mapping[str, Sequence[float]], truth: Sequence[float], title: str) -> None:
    """Under a temporary name first."""
    unfinished = picture.with_suffix(".tmp")
    propensity_curves(curves, truth, title=title).savefig(unfinished, format="png", dpi=110)
    unfinished.replace(picture)
