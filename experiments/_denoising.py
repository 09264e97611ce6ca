"""What `denoising.py` trains: backbones, methods, and one run of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import lightning as L
import numpy as np
import torch
from _coat_methods import plain
from _denoising_data import Positives
from _denoising_l2 import CHOSEN, PUBLISHED, PUBLISHED_L2, chosen
from _denoising_l2 import SETTINGS as OF_CHOSEN_L2
from torch import Tensor

from recsys.denoising.adaptive_denoising import ReweightedLoss, TruncatedLoss
from recsys.denoising.personal_loss import PersonalLossResampling, PersonalLossWeights
from recsys.denoising.pool_losses import BCEPoolLoss, BPRPoolLoss, PoolLoss
from recsys.denoising.temperature import AnnealedTemperature, StandardizedTemperature, VariationTemperature
from recsys.denoising.user_pools import UserPools
from recsys.denoising.weighting import PoolWeighting
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.exposure import GROUPS, group_of_decile
from recsys.evaluation.full_ideal import full_ideal_ndcg
from recsys.evaluation.metrics import Targets
from recsys.evaluation.result import Evaluation
from recsys.features.catalogue import Catalogue
from recsys.features.noise import recall_ceiling
from recsys.features.splits import Split
from recsys.models.interaction import InteractionNetwork
from recsys.models.light_gcn import LightGCN
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.training.module import RecommenderModule
from recsys.training.pool_objective import PoolObjective
from recsys.training.sparse_adam import SparseAdam

SEEDS = (2024, 2025, 2026, 2027, 2028)
KS = (20, 50)
CHOSEN_BY = "Recall@20"
SETTINGS: dict[str, dict[str, Any]] = {
    "movielens_100k": {"epochs": 100, "every": 5, "patience": 25, "batch_size": 1024, "lr": 0.001, "width": 64},
    "gowalla": {"epochs": 100, "every": 10, "patience": 20, "batch_size": 16_384, "lr": 0.01, "width": 64},
}
"""Of each data set. A step of LightGCN propagates over the whole graph whatever the batch: that of Gowalla has few."""
OF_BACKBONES: dict[tuple[str, str], dict[str, Any]] = {("movielens_100k", "lightgcn"): {"epochs": 200, "lr": 0.005}}
"""Of a data set and a backbone that is still far from its best after the epochs of all others, by whatever method."""
SMOKE: dict[str, Any] = {"epochs": 2, "every": 1}
SETTLED = 10
"""Epoch from which shares of noise are averaged."""

BACKBONES: dict[str, Callable[..., InteractionNetwork]] = {"mf": MatrixFactorization, "lightgcn": LightGCN}


def uniform() -> PoolWeighting:
    """Any positive of a pool."""
    return PersonalLossResampling(math.inf)


@dataclass(frozen=True)
class Method:
    """How a backbone is trained.

    Attributes:
        note: in words.
        weighting: of the positives of a pool.
        loss: of each.
        size: positives of a pool.
        n: negatives of a pool.
        clean: whether noise is taken out of the training part.
    """

    note: str
    weighting: Callable[[], PoolWeighting] = uniform
    loss: Callable[[], PoolLoss] = BPRPoolLoss
    size: int = 5
    n: int = 1
    clean: bool = False


def described(name: str) -> dict[str, Any]:
    """The settings of a method, by which a run of it is known again."""
    method = METHODS[name]
    weighting, loss = method.weighting(), method.loss()
    parts = [weighting, loss, *([weighting.temperature] if isinstance(weighting, PersonalLossWeights) else [])]
    settings = {type(part).__name__: str(plain(part)) for part in parts}  # as text: JSON has no infinity
    return settings | {"size": method.size, "n": method.n, "clean": method.clean}


_PLD, _SOFT = PersonalLossResampling, PersonalLossWeights
METHODS = {
    "plain": Method("one positive of a uniform user", size=1),
    "uniform_k": Method("a uniform choice of five positives, by the code of pld at an infinite temperature"),
    "r_ce": Method("R-BPR: a pair counts by likelihood^0.2", partial(ReweightedLoss, 0.2), size=1),
    "t_ce": Method("T-BPR: a growing share of high losses, up to a fifth, is left out", TruncatedLoss, size=1),
    "pld": Method("a choice of five positives by personal loss, temperature 0.1", partial(_PLD, 0.1)),
    "pld_std": Method("temperature half a user's deviation of losses", lambda: _PLD(StandardizedTemperature(0.5))),
    "pld_t1": Method("temperature 1", partial(_PLD, 1.0)),
    "pld_cv": Method("temperature by a user's coefficient of variation", lambda: _PLD(VariationTemperature(0.1))),
    "pld_anneal": Method("temperature from 1 to 0.1 over epochs 5 to 30", lambda: _PLD(AnnealedTemperature())),
    "pld_floor": Method("temperature 0.1, a tenth of the choices uniform", partial(_PLD, 0.1, floor=0.1)),
    "pld_n4": Method("temperature 0.1, losses over four negatives", partial(_PLD, 0.1), n=4),
    "pld_soft": Method("all five positives, weighted as pld chooses", partial(_SOFT, 0.1)),
    "bce": Method("one positive of a uniform user, cross-entropy", loss=BCEPoolLoss, size=1),
    "bce_r_ce": Method("R-CE, exponent 0.2", partial(ReweightedLoss, 0.2), BCEPoolLoss, size=1),
    "bce_t_ce": Method("T-CE, up to a fifth left out", TruncatedLoss, BCEPoolLoss, size=1),
    "bce_pld": Method("a choice by personal cross-entropy, temperature 0.1", partial(_PLD, 0.1), BCEPoolLoss),
    "oracle": Method("plain training after the noise was taken out", size=1, clean=True),
}
"""The first six and `oracle` are the main table."""
MAIN = ("plain", "uniform_k", "r_ce", "t_ce", "pld", "pld_std", "oracle")


class Row(NamedTuple):
    """One line of a table."""

    dataset: str
    noise: str
    backbone: str
    method: str
    l2: str = PUBLISHED

    @property
    def model(self) -> str:
        """Its name there."""
        return f"{self.backbone}_{self.method}"

    @property
    def protocol(self) -> str:
        """The table that it stands in."""
        return f"noise_{self.noise}" + ("_l2" if self.l2 == CHOSEN else "")


def settings_of(row: Row) -> dict[str, Any]:
    """Of every training of a row but for its method; of rows whose L2 was chosen, that of the method if it has one."""
    settings = SETTINGS[row.dataset] | OF_BACKBONES.get((row.dataset, row.backbone), {}) | {"l2": PUBLISHED_L2}
    if row.l2 == PUBLISHED:
        return settings
    of_method = chosen(row.dataset, row.noise, row.backbone, row.method)
    if of_method is not None:
        settings["l2"] = of_method
    return settings | OF_CHOSEN_L2.get((row.dataset, row.backbone), {})


@dataclass
class Best(L.Callback):
    """Validates, keeps the weights of the best epoch, stops when there is none for long, and notes what is logged.

    Attributes:
        split: with the validation users.
        every: epochs from one validation to the next.
        patience: epochs without a better value.
    """

    split: Split
    every: int
    patience: int
    value: float = -math.inf
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        for name, value in trainer.callback_metrics.items():
            self.curves.setdefault(name.removeprefix("train/"), []).append(float(value))
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        network = cast(InteractionNetwork, pl_module.network)
        value = evaluate(network, self.split, which="validation", ks=KS[:1], top=KS[0]).means()[CHOSEN_BY]
        self.curves.setdefault(f"validation {CHOSEN_BY}", []).append(value)
        if value > self.value:
            self.value, self.epoch = value, epoch
            self.weights = {name: weight.clone() for name, weight in network.state_dict().items()}
        trainer.should_stop = trainer.should_stop or epoch - self.epoch >= self.patience


def train(row: Row, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One training, chosen on validation and judged on test.

    Returns:
        Metrics by name, curves by name (of epochs, and of validations), and the best epoch.
    """
    method = METHODS[row.method]
    torch.manual_seed(seed)
    pools = UserPools(method.size, method.n)
    data = Positives(row.dataset, row.noise, seed, settings["batch_size"], pools, method.clean)
    judged = data.split if not method.clean else Positives(row.dataset, row.noise, seed, 1, UserPools()).split
    network: Callable[[Catalogue], InteractionNetwork] = partial(BACKBONES[row.backbone], width=settings["width"])
    objective = PoolObjective(method.loss(), method.weighting(), settings["l2"])
    module = RecommenderModule(network, objective, table_optimizer=partial(SparseAdam, lr=settings["lr"]))
    best = Best(judged, settings["every"], settings["patience"])
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        max_epochs=settings["epochs"], accelerator="cpu", enable_checkpointing=False, callbacks=[best], **quiet
    )
    trainer.fit(module, datamodule=data)
    assert isinstance(module.network, InteractionNetwork)
    module.network.load_state_dict(best.weights)
    evaluation = evaluate(module.network, judged, ks=KS, top=KS[-1])
    metrics = judgement(evaluation) | {"recall_ceiling": recall_ceiling(judged, judged.test)}
    for name in ("injected_share", "injected_pool_share", "effective_pool_size"):
        if name in best.curves and (settled := best.curves[name][SETTLED:]):
            metrics[name] = float(np.mean(settled))
    return {"metrics": metrics, "curves": best.curves, "best_epoch": best.epoch}


def judgement(evaluation: Evaluation) -> dict[str, float]:
    """Recall, and NDCG with either ideal; recall of the items of each popularity group too."""
    table, means = evaluation.targets, evaluation.means()
    parts = (torch.from_numpy(part.astype(np.int64)) for part in (table.row, table.item, table.rank))
    whole = full_ideal_ndcg(Targets(*parts, users=len(evaluation.users)), KS)
    metrics = {f"{name}@{k}": means[f"{name}@{k}"] for name in ("Recall", "NDCG") for k in KS}
    metrics |= {name: float(values.nanmean()) for name, values in whole.items()}
    group = group_of_decile(table.decile)
    for place, name in enumerate(GROUPS):
        ranks = table.rank[group == place]
        if name != "cold" and len(ranks):
            metrics[f"{name} Recall@{KS[0]}"] = float(((ranks > 0) & (ranks <= KS[0])).mean())
    return metrics
