"""RecTools' SASRec: sampled softmax. Its negatives are drawn for every position; it cannot share them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from _side import Channel, Sequences, Task, Turns, parameters, serve, versions
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models.nn.transformers.sasrec import SASRecModel


class Hook(Turns, pl.Callback):
    pass


def main() -> None:
    warnings.filterwarnings("ignore")
    channel, task = Channel(), Task.from_command_line()
    settings = task.settings
    torch.set_num_threads(settings["threads"])
    pl.seed_everything(settings["seed"], verbose=False)

    def facts():
        network = model.torch_model
        return {
            "blocks": parameters(network.transformer_layers),
            "parameters": parameters(network),
            "versions": versions("RecTools", "torch", "pytorch-lightning"),
        }

    def trainer() -> pl.Trainer:
        return pl.Trainer(
            max_epochs=settings["epochs"],
            accelerator="cpu",
            devices=1,
            logger=False,
            callbacks=[Hook(channel, facts)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_factors=settings["width"],
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        session_max_len=settings["length"],
        dropout_rate=settings["dropout"],
        batch_size=settings["batch"],
        lr=settings["lr"],
        loss="sampled_softmax",
        n_negatives=settings["negatives"],
        recommend_torch_device="cpu",
        get_trainer_func=trainer,
    )
    model.fit(dataset(task.train))
    serve(channel, lambda: rank(model, task.history))


def dataset(sequences: Sequences) -> Dataset:
    """RecTools sorts by time; the place in the sequence stands for it."""
    when = pd.to_datetime(sequences.places(), unit="s")
    columns = {
        Columns.User: sequences.rows(),
        Columns.Item: sequences.items,
        Columns.Weight: 1.0,
        Columns.Datetime: when,
    }
    return Dataset.construct(pd.DataFrame(columns))


def rank(model: SASRecModel, history: Sequences, top: int = 100) -> np.ndarray:
    """RecTools' own recommend."""
    found = model.recommend(
        np.arange(len(history)), dataset(history), k=top, filter_viewed=True, on_unsupported_targets="ignore"
    )
    lists = np.zeros((len(history), top), dtype=np.int64)
    lists[found[Columns.User].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
    return lists


if __name__ == "__main__":
    main()
