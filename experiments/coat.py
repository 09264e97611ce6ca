"""Trains models of pairs on what users of Coat chose to rate, and judges them on coats shown at random.

One JSON per method goes into `experiments/results/coat/random_test`; each is compared with `mf` over users and seeds,
and with the methods that it names.
The split is the same for all; a seed draws initial weights and batches. What is done is skipped: an interrupted command
goes on from here.

    python experiments/coat.py
    python experiments/coat.py --model 'mf*' --seeds 0 1 2
    python experiments/coat.py --smoke
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from _coat_methods import BASELINES, METHODS, describe
from _keep_best import KeepBest
from _results import provenance, spread, write, write_json
from _two_way import two_way_comparison
from lightning.pytorch.callbacks import EarlyStopping

from recsys.evaluation.judged import JudgedEvaluation, evaluate_judged
from recsys.evaluation.validation import RankingValidation
from recsys.features.random_test import RandomTest
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.models.popularity import Popularity
from recsys.models.recommender import Recommender
from recsys.tracking.environment import git_state, machine, versions
from recsys.training.data import EventLogData
from recsys.training.module import RecommenderModule
from recsys.training.sparse_adam import SparseAdam
from recsys.training.usage import peak_rss_mib

ROOT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = ROOT / "runs" / "coat", ROOT / "experiments" / "results"
SEEDS = tuple(range(20))
KS, MONITOR, AGAINST = (1, 3, 5), "val/snips_MAP@3", "mf"
BATCH, WIDTH, INIT_STD, EPOCHS, PATIENCE = 1024, 128, 0.07, 100, 5
RARE = 3
"""Items with so many training events or fewer are rare: a third of those that have any."""


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    runs, results = (RUNS, RESULTS) if not given.smoke else (ROOT / "runs/smoke/coat", ROOT / "runs/smoke/results")
    epochs, seeds = (EPOCHS, given.seeds) if not given.smoke else (1, SEEDS[:1])
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    names = [name for name in (*BASELINES, *METHODS) if fnmatchcase(name, given.model)]
    for seed in seeds if not given.gather else ():
        for name in names:
            path = runs / name / f"{seed}.json"
            if done(path, name, epochs):
                continue
            found = run(name, seed, epochs)
            write_json(path, found)
            mean = np.mean(found["metrics"]["NDCG@5"])
            print(f"{name} {seed}: NDCG@5 {mean:.4f}, epoch {found['epoch']}, {found['wall_s']:.0f} s", flush=True)
    publish(runs, results, seeds, epochs)
    return 0


def fingerprint(name: str, epochs: int) -> str:
    """Changes with the settings of a method."""
    settings = [name, describe(name), epochs, BATCH, WIDTH, INIT_STD, PATIENCE]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def done(path: Path, name: str, epochs: int) -> bool:
    """Whether a run is there, made with the settings of now."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["fingerprint"] == fingerprint(name, epochs)


def run(name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Trains and judges one method with one seed."""
    started, rule = time.perf_counter(), RandomTest()
    method = METHODS.get(name)
    batches = None if method is None else method.batches()
    data = EventLogData(dataset="coat", split=rule, batch_size=BATCH, seed=seed, batches=batches)
    keep = KeepBest(MONITOR)
    model: Recommender
    if method is None:
        model = Popularity()
        model.fit(data.split)
        if name == "random":
            model.tensors["popularity"].zero_()
    else:
        torch.manual_seed(seed)
        module = RecommenderModule(
            partial(MatrixFactorization, width=WIDTH, init_std=INIT_STD),
            method.objective(),
            table_optimizer=partial(SparseAdam, lr=method.lr),
        )
        stop = EarlyStopping(MONITOR, mode="max", patience=PATIENCE, check_on_train_epoch_end=True)
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[RankingValidation(k=3, snips_power=1.5), keep, stop],
        )
        trainer.fit(module, datamodule=data)
        assert isinstance(module.network, MatrixFactorization)
        module.network.load_state_dict(keep.weights)
        model = module.network
    judged = rule.judged(data.log)
    found = evaluate_judged(model, data.split, judged, ks=KS, tie_seed=seed)
    counts = data.split.train_counts()
    return {
        "fingerprint": fingerprint(name, epochs),
        "users": found.users.tolist(),
        "metrics": {metric: values.tolist() for metric, values in found.metrics.items()},
        "lists": of_lists(found, counts) | rare(model, data, rule, counts, seed),
        "split": data.split.hash,
        "epoch": keep.epoch,
        "validation": keep.best,
        "wall_s": time.perf_counter() - started,
        "peak_rss_mib": peak_rss_mib(),
        "git": git_state(ROOT),
    }


def of_lists(found: JudgedEvaluation, counts: np.ndarray) -> dict[str, float]:
    """How popular the first five items are, and how many of all items stand among anybody's first five."""
    top = found.top[:, :5]
    return {
        "Popularity@5": float(counts[top].mean()),
        "Coverage@5": len(np.unique(top)) / (len(counts) - 1),
    }


def rare(model: Recommender, data: EventLogData, rule: RandomTest, counts: np.ndarray, seed: int) -> dict[str, float]:
    """NDCG@5 of rare items alone, over users who were shown five of them."""
    judged = rule.judged(data.log)
    keep = counts[judged.items] <= RARE
    row = np.repeat(np.arange(len(judged)), np.diff(judged.offsets))[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(judged)))])
    alone = type(judged)(judged.users, offsets, judged.items[keep], judged.relevant[keep])
    found = evaluate_judged(model, data.split, alone, ks=(5,), tie_seed=seed)
    return {"Rare NDCG@5": found.means()["NDCG@5"]}


