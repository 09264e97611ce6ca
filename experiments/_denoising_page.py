"""The page of the study of noise: a table for each data set, noise, backbone and way to choose L2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from _denoising import BACKBONES, CHOSEN_BY, METHODS, Row
from _denoising_data import NATURAL, NOISES
from _denoising_l2 import CHOSEN, PUBLISHED, PUBLISHED_L2
from _markdown import markdown, number

Content = dict[str, Any]
COLUMNS = ("Recall@20", "Recall@50", "NDCG@20", "NDCG@50", "NDCG-all@20", "NDCG-all@50", "tail Recall@20")
SHARES = ("injected_pool_share", "injected_share", "effective_pool_size")
CONTROL = "uniform_k"
NOTE = (
    "Made by `python experiments/denoising.py` from the JSON files in this folder; never edited by hand. Of users who "
    "have at least ten positives, 70 % train, 10 % validate and 20 % test, of each user at random; in MovieLens a "
    "positive is a rating of 4 and more, in Gowalla a place. Injected noise is added to training alone, outside of all "
    "that the user has. Natural noise are the user's own ratings of 1 and 2, which train beside those of 3. The whole "
    "catalogue is ranked without the training items. Mean ± standard deviation over seeds, each with its own parts, "
    "noise and weights. NDCG-all divides by the gain of all test items, however many. Shares are means over the epochs "
    "after the tenth: of noise in the pools, and of noise in what was trained on. The weight of L2 is "
    f"{PUBLISHED_L2:g} as published, or the one that `denoising_l2.py` chose for each method on validation users, with "
    "the same noise, of so many seeds. Differences from `uniform_k` have the 95 % interval of a paired t-test over "
    "seeds."
)


def read(results: Path) -> list[Content]:
    """The JSON files of the rows in a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*/noise_*/*.json"))]


def page(rows: Sequence[Content]) -> str:
    """All tables, from the JSON of rows and from nothing else."""
    parts = ["# Training on noisy positives", NOTE]
    for dataset, noises in NOISES.items():
        for noise in noises:
            tables = []
            for backbone, l2 in product(BACKBONES, (PUBLISHED, CHOSEN)):
                table_of = dataset, Row(dataset, noise, backbone, "", l2).protocol
                of_table = {row["model"]: row for row in rows if (row["dataset"], row["protocol"]) == table_of}
                own = [(m, of_table[f"{backbone}_{m}"]) for m in METHODS if f"{backbone}_{m}" in of_table]
                tables += [f"### {backbone}, {l2} L2", _table(own)] if own else []
            title = "natural noise" if noise == NATURAL else f"{noise} noisy items for each training item"
            parts += [f"## {dataset}, {title}", *tables] if tables else []
        dropped = drops(dataset, rows)
        parts += [f"## {dataset}, share of {CHOSEN_BY} without noise that is lost", *dropped] if dropped else []
    return "\n\n".join(parts) + "\n"


def _table(rows: list[tuple[str, Content]]) -> str:
    best = {c: max(row["metrics"][c]["mean"] for n, row in rows if n != "oracle") for c in COLUMNS}
    lines = []
    for name, row in rows:
        metrics = row["metrics"]
        cells = [number(metrics[column], metrics[column]["mean"] == best[column]) for column in COLUMNS]
        shares = [f"{metrics[share]['mean']:.3f}" if share in metrics else "" for share in SHARES]
        control, epochs = less(row, dict(rows).get(CONTROL)), ", ".join(map(str, row["best_epochs"]))
        lines.append([name, l2_of(row), *cells, control, *shares, epochs])
    shares = ["noise in pools", "noise trained on", "effective pool"]
    return markdown(
        ["method", "L2 (seeds of its choice)", *COLUMNS, f"{CHOSEN_BY} less {CONTROL}", *shares, "best epochs"], lines
    )


def drops(dataset: str, rows: Sequence[Content]) -> list[str]:
    """A table of each backbone and way to choose L2: by ratio, what a method has lost, over the same seeds."""
    places = {(row["protocol"], row["model"]): row for row in rows if row["dataset"] == dataset}
    clean, *ratios = [noise for noise in NOISES[dataset] if noise != NATURAL]
    parts: list[str] = []
    for backbone, l2 in product(BACKBONES, (PUBLISHED, CHOSEN)):
        lines = []
        for method in METHODS:
            at = [places.get((Row(dataset, r, backbone, method, l2).protocol, f"{backbone}_{method}")) for r in ratios]
            without = places.get((Row(dataset, clean, backbone, method, l2).protocol, f"{backbone}_{method}"))
            if without and any(shares := [drop(row, without) for row in at]):
                lines.append([method, *shares])
        parts += [f"### {backbone}, {l2} L2", markdown(["method", *ratios], lines)] if lines else []
    return parts


def drop(row: Content | None, without: Content) -> str:
    """Share of the recall without noise that a row has not; nothing for rows of other seeds."""
    if row is None or row["seeds"] != without["seeds"]:
        return ""
    return f"{1 - row['metrics'][CHOSEN_BY]['mean'] / without['metrics'][CHOSEN_BY]['mean']:.1%}"


def l2_of(row: Content) -> str:
    """The weight that a published row was trained with, and with how many seeds it was chosen, if it was."""
    settings = row["settings"]
    seeds = f" ({len(settings['l2_seeds'])})" if "l2_seeds" in settings else ""
    return f"{settings['arguments'].get('l2', PUBLISHED_L2):g}{seeds}"


def less(row: Content, control: Content | None) -> str:
    """Difference from the control, with its interval; else nothing."""
    if control is None or (found := difference(row, control)) is None:
        return ""
    mean, low, high = found
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def difference(row: Content, control: Content) -> tuple[float, float, float] | None:
    """Mean, and the 95 % interval of a paired t-test; None for rows that do not share two seeds and more."""
    if row["model"] == control["model"] or row["seeds"] != control["seeds"] or len(row["seeds"]) < 2:
        return None
    from scipy import stats

    of_row, of_control = (one["metrics"][CHOSEN_BY] for one in (row, control))
    low, high = stats.ttest_rel(of_row["values"], of_control["values"]).confidence_interval()
    return of_row["mean"] - of_control["mean"], float(low), float(high)
