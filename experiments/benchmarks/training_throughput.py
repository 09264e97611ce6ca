"""Training sequences per second beside RecTools' and RePlay's SASRec, and what was learnt in the same epochs.

Same data, width, depth, heads, length, batch, negatives and threads for every side, each in a process of its own with
the same allocator settings. Epochs are taken in turns (ours, theirs, ours, ...); the first of each side warms up, the
median of the others counts. Then each side ranks the catalogue for every test user, and one evaluator judges the lists.

    RECSYS_PEERS_PYTHON=peers/bin/python python experiments/benchmarks/training_throughput.py
"""

from __future__ import annotations

import statistics
from typing import Any

from _record import ratio, record
from _sides import SETTINGS, arguments, judge, peers_python, session

EPOCHS = {
    "amazon_beauty": {"replay": 6, "replay_bucketed": 6, "rectools": 3},
    "movielens_100k": {"replay": 30, "replay_bucketed": 30, "rectools": 15},
}
"""Epochs of a comparison; RecTools draws negatives for every position and is an order of magnitude slower."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, help="of every comparison; at least 2")
    given = parser.parse_args()
    python = peers_python(given.peers_python)
    ratios: dict[str, Any] = {}
    sides: dict[str, Any] = {}
    for dataset in given.datasets:
        for peer in given.peers:
            settings = SETTINGS | {"threads": given.threads, "epochs": given.epochs or EPOCHS[dataset][peer]}
            name = f"{dataset}/{peer}"
            sides[name] = compare(dataset, peer, settings, python)
            ours, theirs = (sides[name][side]["sequences_per_s"] for side in ("ours", peer))
            ratios[name] = ratio(ours, theirs, "sequences/s")
            print(name, ratios[name], {side: facts["NDCG@10"] for side, facts in sides[name].items()}, flush=True)
    path = record("training_throughput", ratios, settings=SETTINGS | {"threads": given.threads}, sides=sides)
    print(f"written: {path.name}")


def compare(dataset: str, peer: str, settings: dict[str, Any], python: str) -> dict[str, Any]:
    """Speed, memory and quality of our side and of a peer."""
    seconds: dict[str, list[float]] = {"ours": [], peer: []}
    out: dict[str, Any] = {}
    with session(dataset, [peer], settings, python) as (sides, folder, split):
        sequences = int((split.train_end - split.train_start >= 2).sum())
        for _ in range(settings["epochs"]):
            for side in sides:
                answer = side.ask("epoch")
                seconds[side.name].append(answer["seconds"])
                side.facts["peak_rss_mib"] = round(answer["peak_rss_mib"], 1)
        for side in sides:
            lists = folder / f"{side.name}.npy"
            side.ask("rank", str(lists))
            median = statistics.median(seconds[side.name][1:])
            speed = {
                "sequences_per_s": round(sequences / median, 1),
                "seconds": [round(s, 3) for s in seconds[side.name]],
            }
            out[side.name] = side.facts | speed | judge(lists, split)
    return out


if __name__ == "__main__":
    main()
