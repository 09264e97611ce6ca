"""Losses of pairs where the truth is known: MovieLens ratings completed to a world of relevance and exposure.

A matrix factorization of the ratings says how relevant each pair of a random part of the users and of the most rated
items is, another one of who rated what says how exposed. Exposures to the power p are the more selective the larger p
is. Worlds are drawn from both, and each loss is compared with the ideal one at a fixed model that is wrong; then models
are trained, and judged on pairs drawn at random. Results go into
`experiments/results/benchmarks/pair_loss_estimators.json`; trainings that are done are skipped.

    python experiments/semi_synthetic.py
    python experiments/semi_synthetic.py --smoke
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from scipy.sparse import csr_matrix
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))
from _coat_methods import plain
from _keep_best import KeepBest
from _record import ratio, record
from _results import write_json

from recsys.evaluation.judged import evaluate_judged
from recsys.evaluation.validation import RankingValidation
from recsys.features.datasets import load_dataset
from recsys.features.pair_batches import AllPairs
from recsys.features.random_test import RandomTest
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.training.data import EventLogData
from recsys.training.module import RecommenderModule
from recsys.training.pair_objective import PairObjective
from recsys.training.sparse_adam import SparseAdam
from recsys.unbiased.normalized import DualUnbiased, SelfNormalized
from recsys.unbiased.pair_loss import PairLoss, PairScores
from recsys.unbiased.pointwise import Ideal, Naive, RelMF
from recsys.unbiased.posterior import PosteriorLabel, Shrinkage
from recsys.unbiased.propensity import ItemPower, Logged

ROOT = Path(__file__).resolve().parents[1]
POWERS = (0.5, 1.0, 2.0, 3.0, 4.0)
NOISES = (0.25, 0.5, 1.0)
"""Standard deviations of the logarithm of a factor by which propensities are wrong."""
USERS, ITEMS, RANK = 300, 500, 20
LEAST_EXPOSURE = 0.1
SHOWN = 20
"""Items that each user is shown at random, for the judgement of trained models."""
MONITOR, PATIENCE, EPOCHS = "val/snips_MAP@3", 3, 40


@dataclass(frozen=True)
class World:
    """Relevance and exposure of every pair, `[users, items]` float64, and the scores of a model that is wrong."""

    relevance: Tensor
    exposure: Tensor
    score: Tensor

    def power(self, p: float) -> World:
        """With exposures to a power."""
        return World(self.relevance, self.exposure**p, self.score)

    def draw(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which pairs are relevant, and which of these are seen, `[users, items]` float64 each."""
        uniform = torch.rand(2, *self.relevance.shape, generator=random, dtype=torch.float64)
        relevant = uniform[0] < self.relevance
        return relevant.double(), (relevant & (uniform[1] < self.exposure)).double()


def world(seed: int = 0) -> World:
    """Made of MovieLens-100K."""
    events = load_dataset("movielens_100k").events
    assert isinstance(events, pd.DataFrame)
    user, item = (pd.factorize(events[name])[0] for name in ("user_id", "item_id"))
    rating = events["rating"].to_numpy(dtype=np.float64)
    shape = user.max() + 1, item.max() + 1
    random = np.random.default_rng(seed)
    users, items = np.sort(random.choice(shape[0], USERS, replace=False)), np.argsort(-np.bincount(item))[:ITEMS]
    completed = completion(user, item, rating - rating.mean(), shape, random) + rating.mean()
    seen = csr_matrix((np.ones(len(user)), (user, item)), shape).toarray()
    left, values, right = np.linalg.svd(seen, full_matrices=False)
    exposure = (left[:, :RANK] * values[:RANK]) @ right[:RANK]
    part = np.ix_(users, items)
    relevance = 1 / (1 + np.exp(-(completed[part] - 4 + 0.1 * random.normal(size=(USERS, ITEMS)))))
    score = completed[part] - 4 + random.normal(size=(USERS, ITEMS))
    exposed = np.clip(exposure[part], LEAST_EXPOSURE, 1)
    return World(*(torch.from_numpy(values) for values in (relevance, exposed, score)))


