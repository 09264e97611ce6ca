"""Our side of the comparison of LightGCN: the Lightning job of `recsys fit`, without validation and checkpoints."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

sys.path.append(str(Path(__file__).with_name("peers")))
from _side import Channel, StepTurns, Task, parameters

from recsys.features.given_parts import GivenParts
from recsys.features.pair_batches import Triples
from recsys.models.light_gcn import LightGCN
from recsys.training.data import EventLogData
from recsys.training.module import RecommenderModule
from recsys.training.pair_objective import TripleObjective
from recsys.training.sparse_adam import SparseAdam
from recsys.unbiased.pairwise import BPRLoss


class Hook(L.Callback):
    """Takes turns at the starts of steps."""

    def __init__(self, channel: Channel, data: EventLogData, steps: int) -> None:
        self.channel, self.data, self.steps = channel, data, steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        network: Any = pl_module.network
        self.turns = StepTurns(
            self.channel,
            self.steps,
            {
                "steps_per_epoch": len(self.data.batches),
                "edges": network.adjacency.values().numel(),
                "parameters": parameters(network),
            },
        )

    def on_train_batch_start(self, *_: Any) -> None:
        self.turns.at_step()


def log_of(settings: dict[str, Any]) -> EventLogData:
    """The published parts of the data set, in batches of its pairs with an item that is drawn for each."""
    return EventLogData(
        settings["dataset"],
        split=GivenParts(validation_share=0.0),
        batch_size=settings["batch"],
        seed=settings["seed"],
        batches=Triples(n=1),
    )


def train(channel: Channel, data: EventLogData, settings: dict[str, Any]) -> None:
    """Steps as they are asked for, until nobody asks."""
    module = RecommenderModule(
        partial(LightGCN, width=settings["width"], layers=settings["layers"]),
        TripleObjective(BPRLoss(), l2=settings["l2"]),
        table_optimizer=partial(SparseAdam, lr=settings["lr"]),
    )
    L.Trainer(
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[Hook(channel, data, settings["steps"])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=data)


def main() -> None:
    warnings.filterwarnings("ignore")
    channel, settings = Channel(), Task.from_command_line().settings
    torch.set_num_threads(settings["threads"])
    L.seed_everything(settings["seed"], verbose=False)
    train(channel, log_of(settings), settings)


if __name__ == "__main__":
    main()