def publish(runs: Path, results: Path, seeds: Sequence[int], epochs: int) -> None:
    """Writes the JSON of each method whose runs are all there."""
    of_method: dict[str, list[dict[str, Any]]] = {}
    for name in (*BASELINES, *METHODS):
        paths = [runs / name / f"{seed}.json" for seed in seeds]
        if all(done(path, name, epochs) for path in paths):
            of_method[name] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for name, found in of_method.items():
        others = of_method.keys() & {AGAINST, *(METHODS[name].against if name in METHODS else ())} - {name}
        compared = {other: comparisons(of_method[other], found) for other in sorted(others)}
        content = row(name, found, compared, seeds, [baseline for baseline in BASELINES if baseline in of_method])
        print(f"wrote {write(content, results).relative_to(ROOT)}")


def row(
    name: str,
    found: Sequence[Mapping[str, Any]],
    compared: Mapping[str, Any],
    seeds: Sequence[int],
    baselines: Sequence[str],
) -> dict[str, Any]:
    """The content of the JSON of a method; `compared` are its comparisons by the other's name."""
    values = {m: [float(np.mean(one["metrics"][m])) for one in found] for m in found[0]["metrics"]}
    values |= {m: [one["lists"][m] for one in found] for m in found[0]["lists"]}
    named = {other: metrics for other, metrics in compared.items() if other != AGAINST}
    return {
        "dataset": "coat",
        "protocol": "random_test",
        "model": name,
        "metrics": {metric: spread(of_seeds) for metric, of_seeds in values.items()},
        **({"validation": spread([one["validation"] for one in found])} if name in METHODS else {}),
        "seeds": list(seeds),
        "baselines_run": list(baselines),
        **provenance(found),
        "versions": versions(),
        "command": shlex.join(["python", "experiments/coat.py", "--model", name]),
        "settings": {
            "note": describe(name),
            "width": WIDTH,
            "batch_size": BATCH,
            "init_std": INIT_STD,
            "monitor": MONITOR,
            "patience": PATIENCE,
            "epochs": [one["epoch"] for one in found],
            "split": found[0]["split"],
            "machine": machine(),
        },
        **({"comparison": {"with": AGAINST, "metrics": compared[AGAINST]}} if AGAINST in compared else {}),
        **({"comparisons": named} if named else {}),
    }


def comparisons(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Paired, metric by metric."""
    if any(a["users"] != b["users"] or a["split"] != b["split"] for a, b in zip(first, second, strict=True)):
        raise ValueError("runs on different splits cannot be paired; delete those of the older one")
    return {
        metric: two_way_comparison(
            np.array([one["metrics"][metric] for one in first]), np.array([one["metrics"][metric] for one in second])
        )
        for metric in first[0]["metrics"]
    }


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="*", help="glob")
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="run these only; JSONs are written for them")
    made.add_argument("--gather", action="store_true", help="write the JSONs of what is done, and run nothing")
    made.add_argument("--smoke", action="store_true", help="one epoch, one seed, into runs/smoke: does everything run?")
    return made


if __name__ == "__main__":
    sys.exit(main())