def completion(
    user: np.ndarray, item: np.ndarray, value: np.ndarray, shape: tuple[int, int], random: np.random.Generator
) -> np.ndarray:
    """`[users, items]` by alternating least squares with a penalty of 10."""
    factors = [0.1 * random.normal(size=(n, RANK)) for n in shape]
    rows = [csr_matrix((value, (user, item)), shape), csr_matrix((value, (item, user)), shape[::-1])]
    for _ in range(10):
        for side in (0, 1):
            other, matrix = factors[1 - side], rows[side]
            for row in range(matrix.shape[0]):
                known = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
                near = other[known]
                gram = near.T @ near + 10 * np.eye(RANK)
                factors[side][row] = np.linalg.solve(
                    gram, near.T @ matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]]
                )
    return factors[0] @ factors[1].T


def item_power(label: Tensor, eta: float = 0.5) -> Tensor:
    """Propensities from the positives alone, as `ItemPower` has them."""
    power = ItemPower(eta)
    power.fit(torch.cat([label.new_zeros(1), label.sum(0)]))
    return power.exposed[1:].double().expand_as(label)


def misspecified(exposure: Tensor, sd: float, seed: int = 1) -> Tensor:
    """Exposures times log-normal factors, at most 1."""
    random = torch.Generator().manual_seed(seed)
    return (exposure * (sd * torch.randn(exposure.shape, generator=random, dtype=torch.float64)).exp()).clamp(max=1)


def estimator_table(worlds: World, draws: int) -> list[dict[str, Any]]:
    """Bias, standard deviation and root mean squared error of each loss against the ideal one, by power."""
    makers: dict[str, tuple[Callable[[], PairLoss], str]] = {
        "naive": (Naive, "none"),
        "rel_mf/true": (RelMF, "true"),
        "rel_mf/item_power": (RelMF, "item_power"),
        **{f"rel_mf/noise_{sd}": (RelMF, f"noise_{sd}") for sd in NOISES},
        "clipped_0.1/true": (lambda: RelMF(clip=0.1), "true"),
        "snips/true": (SelfNormalized, "true"),
        "posterior/true": (PosteriorLabel, "true"),
        "shrinkage_0.1/true": (lambda: Shrinkage(0.1), "true"),
    }
    lines: list[dict[str, Any]] = []
    for p in POWERS:
        at = worlds.power(p)
        random = torch.Generator().manual_seed(0)
        # What a model would know of relevance: the truth, moved by half a logit.
        estimate = torch.sigmoid(
            at.relevance.logit() + 0.5 * torch.randn(at.relevance.shape, generator=random, dtype=torch.float64)
        )
        ideal = Ideal()(PairScores(at.score, at.score, relevance=at.relevance)).loss.item()
        wrong = {f"noise_{sd}": misspecified(at.exposure, sd) for sd in NOISES}
        losses = {name: make() for name, (make, _) in makers.items()}
        found: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(draws):
            _, label = at.draw(random)
            known = wrong | {"true": at.exposure, "none": at.exposure, "item_power": item_power(label)}
            for name, (_, kind) in makers.items():
                scores = PairScores(at.score, label, known[kind], relevance=estimate)
                found[name].append(losses[name](flat(scores)).loss.item())
        for name, values in found.items():
            error = np.array(values) - ideal
            bias, sd = float(error.mean()), float(error.std(ddof=1))
            rmse = float(np.sqrt((error**2).mean()))
            lines.append({"p": p, "loss": name, "ideal": ideal, "bias": bias, "sd": sd, "rmse": rmse, "draws": draws})
            print(
                f"p {p} {name:22} bias {bias:+.5f} (s.e. {sd / draws**0.5:.5f}) sd {sd:.5f} rmse {rmse:.5f}", flush=True
            )
    return lines


def flat(scores: PairScores) -> PairScores:
    """Pairs one after the other."""
    return PairScores(*(None if value is None else value.flatten() for value in scores))


OBJECTIVES: dict[str, Callable[[], PairObjective]] = {
    "naive": lambda: PairObjective(Naive(), l2=1e-5),
    "rel_mf_true": lambda: PairObjective(RelMF(clip=0.05), Logged(), l2=1e-5),
    "rel_mf_item_power": lambda: PairObjective(RelMF(clip=0.05), l2=1e-5),
    "balanced": lambda: PairObjective(DualUnbiased(0.05), ItemPower(eta=0.0), l2=1e-5),
}
"""The last has no propensities: positives count as much as all other pairs together."""


