"""Pictures of results. Each function returns a matplotlib `Figure`, drawn without a display and without pyplot's state.

The colours are those of Okabe and Ito, told apart by colour-blind readers; the ground is opaque, so that a picture
reads the same on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from recsys.evaluation.intervals import Interval
from recsys.evaluation.slices import DECILES
from recsys.features.feature_correlation import FeatureCorrelation

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK, _FAINT, _GROUND, _GREY = "#1F2933", "#D9DEE4", "#FFFFFF", "#9AA5B1"

FEW = 20
"""Targets below which the recall of a slice is not drawn."""
MANY = 12
"""Features above which a heat map has colours alone, and no numbers."""


def scores(
    intervals: Mapping[str, Interval], metric: str, *, highlight: Sequence[str] = (), title: str | None = None
) -> Figure:
    """Horizontal bars of one metric, best model on top, with intervals.

    Args:
        intervals: model name -> interval of the metric.
        metric: name of the metric, for the axis.
        highlight: models drawn in colour; none: the best.
        title: above the picture; None: the metric.
    """
    _some(intervals)
    order = sorted(intervals, key=lambda name: intervals[name].mean)
    highlight = highlight or order[-1:]
    figure, axes = _figure(7.2, 1.15 + 0.42 * len(order))
    means = [intervals[name].mean for name in order]
    errors = [
        [max(0.0, intervals[n].mean - intervals[n].low) for n in order],
        [max(0.0, intervals[n].high - intervals[n].mean) for n in order],
    ]
    colours = [_COLOURS[0] if name in highlight else _GREY for name in order]
    axes.barh(order, means, height=0.62, color=colours, xerr=errors, error_kw={"ecolor": _INK, "elinewidth": 1.2})
    reach = max(max(intervals[name].high for name in order), 1e-9)
    for row, name in enumerate(order):
        weight = "bold" if name in highlight else "normal"
        axes.text(
            intervals[name].high + 0.015 * reach, row, f"{intervals[name].mean:.4f}", va="center", fontweight=weight
        )
    axes.set_xlim(0, 1.13 * reach)
    axes.grid(axis="y", visible=False)
    level = round(100 * next(iter(intervals.values())).level)
    axes.set_xlabel(f"{metric}, {level} % interval over users")
    axes.set_title(title or metric, loc="left", fontweight="bold")
    return figure


def recall_by_popularity(recalls: Mapping[str, pd.DataFrame], k: int, *, title: str | None = None) -> Figure:
    """Recall of each model along the popularity deciles of the items to be found, and how many targets each decile has.

    A slice of fewer than `FEW` targets shows its number alone: its interval would hide all others.

    Args:
        recalls: model name -> `slices.recall_by_decile` of its evaluation.
        k: the cut-off they were made with.
        title: above the picture.
    """
    _some(recalls)
    frames = {model: frame.set_index("slice").reindex(DECILES) for model, frame in recalls.items()}
    targets = pd.concat([frame["targets"] for frame in frames.values()], axis=1).max(axis=1).fillna(0).to_numpy()
    place = np.array([len(DECILES) - 1, *range(len(DECILES) - 1)])  # cold items stand last, apart from the deciles
    figure = Figure(figsize=(7.6, 4.8), facecolor=_GROUND, layout="constrained")
    FigureCanvasAgg(figure)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _style(axes)
    _style(below)
    for index, (model, frame) in enumerate(frames.items()):
        recall, low, high = (np.where(targets < FEW, np.nan, frame[c].to_numpy()) for c in ("recall", "low", "high"))
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        axes.plot(place[1:], recall[1:], color=colour, marker=marker, markersize=5, linewidth=1.8, label=model)
        axes.fill_between(place[1:], low[1:], high[1:], color=colour, alpha=0.13, linewidth=0)
        aside = place[:1] + 0.12 * (index - (len(frames) - 1) / 2)
        reach = [recall[:1] - low[:1], high[:1] - recall[:1]]
        axes.errorbar(aside, recall[:1], reach, color=colour, marker=marker, markersize=5, elinewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"Recall@{k}")
    axes.set_title(title or f"Recall@{k} by popularity of the item", loc="left", fontweight="bold")
    axes.legend(frameon=False, labelcolor=_INK)
    below.bar(place, targets, color=_GREY, width=0.62)
    below.set_ylabel("targets")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value):,}"))
    below.set_xticks(place, DECILES)
    below.grid(axis="x", visible=False)
    below.set_xlabel("popularity decile of the item in training (1 = most popular)")
    return figure


def reliability(tables: Mapping[str, pd.DataFrame], *, title: str | None = None) -> Figure:
    """What came true against what was predicted, with intervals, on logarithmic axes: probabilities of 1e-4 are usual.

    A bin in which nothing came true has no place there: an arrow shows the upper end of its interval.

    Args:
        tables: name -> `calibration.reliability_table`.
        title: above the picture.
    """
    _some(tables)
    figure, axes = _figure(5.6, 5.2)
    for index, (name, table) in enumerate(tables.items()):
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        came = table[table["positives"] > 0]
        reach = [came["observed"] - came["low"], came["high"] - came["observed"]]
        axes.errorbar(
            came["predicted"], came["observed"], reach, color=colour, marker=marker, markersize=5, linewidth=1.6,
            elinewidth=1.0, label=name,
        )  # fmt: skip
        never = table[table["positives"] == 0]
        # A reach of zero below the arrow: it starts at the end of the interval and points to where the bin may lie.
        axes.errorbar(
            never["predicted"], never["high"], 0.5 * never["high"], uplims=True, color=colour, linestyle="none",
            elinewidth=1.0,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    low, high = min(*axes.get_xlim(), *axes.get_ylim()), min(1.0, max(*axes.get_xlim(), *axes.get_ylim()))
    axes.plot([low, high], [low, high], color=_GREY, linewidth=1.2, linestyle="--", zorder=1)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("observed share")
    axes.set_title(title or "Reliability", loc="left", fontweight="bold")
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left")
    return figure


def learning_curves(
    curves: Mapping[str, pd.Series], metric: str, *, x_label: str = "epoch", title: str | None = None
) -> Figure:
    """A metric along training, its best point marked.

    Args:
        curves: run name -> values by epoch (or whatever `x_label` names).
        metric: name of the metric, for the axis.
        x_label: what the index counts.
        title: above the picture; None: the metric.
    """
    _some(curves)
    figure, axes = _figure(7.2, 4.0)
    for index, (name, curve) in enumerate(curves.items()):
        at, values = curve.index.to_numpy(), curve.to_numpy()
        best, colour = int(np.nanargmax(values)), _COLOURS[index % len(_COLOURS)]
        axes.plot(at, values, color=colour, linewidth=1.8, label=f"{name} (best {values[best]:.4f} at {at[best]})")
        axes.plot(at[best], values[best], color=colour, marker=_MARKERS[index % len(_MARKERS)], markersize=7)
    axes.set_xlabel(x_label)
    axes.set_ylabel(metric if title else "")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title or metric, loc="left", fontweight="bold")
    # Below the axes: lines of tasks end at any height, and one of them would always lie under it.
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left", bbox_to_anchor=(0, -0.14))
    return figure


def effective_ranks(curves: Mapping[str, pd.Series], *, x_label: str = "epoch", title: str | None = None) -> Figure:
    """The effective rank of vectors along training, from 0 up: a line that falls to the ground is a collapse.

    Args:
        curves: name -> values by epoch (or whatever `x_label` names); NaN where vectors were not finite.
        x_label: what the index counts.
        title: above the picture.
    """
    _some(curves)
    figure, axes = _figure(7.2, 4.0)
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        axes.plot(curve.index, curve, color=colour, marker=marker, markersize=4, linewidth=1.8, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title or "Effective rank of vectors", loc="left", fontweight="bold")
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
    return figure


def feature_information(correlation: FeatureCorrelation, *, title: str | None = None) -> Figure:
    """A heat map of what item features tell of each other; beside each name its entropy.

    A cell is the mutual information of two features over the root of the product of their entropies: 0 where they are
    independent, 1 where each says all of the other.

    Args:
        correlation: of the features.
        title: above the picture.
    """
    _some(dict.fromkeys(correlation.names))
    k, shown = len(correlation.names), np.ma.masked_array(correlation.nmi, np.eye(len(correlation.names), dtype=bool))
    side = 1.6 + 0.52 * min(k, 2 * MANY)
    figure, axes = _figure(max(6.0, side + 2.0), max(3.4, side))
    colours = LinearSegmentedColormap.from_list("information", [_GROUND, _COLOURS[0]])
    # Grey where a feature meets itself.
    image = axes.imshow(shown, cmap=colours.with_extremes(bad=_FAINT), vmin=0, vmax=1)
    for row, column in np.ndindex(k, k) if k <= MANY else ():
        if row != column:
            value = shown[row, column]
            ink = _INK if value < 0.6 else _GROUND
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9)
    entropies = zip(correlation.names, correlation.mi.diagonal(), strict=True)
    axes.set_yticks(range(k), [f"{name}, {entropy:.1f} nats" for name, entropy in entropies])
    axes.set_xticks(range(k), correlation.names, rotation=45, ha="right", rotation_mode="anchor")
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.outline.set_visible(False)
    bar.set_label("mutual information, normalised", color=_INK)
    axes.set_title(title or "Information among item features", loc="left", fontweight="bold")
    return figure


def propensity_curves(
    curves: Mapping[str, Sequence[float]], truth: Sequence[float] | None = None, *, title: str | None = None
) -> Figure:
    """How likely positions are to be examined against the first one, on a logarithmic axis: ratios are what counts.

    Args:
        curves: name -> relative propensities of positions 1, 2, ...
        truth: the true ones, where clicks are simulated.
        title: above the picture.
    """
    _some(curves)
    figure, axes = _figure(7.2, 4.2)
    if truth is not None:
        axes.plot(range(1, len(truth) + 1), truth, color=_GREY, linewidth=5, alpha=0.6, label="truth")
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        axes.plot(range(1, len(curve) + 1), curve, color=colour, marker=marker, markersize=5, linewidth=1.6, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("position")
    axes.set_ylabel("examination against position 1")
    axes.set_title(title or "Propensities of positions", loc="left", fontweight="bold")
    axes.legend(frameon=False, labelcolor=_INK)
    return figure


def ever_rejected(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], level: float, *, title: str | None = None
) -> Figure:
    """Share of experiments without an effect in which a test has found one by a look, and what was promised.

    Args:
        curves: name -> users in each arm at the looks, and share at or before each.
        level: that was promised.
        title: above the picture.
    """
    _some(curves)
    figure, axes = _figure(7.2, 4.2)
    for index, (name, (users, shares)) in enumerate(curves.items()):
        axes.plot(users, shares, color=_COLOURS[index % len(_COLOURS)], linewidth=2.0, label=name)
    axes.axhline(level, color=_INK, linewidth=1.0, linestyle="--", label=f"promised: {level:.0%}")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value):,}"))
    axes.set_xlabel("users in each arm at the look")
    axes.set_ylabel("experiments with a false finding so far")
    axes.set_title(title or "A/A tests that are looked at again and again", loc="left", fontweight="bold")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK)
    return figure


def _some(data: Mapping[str, object]) -> None:
    if not data:
        raise ValueError("nothing to draw: no model was given")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor=_GROUND, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.set_facecolor(_GROUND)
    axes.set_axisbelow(True)
    axes.grid(color=_FAINT, linewidth=0.8)
    axes.tick_params(colors=_INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_GREY)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(_INK)
