"""How well losses tell noise from positives, over all users and within each, while plain training goes on.

Choosing by personal loss has a basis where the area under the curve within users is above that over all. Settings are
those of plain training in `denoising.py`, with the published weight of L2 or with the one that `denoising_l2.py` chose,
and so are the data; cross-entropy is trained with what was chosen for BPR. Writes
`experiments/results/denoising/<dataset>/separability_<noise>_<backbone>.json`, `..._l2.json` with the chosen weight.

    python experiments/noise_separability.py
    python experiments/noise_separability.py --noise natural --l2 chosen
    python experiments/noise_separability.py --dataset gowalla --seeds 2024
    python experiments/noise_separability.py --seeds 2024 --epochs 1 2 --out runs/separability.json
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from _denoising import BACKBONES, SEEDS, Row, settings_of, uniform
from _denoising_data import NOISES, Positives
from _denoising_l2 import CHOSEN, PUBLISHED, RESULTS, choice
from _made_by import made_by
from _results import spread, write_json
from _runs import ROOT, say

from recsys.cli.allocator import keep_freed_memory
from recsys.denoising.pool_losses import BCEPoolLoss, BPRPoolLoss, PoolLoss
from recsys.denoising.separability import mean_losses, separability
from recsys.denoising.user_pools import UserPools
from recsys.features.noise import INJECTED
from recsys.features.training_pairs import TrainingPairs
from recsys.models.interaction import InteractionNetwork
from recsys.training.module import RecommenderModule
from recsys.training.pool_objective import PoolObjective
from recsys.training.sparse_adam import SparseAdam

LOSSES: dict[str, Callable[[], PoolLoss]] = {"bpr": BPRPoolLoss, "bce": BCEPoolLoss}


@dataclass
class Measure(L.Callback):
    """Areas after some epochs.

    Attributes:
        data: that are trained on.
        loss: of a positive.
        epochs: after which it measures.
        found: epoch -> areas, and the means of both kinds of losses.
    """

    data: Positives
    loss: PoolLoss
    epochs: list[int]
    found: dict[int, dict[str, float]] = field(default_factory=dict)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch not in self.epochs:
            return
        pairs = TrainingPairs.of(self.data.split)
        noise = np.asarray(self.data.split.log.columns[INJECTED])[pairs.event]
        losses = mean_losses(cast(InteractionNetwork, pl_module.network), pairs, self.loss)
        areas = separability(losses, pairs.users, noise)
        means = {"loss": float(losses[~noise].mean()), "loss_of_noise": float(losses[noise].mean())}
        self.found[epoch] = {"overall": areas.overall, "personal": areas.personal} | means


def main(argv: list[str] | None = None) -> int:
    started = time.perf_counter()
    given = parser().parse_args(argv)
    if given.noise not in NOISES[given.dataset]:
        parser().error(f"{given.dataset} has the noise {', '.join(NOISES[given.dataset])}, not {given.noise}")
    row = Row(given.dataset, given.noise, given.backbone, "plain", given.l2)
    if row.l2 == CHOSEN and choice(*row[:4]) is None:
        parser().error(
            f"no weight was chosen for {'/'.join(row[:4])}: run `denoising_l2.py --method plain` for it first"
        )
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name, loss in LOSSES.items():
        runs = [measure(row, loss(), seed, given.epochs) for seed in given.seeds]
        for epoch in given.epochs:
            found.setdefault(name, {})[str(epoch)] = {
                value: spread([run[epoch][value] for run in runs]) for value in runs[0][epoch]
            }
            means = {value: round(over["mean"], 4) for value, over in found[name][str(epoch)].items()}
            say(f"{name}, epoch {epoch}: {means}")
    content = {
        "dataset": row.dataset,
        "noise": row.noise,
        "backbone": row.backbone,
        "seeds": given.seeds,
        "areas": found,
        "settings": settings_of(row) | {"epochs": given.epochs},
        **made_by(__file__, argv, started),
    }
    ending = "_l2" * (row.l2 == CHOSEN)
    path = ROOT / (given.out or RESULTS / row.dataset / f"separability_{row.noise}_{row.backbone}{ending}.json")
    write_json(path, content, indent=2)
    say(f"wrote {path.relative_to(ROOT)}")
    return 0


def measure(row: Row, loss: PoolLoss, seed: int, epochs: list[int]) -> dict[int, dict[str, float]]:
    """One plain training."""
    torch.manual_seed(seed)
    settings = settings_of(row)
    data = Positives(row.dataset, row.noise, seed, settings["batch_size"], UserPools(1))
    module = RecommenderModule(
        partial(BACKBONES[row.backbone], width=settings["width"]),
        PoolObjective(loss, uniform(), settings["l2"]),
        table_optimizer=partial(SparseAdam, lr=settings["lr"]),
    )
    callback = Measure(data, loss, epochs)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        max_epochs=max(epochs), accelerator="cpu", enable_checkpointing=False, callbacks=[callback], **quiet
    )
    trainer.fit(module, datamodule=data)
    return callback.found


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dataset", choices=NOISES, default="movielens_100k")
    made.add_argument("--noise", default="0.3", help="a ratio of injected noise, or `natural` where there are ratings")
    made.add_argument("--backbone", choices=BACKBONES, default="mf")
    made.add_argument("--l2", choices=(PUBLISHED, CHOSEN), default=PUBLISHED)
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS[:3])
    made.add_argument("--epochs", type=int, nargs="+", default=[1, 5, 10, 20, 40])
    made.add_argument("--out", type=Path, help="relative to the repository")
    return made


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