def trained(at: World, p: float, method: str, seed: int, epochs: int) -> dict[str, float]:
    """Metrics on items shown at random, of a model trained on one draw of the world."""
    random = np.random.default_rng(seed)
    relevant, label = (values.numpy() for values in at.draw(torch.Generator().manual_seed(seed)))
    label[:, 0] = np.where(label.any(1), label[:, 0], 1)  # everybody has a positive, and every item is in the log
    label[0] = np.where(label.any(0), label[0], 1)
    users, items = label.nonzero()
    shown = np.stack([random.permutation(ITEMS)[:SHOWN] for _ in range(USERS)])
    tested = np.repeat(np.arange(USERS), SHOWN), shown.ravel()
    frame = pd.DataFrame({"user_id": np.append(users, tested[0]), "item_id": np.append(items, tested[1])})
    frame["rating"] = np.append(np.full(len(users), 5), 5 * relevant[tested])
    frame["propensity"] = np.append(at.exposure.numpy()[users, items], np.ones(len(shown.ravel())))
    frame["part"], frame["timestamp"] = np.repeat(["train_mnar", "test_random"], [len(users), len(shown.ravel())]), 0
    folder = ROOT / "runs" / "semi_synthetic" / "logs" / f"p{p:g}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "events.parquet")
    (folder / "schema.yaml").write_text(SCHEMA)
    rule = RandomTest(seed=seed)
    data = EventLogData(
        schema=str(folder / "schema.yaml"),
        events=str(folder / "events.parquet"),
        cache=str(folder / "cache"),
        split=rule,
        batch_size=1024,
        seed=seed,
        batches=AllPairs(),
    )
    assert data.log.n_users == USERS and data.log.n_items == ITEMS and data.log.users.values[0] == 0
    torch.manual_seed(seed)
    module = RecommenderModule(
        partial(MatrixFactorization, width=32), OBJECTIVES[method](), table_optimizer=partial(SparseAdam, lr=0.005)
    )
    keep = KeepBest(MONITOR)
    stop = EarlyStopping(MONITOR, mode="max", patience=PATIENCE, check_on_train_epoch_end=True)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[RankingValidation(k=3, snips_power=1.5), keep, stop],
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    assert isinstance(module.network, MatrixFactorization)
    module.network.load_state_dict(keep.weights)
    return evaluate_judged(module.network, data.split, rule.judged(data.log), ks=(5,), tie_seed=seed).means()


SCHEMA = """name: semi_synthetic
events: {weight: rating, propensity: propensity}
duplicates: keep
features:
  - {name: split, column: part, entity: event, type: categorical}
"""


def kept(at: World, p: float, method: str, seed: int, epochs: int) -> dict[str, float]:
    """What `trained` gives, once for the settings of now; it is kept in a file."""
    objective = OBJECTIVES[method]()
    parts = {type(part).__name__: plain(part) for part in (objective, *objective.children())}
    settings = {"epochs": epochs, "patience": PATIENCE, "objective": parts, "schema": SCHEMA}
    path = ROOT / "runs" / "semi_synthetic" / f"{method}-p{p:g}-{seed}.json"
    if path.exists() and (content := json.loads(path.read_text(encoding="utf-8")))["settings"] == settings:
        return dict(content["metrics"])
    metrics = trained(at, p, method, seed, epochs)
    write_json(path, {"settings": settings, "metrics": metrics})
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="of each training; 0 trains nothing")
    parser.add_argument("--smoke", action="store_true", help="two draws and one short training: does everything run?")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    made = world()
    lines = estimator_table(made, 2 if given.smoke else given.draws)
    models: list[dict[str, Any]] = []
    for seed in range(1 if given.smoke else given.seeds):
        for p in POWERS[:1] if given.smoke else POWERS:
            for method in OBJECTIVES:
                found = kept(made.power(p), p, method, seed, 1 if given.smoke else EPOCHS)
                models.append({"p": p, "method": method, "seed": seed} | found)
                print(f"p {p} {method} {seed}: NDCG@5 {models[-1]['NDCG@5']:.4f}", flush=True)
    if given.smoke:
        return
    naive = {line["p"]: line["rmse"] for line in lines if line["loss"] == "naive"}
    ratios = {
        f"p_{line['p']:g}/{line['loss']}": ratio(line["rmse"], naive[line["p"]], "RMSE of the loss, over that of naive")
        for line in lines
        if line["loss"] != "naive"
    }
    record("pair_loss_estimators", ratios, estimators=lines, trained=models)


if __name__ == "__main__":
    main()
