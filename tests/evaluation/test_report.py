from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from recsys.evaluation import plots
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.report import comparison_table, protocol, results_table, slice_table
from recsys.evaluation.result import Evaluation, EvaluationError, compare_evaluations
from recsys.evaluation.slices import by_history_length, recall_by_decile
from recsys.features.event_log import EventLog
from recsys.features.feature_correlation import FeatureCorrelation
from recsys.features.splits import GlobalTime
from recsys.models.popularity import Popularity, RecentPopularity


@pytest.fixture(scope="module")
def pair(log: EventLog) -> list[Evaluation]:
    split = GlobalTime(0.3, 0.2)(log)
    models = [Popularity(), RecentPopularity(days=0.001)]
    for model in models:
        model.fit(split)
    return [evaluate(model, split, ks=(5,), top=20) for model in models]


def printed(table: object, colour: bool = False) -> str:
    out = StringIO()
    Console(file=out, width=160, force_terminal=colour, color_system="standard" if colour else None).print(table)
    return out.getvalue()


def test_table_shows_every_model_and_the_best_in_bold(pair: list[Evaluation]) -> None:
    text = printed(results_table(pair, ["HR@5", "NDCG@5", "Coverage@5"]))
    for evaluation in pair:
        line = next(line for line in text.splitlines() if f" {evaluation.model} " in line)
        interval = evaluation.summary()["NDCG@5"]
        assert f"{interval.mean:.4f} ±{(interval.high - interval.low) / 2:.4f}" in line
        assert f"{evaluation.exposure['Coverage@5']:.4f}" in line
    best = max(evaluation.means()["NDCG@5"] for evaluation in pair)
    worst = min(evaluation.means()["NDCG@5"] for evaluation in pair)
    coloured = printed(results_table(pair, ["NDCG@5"]), colour=True)
    assert best != worst
    assert f"\x1b[1m{best:.4f}" in coloured and f"\x1b[1m{worst:.4f}" not in coloured
    assert f"{pair[0].facts['judged_users']} users" in text


def test_tables_do_not_mix_protocols(pair: list[Evaluation]) -> None:
    other = replace(pair[1], facts=pair[1].facts | {"filter_seen": False})
    with pytest.raises(EvaluationError, match="differ in filter_seen"):
        results_table([pair[0], other], ["NDCG@5"])
    with pytest.raises(EvaluationError, match="has no HR@10, NDCG@10, Coverage@10; it has HR@5"):
        results_table(pair)
    with pytest.raises(EvaluationError, match="no evaluation"):
        results_table([])


def test_tables_of_slices_show_every_model(pair: list[Evaluation]) -> None:
    slices = {evaluation.model: by_history_length(evaluation, "NDCG@5", edges=(8, 12)) for evaluation in pair}
    text = printed(slice_table(slices, "NDCG@5 by activity"))
    assert "NDCG@5 by activity" in text
    for place, name in enumerate(("0-7", "8-11", "12+")):
        line = next(line for line in text.splitlines() if f" {name} " in line)
        rows = [frame.iloc[place] for frame in slices.values()]
        assert f" {rows[0]['users']} " in line
        assert all(f"{row['value']:.4f} ±{(row['high'] - row['low']) / 2:.4f}" in line for row in rows)
    worst, best = sorted(frame["value"][0] for frame in slices.values())
    coloured = printed(slice_table(slices, "NDCG@5"), colour=True)
    bold = re.findall(r"\x1b\[1m *(0\.\d+)", coloured)
    assert f"{best:.4f}" in bold and f"{worst:.4f}" not in bold and len(bold) == 3
    with pytest.raises(EvaluationError, match="have different slices"):
        slice_table(slices | {"another": by_history_length(pair[0], "NDCG@5", edges=(9,))}, "NDCG@5")
    with pytest.raises(EvaluationError, match="no slices"):
        slice_table({}, "NDCG@5")


def test_the_line_on_the_protocol_names_the_task_and_the_stages(pair: list[Evaluation]) -> None:
    assert "users, " in protocol(pair[0]) and "search" not in protocol(pair[0])
    facts = pair[0].facts | {"task": "search", "judged_requests": 1234, "judged_users": 56, "rerank": 200}
    text = protocol(replace(pair[0], facts=facts))
    assert "search, 1,234 requests of 56 users" in text and "all 40 items ranked, the best 200 reranked" in text


def test_comparison_names_both_and_the_p_value(pair: list[Evaluation]) -> None:
    found = compare_evaluations(*pair, resamples=500)
    text = printed(comparison_table("one", "two", found))
    assert "two against one" in text
    line = next(line for line in text.splitlines() if " NDCG@5 " in line)
    assert f"{found['NDCG@5'].difference.mean:+.4f}" in line and f"{found['NDCG@5'].p_value:.4f}" in line


