"""The heavy half of `recsys fit`: parsing with LightningCLI, training, and what follows it."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import lightning as L
import pandas as pd
import yaml
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console

from recsys.cli import fit
from recsys.cli.calibration import calibrate
from recsys.cli.outcome import best_network, chosen_baselines, draw, judge, pictures
from recsys.evaluation.report import by_rules, results_table
from recsys.evaluation.validation import RankingValidation
from recsys.models.artefact import save_model
from recsys.models.lexical import LexicalBM25
from recsys.tracking.bundle import Bundle
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.tracking.tracked import tracked
from recsys.training.callbacks import interruptible
from recsys.training.data import EventLogData
from recsys.training.job import Job, JobError
from recsys.training.module import RecommenderModule
from recsys.training.progress import EpochLines


def silence() -> None:
    """Keeps to itself what the libraries say at every start and nobody can act on."""
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval")


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
                trainer_defaults={"max_epochs": 50, "devices": 1, "logger": False, "enable_model_summary": False},
                parser_kwargs={
                    "prog": "recsys fit",
                    "description": fit.__doc__,
                    "default_env": True,
                    "env_prefix": "RECSYS_FIT",
                },
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what LightningCLI does not know."""
        parser.add_class_arguments(Job, "job")
        parser.add_class_arguments(RankingValidation, "validation")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("job.monitor", "validation.k", compute_fn=_list_length)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer with the job's callbacks; validation comes first, because the others monitor what it logs."""
        init: Any = self.config_init
        job: Job = init.job
        self.folder = job.run_folder()
        own = job.callbacks(self.folder, validates=len(self.datamodule.split.validation) > 0)
        config = dict(init.trainer)
        given = config.pop("callbacks", None) or []
        drawn = sys.stderr.isatty()
        progress = RichProgressBar() if drawn else EpochLines(job.monitor)
        config |= {
            "callbacks": [init.validation, *given, *own, progress],
            "default_root_dir": str(self.folder),
            "enable_progress_bar": drawn,
        }
        return L.Trainer(**config | kwargs)


def run(cli: FitCLI) -> None:
    """Trains, saves the best model, judges it beside its baselines, and tells the run folder, MLflow and people."""
    job: Job = cli.config_init.job
    data, folder = cli.datamodule, RunFolder(cli.folder)
    if job.baselines is None and not len(data.split.validation):
        raise JobError(
            f"split `{data.split.rule}` has no validation users to choose the settings of baselines by; "
            "name the baselines in `job.baselines`, or leave them out with `job.baselines: []`"
        )
    resolved = cli.parser.dump(cli.config, skip_none=False)
    folder.save_config(resolved)
    record = RunRecord.of(
        name=job.name,
        model=_name_of(cli),
        config=yaml.safe_load(resolved),
        split=data.split,
        rule=data.rule,
        log_folder=data.cache / data.log.fingerprint,
        seeds={"all": data.seed},
        previous=RunRecord.read(folder.path) if job.resume else None,
    )
    with tracked(cli.trainer, record, folder, mlflow=job.track) as mlflow:
        train(cli, job)
        network = best_network(cli.model, folder.path)
        calibration = calibrate(network, data.split, data.max_length)
        platt = None if calibration is None else calibration.platt
        Bundle.of(network, data.log, data.split.hash, data.max_length, platt).save(folder.model)
        chosen = chosen_baselines(data, job)
        for choice in chosen.values():
            if isinstance(choice.model, LexicalBM25):
                save_model(choice.model, folder.lexical)
        evaluations = judge(network, chosen, data, job, record.model)
        for evaluation in evaluations:
            folder.save_evaluation(evaluation)
        if calibration is not None:
            folder.save_calibration(calibration.as_json())
        if mlflow is not None:
            mlflow.log_evaluations(evaluations)
            if calibration is not None:
                mlflow.log_metrics({f"calibration/{name}": value for name, value in calibration.error.items()})
        curves = pd.DataFrame(cli.config_init.validation.history)
        draw(pictures(evaluations, curves, job.metric, job.k, calibration), folder.path / "plots")
    console = Console()
    for comparable in by_rules(evaluations):
        console.print(results_table(comparable, [f"{name}@{job.k}" for name in ("HR", "NDCG", "Coverage")]))
    if calibration is not None:
        error = calibration.error
        console.print(
            f"probabilities of the ranking: expected calibration error {error['before']:.2e} as learned, "
            f"{error['after']:.2e} calibrated (base rate {error['base_rate']:.2e})",
            highlight=False,
        )
    console.print(f"run      {folder.path}", highlight=False)
    console.print(f"pictures {folder.path / 'plots'}", highlight=False)
    if record.mlflow is not None:
        console.print(f"MLflow   {record.mlflow['uri']}, run {record.mlflow['run']}; see it with", highlight=False)
        console.print(f"         mlflow ui --backend-store-uri {record.mlflow['uri']}", highlight=False, soft_wrap=True)


def train(cli: FitCLI, job: Job) -> None:
    """Trains to the end, or to Ctrl-C, which leaves a checkpoint to resume from."""
    checkpoint = job.checkpoint(cli.folder) if job.resume else None
    with interruptible(cli.trainer):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)


def _list_length(monitor: str) -> int:
    """The k of `job.monitor`; what is wrong with a name that has none, the job itself says."""
    k = monitor.rpartition("@")[2]
    return int(k) if k.isdigit() else 1


def _name_of(cli: FitCLI) -> str:
    """What the model is called in tables: the name of its class."""
    return str(cli.config.model.network.class_path).rpartition(".")[2]
