"""RecBole's LightGCN: BPR by RecBole's own data loader, model and trainer."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import scipy.sparse as sp
import torch
from _side import Channel, StepTurns, Task, parameters, versions

warnings.filterwarnings("ignore")
from recbole.config import Config  # noqa: E402  (it warns when it is imported)
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.general_recommender import LightGCN  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import init_seed  # noqa: E402

if not hasattr(sp.dok_matrix, "_update"):  # RecBole calls what SciPy 1.13 took away
    sp.dok_matrix._update = lambda self, data: self._dict.update(data)


def main() -> None:
    logging.disable(logging.INFO)
    channel, task = Channel(), Task.from_command_line()
    settings = task.settings
    torch.set_num_threads(settings["threads"])
    init_seed(settings["seed"], reproducibility=False)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes where it stands
        pairs = pd.DataFrame({"user_id:token": task.train.rows(), "item_id:token": task.train.items})
        (Path(folder) / "task").mkdir()
        pairs.to_csv(Path(folder) / "task" / "task.inter", sep="\t", index=False)
        given = {
            "data_path": folder,
            "checkpoint_dir": folder,
            "load_col": {"inter": ["user_id", "item_id"]},
            "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "mode": "full", "group_by": "user"},
            "use_gpu": False,
            "show_progress": False,
            "seed": settings["seed"],
            "embedding_size": settings["width"],
            "n_layers": settings["layers"],
            "train_batch_size": settings["batch"],
            "learning_rate": settings["lr"],
            "reg_weight": settings["l2"],
        }
        config = Config(model="LightGCN", dataset="task", config_dict=given)
        loader, _, _ = data_preparation(config, create_dataset(config))
        network = LightGCN(config, loader._dataset)
        edges = network.norm_adj_matrix._nnz()
        turns = StepTurns(
            channel,
            settings["steps"],
            {
                "steps_per_epoch": len(loader),
                "edges": edges,
                "parameters": parameters(network),
                "versions": versions("recbole", "torch", "numpy"),
            },
        )

        def loss(batch):
            turns.at_step()
            return network.calculate_loss(batch)

        trainer, epoch = Trainer(config, network), 0
        while True:  # until the comparison ends this process
            trainer._train_epoch(loader, epoch, loss_func=loss)
            epoch += 1


if __name__ == "__main__":
    main()
