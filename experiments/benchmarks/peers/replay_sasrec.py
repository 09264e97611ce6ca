"""RePlay's SASRec (`replay.nn`): sampled softmax with negatives that a batch shares.

With `bucket` in the settings its encoder works on that many sequences of similar length at a time.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from _side import Channel, Task, Turns, parameters, serve, versions
from replay.data import FeatureHint, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.loss import CESampled
from replay.nn.sequential import SasRec
from replay.nn.sequential.length_bucket import LengthBucketedQueryEncoder
from replay.nn.transform import UniformNegativeSamplingTransform
from replay.nn.transform.template import make_default_sasrec_transforms


class Hook(Turns, L.Callback):
    pass


def main() -> None:
    warnings.filterwarnings("ignore")
    channel, task = Channel(), Task.from_command_line()
    settings = task.settings
    torch.set_num_threads(settings["threads"])
    L.seed_everything(settings["seed"], verbose=False)
    # RePlay's ids are 0..n-1, and n is padding.
    n = task.n_items
    schema = TensorSchema(
        [
            TensorFeatureInfo(
                name="item_id",
                is_seq=True,
                padding_value=n,
                cardinality=n,
                embedding_dim=settings["width"],
                feature_type=FeatureType.CATEGORICAL,
                feature_hint=FeatureHint.ITEM_ID,
            )
        ]
    )
    network = SasRec.from_params(
        schema=schema,
        embedding_dim=settings["width"],
        num_heads=settings["heads"],
        num_blocks=settings["blocks"],
        max_sequence_length=settings["length"],
        dropout=settings["dropout"],
    )
    network.loss = CESampled()
    network.loss.logits_callback = network.get_logits
    blocks = parameters(network.body.encoder)
    if "bucket" in settings:
        network.body.encoder = LengthBucketedQueryEncoder(network.body.encoder, settings["bucket"])
    transforms = make_default_sasrec_transforms(schema)
    transforms["train"].append(UniformNegativeSamplingTransform(n, settings["negatives"]))

    def facts():
        return {
            "blocks": blocks,
            "parameters": parameters(network),
            "versions": versions("replay-rec", "torch", "lightning"),
        }

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.parquet"
        rows = [task.train[row] - 1 for row in range(len(task.train))]
        pd.DataFrame({"user_id": np.arange(len(rows)), "item_id": rows}).to_parquet(path)
        data = ParquetModule(
            train_path=str(path),
            batch_size={"train": settings["batch"]},
            metadata={"train": {"item_id": {"shape": settings["length"] + 1, "padding": n}}},
            transforms={"train": transforms["train"]},
        )
        L.Trainer(
            max_epochs=settings["epochs"],
            accelerator="cpu",
            devices=1,
            logger=False,
            callbacks=[Hook(channel, facts)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        ).fit(
            LightningModule(network, optimizer_factory=OptimizerFactory(learning_rate=settings["lr"])), datamodule=data
        )
    serve(channel, lambda: rank(network, task))


@torch.no_grad()
def rank(network: SasRec, task: Task, top: int = 100, batch: int = 256) -> np.ndarray:
    """Forward, seen items and items without training events out, `torch.topk`."""
    n, length = task.n_items, task.settings["length"]
    unknown = torch.ones(n, dtype=torch.bool)
    unknown[torch.from_numpy(task.train.items) - 1] = False
    network.eval()
    lists = []
    for first in range(0, len(task.history), batch):
        rows = [task.history[row] - 1 for row in range(first, min(first + batch, len(task.history)))]
        window = torch.full((len(rows), length), n)
        for place, items in enumerate(rows):
            last = items[-length:]
            window[place, length - len(last) :] = torch.from_numpy(last)
        logits = network(feature_tensors={"item_id": window}, padding_mask=window != n)["logits"][:, :n]
        logits[:, unknown] = -torch.inf
        user = np.repeat(np.arange(len(rows)), [len(items) for items in rows])
        logits[torch.from_numpy(user), torch.from_numpy(np.concatenate(rows))] = -torch.inf
        lists.append(logits.topk(top).indices.numpy() + 1)
    return np.concatenate(lists)


if __name__ == "__main__":
    main()
