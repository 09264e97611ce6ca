"""What methods bring over uniform choices, by noise, with the weight of L2 that suits each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from _denoising import BACKBONES, CHOSEN_BY, Row
from _denoising_data import RATIOS
from _denoising_l2 import CHOSEN
from _denoising_page import CONTROL, Content, difference
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GREY, FAINT = "#1F2933", "#9AA5B1", "#E4E7EB"
LINES = {
    "oracle": ("noise taken out", "#555555", "D"),
    "pld_std": ("temperature of half a deviation", "#0072B2", "o"),
    "pld": ("temperature 0.1", "#D55E00", "s"),
    "r_ce": ("R-BPR", "#009E73", "^"),
}
"""Method -> its name, colour and marker. T-BPR would need a picture three times as high."""
Point = tuple[float, tuple[float, float, float]]
"""A ratio of noise, and mean, low and high of a difference."""
TITLES = {"mf": "Matrix factorization", "lightgcn": "LightGCN"}


def draw(rows: Sequence[Content], dataset: str, path: Path) -> bool:
    """A panel for each backbone: differences from uniform choices, with the intervals of their paired t-tests.

    Args:
        rows: JSONs of the study.
        dataset: whose rows are drawn.
        path: of the PNG, which is written under a temporary name first.

    Returns:
        Whether there was anything to draw.
    """
    found = {backbone: differences(rows, dataset, backbone) for backbone in BACKBONES}
    found = {backbone: of_method for backbone, of_method in found.items() if any(of_method.values())}
    if not found:
        return False
    figure = Figure(figsize=(4.6 * len(found), 4.2), facecolor="#FFFFFF", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (backbone, of_method) in zip(panels, found.items(), strict=True):
        _panel(axes, of_method)
        axes.set_title(TITLES[backbone], loc="left", fontsize=11, fontweight="bold", color=INK)
    panels[0].set_ylabel(f"{CHOSEN_BY} less uniform choices", color=INK)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, labelcolor=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    figure.savefig(unfinished, format="png", dpi=120)
    unfinished.replace(path)
    return True


def differences(rows: Sequence[Content], dataset: str, backbone: str) -> dict[str, list[Point]]:
    """Method -> its differences by ratio of noise; nothing for rows without a control."""
    places = {(row["protocol"], row["model"]): row for row in rows if row["dataset"] == dataset}
    found: dict[str, list[Point]] = {method: [] for method in LINES}
    for method, ratio in ((method, ratio) for method in LINES for ratio in RATIOS):
        of_row, of_control = (Row(dataset, ratio, backbone, name, CHOSEN) for name in (method, CONTROL))
        row, control = (places.get((one.protocol, one.model)) for one in (of_row, of_control))
        if row and control and (values := difference(row, control)):
            found[method].append((float(ratio), values))
    return found


def _panel(axes: Axes, of_method: dict[str, list[Point]]) -> None:
    axes.axhline(0, color=INK, linewidth=1.0)
    for place, (method, points) in enumerate(of_method.items()):
        name, colour, marker = LINES[method]
        aside = 0.008 * (place - (len(of_method) - 1) / 2)  # intervals beside each other
        ratios, values = [ratio + aside for ratio, _ in points], [value for _, value in points]
        ends = [[mean - low for mean, low, _ in values], [high - mean for mean, _, high in values]]
        axes.errorbar(
            ratios, [mean for mean, _, _ in values], ends, color=colour, marker=marker, markersize=6, linewidth=1.5,
            elinewidth=1.2, capsize=2.5, label=name,
        )  # fmt: skip
    axes.set_xticks([float(ratio) for ratio in RATIOS], RATIOS)
    axes.set_xlabel("noisy positives for each positive", color=INK)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GREY)
