"""The heavy half of `recsys fit`: parsing with LightningCLI, training, and what follows it."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console

from recsys.cli.outcome import best_network, judge, pictures
from recsys.evaluation.report import results_table
from recsys.evaluation.validation import RankingValidation
from recsys.models.artefact import save_model
from recsys.training.data import EventLogData
from recsys.training.job import Job
from recsys.training.module import RecommenderModule


class FitCLI(LightningCLI):
    """Typed arguments of a job: `model`, `data`, `trainer`, `job` and `validation`."""

    def __init__(self, args: list[str]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                RecommenderModule,
                EventLogData,
                args=args,
                run=False,
                auto_configure_optimizers=False,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults={"max_epochs": 50, "accelerator": "auto", "devices": 1, "logger": False},
                parser_kwargs={"prog": "recsys fit", "default_env": True, "env_prefix": "RECSYS_FIT"},
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what LightningCLI does not know."""
        parser.add_class_arguments(Job, "job")
        parser.add_class_arguments(RankingValidation, "validation")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer with the job's callbacks; validation comes first, because the others monitor what it logs."""
        init: Any = self.config_init
        job: Job = init.job
        self.folder = job.run_folder()
        own = job.callbacks(self.folder, validates=len(self.datamodule.split.validation) > 0)
        config = dict(init.trainer)
        given = config.pop("callbacks", None) or []
        progress = [RichProgressBar()] if sys.stderr.isatty() else []
        config |= {
            "callbacks": [init.validation, *given, *own, *progress],
            "default_root_dir": str(self.folder),
            "enable_progress_bar": bool(progress),
        }
        return L.Trainer(**config | kwargs)


def train(cli: FitCLI, job: Job) -> None:
    """Trains to the end, or to Ctrl-C, which leaves a checkpoint to resume from."""
    checkpoint = job.checkpoint(cli.folder) if job.resume else None
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)


def finish(cli: FitCLI, job: Job) -> None:
    """Saves the best model, judges it beside its baselines, and prints and draws what came out."""
    folder, data = cli.folder, cli.datamodule
    network = best_network(cli.model, folder)
    save_model(network, folder / "model")
    evaluations = judge(network, data, job, seed=data.seed)
    for evaluation in evaluations:
        evaluation.save(folder / "evaluation" / evaluation.model)
    validation: RankingValidation = cli.config_init.validation
    curves = pd.DataFrame(validation.history)
    metric = job.monitor.removeprefix("val/")
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in pictures(evaluations, curves, metric, max(job.ks)).items():
        figure.savefig(folder / "plots" / name, dpi=150)
    console = Console()
    console.print(results_table(evaluations))
    console.print(f"run: {folder}", highlight=False)
