"""What each way to judge says of policies, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GREY, MISLED = "#1F2933", "#9AA5B1", "#D55E00"
COLOUR = "#0072B2"


def draw(policies: Sequence[Mapping[str, Any]], panels: Mapping[str, str], named: Sequence[str], path: Path) -> Path:
    """A panel for each judge: the true value of each policy, and what the judge says.

    Args:
        policies: `{"policy": name, "truth": value, judge: value, ...}`.
        panels: judge -> title.
        named: policies whose names are written beside their points, in another colour.
        path: of the PNG, which is written under a temporary name first.
    """
    figure = Figure(figsize=(4.0 * len(panels), 3.9), facecolor="#FFFFFF", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (judge, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for row in policies:
            chosen = row["policy"] in named
            axes.plot(row["truth"], row[judge], "o", color=MISLED if chosen else COLOUR, markersize=8)
            if chosen:
                axes.annotate(
                    row["policy"], (row["truth"], row[judge]), xytext=(7, -13), textcoords="offset points", ha="left",
                    fontsize=9, color=INK,
                )  # fmt: skip
        if judge != "ndcg":  # of the same unit as the truth
            ends = [min(row["truth"] for row in policies), max(row["truth"] for row in policies)]
            axes.plot(ends, ends, color=GREY, linewidth=1.0, zorder=0)
        axes.margins(0.18)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xlabel("true clicks a session", color=INK)
        axes.set_ylabel("NDCG@10 of logged clicks" if judge == "ndcg" else "estimated clicks a session", color=INK)
        axes.tick_params(colors=INK, labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    figure.savefig(unfinished, format="png", dpi=120)
    unfinished.replace(path)
    return path
