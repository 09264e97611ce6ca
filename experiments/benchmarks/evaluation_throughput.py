"""Users per second, from histories to ranked lists, beside RecTools' and RePlay's SASRec.

Every side trains one epoch, then ranks the whole catalogue for all test users in turns: top 100, seen items left out.
The median of the rounds after the first counts. Ours is `recsys.evaluation.evaluate` with its metrics; theirs ends with
the lists: RecTools' `recommend`, and for RePlay a loop of its forward call and `torch.topk`.

    RECSYS_PEERS_PYTHON=peers/bin/python python experiments/benchmarks/evaluation_throughput.py
"""

from __future__ import annotations

import statistics
from typing import Any

from _record import ratio, record
from _sides import SETTINGS, arguments, peers_python, session


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="at least 2")
    parser.set_defaults(datasets=("amazon_beauty",), peers=["replay", "rectools"])
    given = parser.parse_args()
    python = peers_python(given.peers_python)
    settings = SETTINGS | {"threads": given.threads, "epochs": 1}
    ratios: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for dataset in given.datasets:
        with session(dataset, given.peers, settings, python) as (sides, folder, split):
            seconds: dict[str, list[float]] = {side.name: [] for side in sides}
            for side in sides:
                side.ask("epoch")
            for _ in range(given.rounds):
                for side in sides:
                    answer = side.ask("rank", str(folder / f"{side.name}.npy"))
                    seconds[side.name].append(answer["seconds"])
                    side.facts["peak_rss_mib"] = round(answer["peak_rss_mib"], 1)
            speed = {name: len(split.test) / statistics.median(took[1:]) for name, took in seconds.items()}
            for side in sides:
                rounds = {
                    "users_per_s": round(speed[side.name], 1),
                    "seconds": [round(s, 3) for s in seconds[side.name]],
                }
                details.setdefault(dataset, {})[side.name] = side.facts | rounds
        for peer in given.peers:
            ratios[f"{dataset}/{peer}"] = ratio(speed["ours"], speed[peer], "users/s")
            print(f"{dataset}/{peer}", ratios[f"{dataset}/{peer}"], flush=True)
    print(f"written: {record('evaluation_throughput', ratios, settings=settings, sides=details).name}")


if __name__ == "__main__":
    main()
