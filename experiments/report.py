"""Writes `experiments/results/RESULTS.md` from the JSON files beside it, and from nothing else.

python experiments/report.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from _markdown import markdown, number
from _report_dla import dual_learning_part
from _report_random_test import RANDOM_TEST, random_test_part
from _report_search import search_part
from _report_ssl import draw, feature_part
from _row import BASELINES, DATASETS, FEATURE_DATASETS, FRACTIONS, REFIT, SEARCH_DATASETS, SPLITS
from _rows import LOSSES, ROTARY

RESULTS = Path(__file__).resolve().parent / "results"
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
COLUMNS = ("HR@10", "NDCG@10", "HR@50", "NDCG@50", "MRR@50", "Coverage@10")
CHOSEN_BY = "NDCG@10"
DENOISING = "denoising"
MEANING = {
    "leave_last_out_strict": "The last event of each user is the test, the one before it the validation; neither is "
    "trained on.",
    "leave_last_out_refit": "Settings and epochs are chosen on the strict split; then one training on all but the last "
    "event. Published numbers are of this kind; they are not to be compared with the strict table.",
    "global_time": "Two moments cut the whole log: nothing later than the first is trained on, and nothing later than "
    "the second is known when the lists of the test users are made.",
    "leave_last_out_half": "The strict split, of whose users a half trains; all of them are judged.",
    "leave_last_out_tenth": "The strict split, of whose users a tenth trains; all of them are judged.",
}
SOURCE = "the eSASRec authors' repository, github.com/blondered/transformer_benchmark"
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "amazon_beauty": {
        "SASRec + sampled softmax": (0.0921, 0.0531),
        "eSASRec": (0.0928, 0.0523),
        "HSTU, rerun": (0.0788, 0.0439),
    },
    "amazon_sports": {
        "SASRec + sampled softmax": (0.0569, 0.0314),
        "eSASRec": (0.0560, 0.0323),
        "HSTU, rerun": (0.0437, 0.0243),
    },
}
"""HR@10 and NDCG@10, last event held out, whole catalogue ranked."""
Content = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES, help="where pictures of self-supervised terms go")
    arguments = parser.parse_args()
    results = arguments.results
    text = report(results)
    unfinished = results / ".RESULTS.md"
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(results / "RESULTS.md")
    for path in [results / "RESULTS.md", *draw(read(results), arguments.images)]:
        print(f"wrote {path}")


def read(results: Path) -> list[Content]:
    """The JSONs of all rows but those of the study of noise, which has a page of its own."""
    paths = sorted(path for path in results.glob("*/*/*.json") if path.parts[-3] != DENOISING)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def report(results: Path) -> str:
    """The whole page."""
    rows = read(results)
    benchmarks = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(results.glob("benchmarks/*.json"))}
    parts = [
        "# Results",
        "Made by `python experiments/report.py` from the JSON files in this folder; never edited by hand. The whole "
        "catalogue is ranked and items of the history are left out. Mean ± standard deviation over seeds; times are "
        "those of one run (training, validation and evaluation) on one thread.",
    ]
    declared = (*DATASETS, *FEATURE_DATASETS, *SEARCH_DATASETS)
    for dataset in [*declared, *sorted({row["dataset"] for row in rows} - set(declared))]:
        of_dataset = [row for row in rows if row["dataset"] == dataset]
        if of_dataset:
            parts += [f"## {dataset}", *_dataset(dataset, of_dataset)]
    parts += dual_learning_part(results)
    if (results / DENOISING).exists():
        parts += [
            "## Noise among positives",
            f"Tables of their own: [{DENOISING}/DENOISING.md]({DENOISING}/DENOISING.md).",
        ]
    if benchmarks:
        parts += [
            "## Benchmarks",
            *(part for name, content in benchmarks.items() for part in _benchmark(name, content)),
        ]
    parts += ["## How they were made", *_provenance(rows, benchmarks)]
    return "\n\n".join(parts) + "\n"


def _dataset(dataset: str, rows: list[Content]) -> list[str]:
    parts, known = [], (*SPLITS, *FRACTIONS)
    for protocol in [*known, *sorted({row["protocol"] for row in rows} - set(known))]:
        table = [row for row in rows if row["protocol"] == protocol]
        main = [row for row in table if not row["model"].startswith(("rotary_", "loss_"))]
        if not table:
            continue
        parts += [f"### {dataset}, {protocol}", MEANING.get(protocol, "")]
        if dataset in FEATURE_DATASETS:
            parts += feature_part(dataset, table)
            continue
        if protocol == RANDOM_TEST:
            parts += random_test_part(table)
            continue
        if any("requests" in row for row in table):
            parts += search_part(dataset, table)
            continue
        if main:
            parts += [_models(main), *filter(None, map(_comparison, main))]
        if protocol == REFIT and dataset in PUBLISHED:
            parts += [_published(dataset)]
        for prefix, title, order in (
            ("rotary_", "rotary embeddings", ROTARY),
            ("loss_", "losses and negatives", LOSSES),
        ):
            ablated = [row for row in table if row["model"].startswith(prefix)]
            if ablated:
                names = [prefix + name for name in order]
                ablated.sort(key=lambda row: names.index(row["model"]) if row["model"] in names else len(names))
                notes = sorted({row.get("settings", {}).get("note", "") for row in ablated})
                parts += [f"#### Ablation: {title}", f"Settings: {'; '.join(notes)}.", _models(ablated, ordered=True)]
    return list(filter(None, parts))


def _models(rows: Sequence[Content], ordered: bool = False) -> str:
    """One line for each model, the best first unless they are in order already; the best of each column in bold."""
    if not ordered:
        rows = sorted(rows, key=lambda row: -_mean(row, CHOSEN_BY))
    best = {name: max(_mean(row, name) for row in rows) for name in COLUMNS}
    lines = []
    for row in rows:
        cells = [f"{row['model']} (baseline)" if row["model"] in BASELINES else row["model"]]
        for name in COLUMNS:
            bold = len(rows) > 1 and _mean(row, name) == best[name]
            cells.append(number(row["metrics"].get(name), bold))
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append([*cells, seeds, f"{row['wall_s']:,.1f}", f"{row['peak_rss_mib']:,.0f}"])
    return markdown(["model", *COLUMNS, "seeds", "wall s", "peak MiB"], lines)


def _mean(row: Content, metric: str) -> float:
    return row["metrics"][metric]["mean"] if metric in row["metrics"] else -1.0


def _comparison(row: Content) -> str:
    """One sentence with the paired bootstrap against the strongest baseline."""
    if "comparison" not in row:
        return ""
    found = row["comparison"]["metrics"][CHOSEN_BY]
    difference = found["difference"]
    return (
        f"{row['model']} less {row['comparison']['with']} (the strongest baseline), {CHOSEN_BY}: "
        f"{difference['mean']:+.4f}, {difference['level']:.0%} interval [{difference['low']:+.4f}, "
        f"{difference['high']:+.4f}], p = {found['p_value']:.4f} (paired bootstrap over {difference['users']:,} users)."
    )


def _published(dataset: str) -> str:
    lines = [[name, f"{hr:.4f}", f"{ndcg:.4f}"] for name, (hr, ndcg) in PUBLISHED[dataset].items()]
    return f"Published, not run here; from {SOURCE}:\n\n{markdown(['model (published)', 'HR@10', CHOSEN_BY], lines)}"


def _benchmark(name: str, content: Content) -> Iterable[str]:
    """The ratios, and for comparisons of libraries what each side did."""
    yield f"### {name}"
    yield markdown(
        ["ratio", "value", "ours / larger", "theirs / smaller", "unit"],
        [
            [key, f"**{entry['value']:.2f}**", f"{entry['ours']:,.4g}", f"{entry['theirs']:,.4g}", entry["unit"]]
            for key, entry in content["ratios"].items()
        ],
    )
    wanted = {
        "sequences_per_s": "sequences/s",
        "users_per_s": "users/s",
        "pairs_per_s": "pairs/s",
        "NDCG@10": "NDCG@10",
        "peak_rss_mib": "peak MiB",
    }
    sides = [
        (f"{key}: {side}", facts) for key, both in content.get("sides", {}).items() for side, facts in both.items()
    ]
    if sides:
        shown = [key for key in wanted if any(key in facts for _, facts in sides)]
        lines = [
            [
                label,
                *(f"{facts[key]:.4f}" if "NDCG" in key else f"{facts[key]:,.0f}" for key in shown),
                str(len(facts["seconds"])),
            ]
            for label, facts in sides
        ]
        yield markdown(["comparison: side", *(wanted[key] for key in shown), "epochs or rounds"], lines)
    yield f"{content['machine']['cpu']}, {content['machine']['cores']} cores: `{content['command']}`"


def _provenance(rows: Sequence[Content], benchmarks: dict[str, Content]) -> Iterable[str]:
    """Versions, revisions, machines and commands, each once."""
    everything = [*rows, *benchmarks.values()]
    versions: dict[str, set[str]] = {}
    for content in everything:
        for package, version in content["versions"].items():
            versions.setdefault(package, set()).add(version)
    yield markdown(
        ["package", "version"], [[name, ", ".join(sorted(found))] for name, found in sorted(versions.items())]
    )
    revisions = sorted({revision[:12] for row in rows for revision in row["git"].get("revisions", [])})
    if revisions:
        dirty = ", some with uncommitted changes" if any(row["git"]["dirty"] for row in rows) else ""
        yield f"Revisions: {', '.join(revisions)}{dirty}."
    if rows:
        hours = sum(row["wall_s"] * len(row["seeds"]) for row in rows) / 3600
        yield f"Time of all runs together: {hours:.1f} hours, one thread each."
    machines = {f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB" for m in map(_machine, everything) if m}
    yield f"Machines: {'; '.join(sorted(machines))}."
    commands = "\n".join(content["command"] for content in everything)
    yield f"Commands:\n\n```console\n{commands}\n```"


def _machine(content: Content) -> Content | None:
    return content.get("machine") or content.get("settings", {}).get("machine")


if __name__ == "__main__":
    main()