def test_bars_are_ordered_and_carry_intervals(pair: list[Evaluation]) -> None:
    intervals = {evaluation.model: evaluation.summary()["NDCG@5"] for evaluation in pair}
    axes = plots.scores(intervals, "NDCG@5").axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(interval.mean for interval in intervals.values())
    assert [label.get_text() for label in axes.get_yticklabels()] == sorted(intervals, key=lambda m: intervals[m].mean)
    (errors,) = (c for c in axes.collections if hasattr(c, "get_segments"))
    ends = [tuple(segment[:, 0]) for segment in errors.get_segments()]
    for (low, high), interval in zip(ends, sorted(intervals.values(), key=lambda i: i.mean), strict=True):
        assert (low, high) == pytest.approx((interval.low, interval.high))


def test_recall_lines_show_the_slices(pair: list[Evaluation]) -> None:
    recalls = {evaluation.model: recall_by_decile(evaluation, 5) for evaluation in pair}
    figure = plots.recall_by_popularity(recalls, 5)
    for line, frame in zip(figure.axes[0].lines[::2], recalls.values(), strict=True):
        drawn = {str(x + 1): y for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True) if not np.isnan(y)}
        warm = frame[(frame["slice"] != "cold") & (frame["targets"] >= plots.FEW)]
        assert drawn == pytest.approx(dict(zip(warm["slice"], warm["recall"], strict=True)))
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == len(pair[0].targets.item)


def test_learning_curves_mark_the_best_point() -> None:
    figure = plots.learning_curves({"run": pd.Series([0.1, 0.3, np.nan, 0.2], index=[1, 2, 3, 4])}, "NDCG@10")
    assert isinstance(figure, matplotlib.figure.Figure)
    legend = figure.axes[0].get_legend()
    assert legend is not None and legend.get_texts()[0].get_text() == "run (best 0.3000 at 2)"


@pytest.mark.parametrize("k", [4, plots.MANY + 1])
def test_a_heat_map_has_a_cell_for_each_pair_of_features(k: int) -> None:
    names = tuple(f"f{at}" for at in range(k))
    mi = np.diag(np.arange(1.0, k + 1))
    mi[0, 1] = mi[1, 0] = 0.5
    axes, _ = plots.feature_information(FeatureCorrelation(names, mi)).axes
    (image,) = axes.images
    drawn = image.get_array()
    assert drawn.mask.tolist() == np.eye(k, dtype=bool).tolist() and image.get_clim() == (0, 1)
    assert drawn[0, 1] == drawn[1, 0] == pytest.approx(0.5 / 2**0.5) and drawn.sum() == pytest.approx(2**0.5 / 2)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(names)
    assert axes.get_yticklabels()[1].get_text() == "f1, 2.0 nats"
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == ([] if k > plots.MANY else ["0.35", "0.00", "0.00"] + ["0.35"] + ["0.00"] * 8)


def test_effective_ranks_are_drawn_from_zero_up() -> None:
    curves = {"items": pd.Series([9.0, 4.0, np.nan], index=[1, 2, 3]), "users": pd.Series([5.0, 3.0, 2.0], [1, 2, 3])}
    (axes,) = plots.effective_ranks(curves).axes
    assert axes.get_ylim()[0] == 0
    for line, (name, curve) in zip(axes.lines, curves.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_ydata(), curve)


def test_propensities_are_drawn_beside_the_truth() -> None:
    (axes,) = plots.propensity_curves({"dual": [1.0, 0.5], "em": [1.0, 0.4]}, [1.0, 0.45]).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {"truth": [1.0, 0.45], "dual": [1.0, 0.5], "em": [1.0, 0.4]}
    assert axes.get_yscale() == "log" and list(axes.lines[1].get_xdata()) == [1, 2]


def test_false_findings_are_drawn_by_look_beside_what_was_promised() -> None:
    (axes,) = plots.ever_rejected(
        {"plain": ([100, 200], [0.05, 0.2]), "sequence": ([100, 200], [0.0, 0.01])}, 0.05
    ).axes
    plain, sequence, promised = axes.get_lines()
    assert list(plain.get_xdata()) == [100, 200] and list(plain.get_ydata()) == [0.05, 0.2]
    assert list(sequence.get_ydata()) == [0.0, 0.01] and set(promised.get_ydata()) == {0.05}
    assert promised.get_label() == "promised: 5%" and axes.get_ylim()[0] == 0


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.scores({}, "NDCG@10")
