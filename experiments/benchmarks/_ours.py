"""Our side of a comparison with peers: the Lightning job of `recsys fit`, with validation, checkpoints and logger off.

Ids alone; width, depth, heads, length, batch, loss and negatives as the peers have them. The feed-forward layer is
gated; its width is the smallest at which a block has no fewer weights than a peer's.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

sys.path.append(str(Path(__file__).with_name("peers")))
from _side import Channel, Task, Turns, parameters, serve

from recsys.evaluation.evaluate import evaluate
from recsys.features.negatives import Uniform
from recsys.features.splits import LeaveLastOut
from recsys.losses.info_nce import InfoNCE
from recsys.models.rotary import SplitByDim
from recsys.models.synergen import SynerGen
from recsys.training.callbacks import Throughput
from recsys.training.data import EventLogData
from recsys.training.module import RecommenderModule, adam
from recsys.training.objective import RetrievalObjective
from recsys.training.sparse_adam import SparseAdam

HIDDEN_RATIO = 0.75
"""A peer's block has 6 width^2 + 10 width weights, ours 4 width^2 + 3 ratio width^2 + 2 width."""


class Hook(Turns, Callback):
    pass


def main() -> None:
    warnings.filterwarnings("ignore")
    channel, task = Channel(), Task.from_command_line()
    settings = task.settings
    torch.set_num_threads(settings["threads"])
    L.seed_everything(settings["seed"], verbose=False)
    data = EventLogData(
        settings["dataset"],
        split=LeaveLastOut(),
        batch_size=settings["batch"],
        max_length=settings["length"],
        seed=settings["seed"],
    )
    network = partial(
        SynerGen,
        width=settings["width"],
        layers=settings["blocks"],
        heads=settings["heads"],
        hidden_ratio=HIDDEN_RATIO,
        dropout=settings["dropout"],
        rotary=SplitByDim(),
        side_features=False,
    )
    module = RecommenderModule(
        network,
        RetrievalObjective(InfoNCE(temperature=0.05), Uniform(settings["negatives"])),
        optimizer=partial(adam, lr=settings["lr"]),
        table_optimizer=partial(SparseAdam, lr=settings["lr"]),
    )

    def facts():
        return {"blocks": parameters(module.network.decoder.blocks), "parameters": parameters(module.network)}

    def rank() -> np.ndarray:
        return evaluate(module.network, data.split, max_length=settings["length"]).ranked

    assert len(task.train) == data.batches.n_windows, "the peers would train on other sequences"
    L.Trainer(
        max_epochs=settings["epochs"],
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[Hook(channel, facts), Throughput()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=data)
    serve(channel, rank)


if __name__ == "__main__":
    main()
