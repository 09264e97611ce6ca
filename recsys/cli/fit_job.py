"""The heavy half of `recsys fit`: parsing with LightningCLI, training, and what follows it."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console

from recsys.cli import fit
from recsys.cli.outcome import best_network, conclude
from recsys.cli.ranks import check_launch, devices, disband, hush, together
from recsys.cli.server import shown_by
from recsys.evaluation.diagnostics import RepresentationDiagnostics
from recsys.evaluation.validation import RankingValidation
from recsys.tracking.record import RUN, RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.tracking.tracked import tracked
from recsys.training.callbacks import interruptible
from recsys.training.consolidation import free_gib, network_on_meta, table_gib
from recsys.training.data import EventLogData
from recsys.training.feature_masking import correlation_of
from recsys.training.job import Job, JobError
from recsys.training.module import RecommenderModule
from recsys.training.progress import EpochLines
from recsys.training.torchrec_strategy import TorchRecStrategy

_CLASS = re.compile(r"\w+(\.\w+)+")
"""An import path."""


def silence() -> None:
    """Keeps to itself what the libraries say at every start and nobody can act on."""
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # of a resumed run
    # Of sharded tables: what TorchRec and Lightning use themselves, and values that all ranks have alike.
    for message in ("`broadcast_buffers` is", "torch.distributed.* is deprecated", "deprecating ShardedTensor"):
        warnings.filterwarnings("ignore", message=f".*{message}", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*functional.all_gather is deprecated")
    warnings.filterwarnings("ignore", message=".*sync_dist=True")
    hush()


def with_class_path(argv: list[str]) -> list[str]:
    """Says of a class after `--trainer.strategy` that it is one: Lightning would take it for the name of a strategy.

    Example:
        >>> with_class_path(["--trainer.strategy", "shop.Strategy", "--trainer.devices=2"])
        ['--trainer.strategy.class_path', 'shop.Strategy', '--trainer.devices=2']
    """
    option, out = "--trainer.strategy", list(argv)
    for place, word in enumerate(argv):
        if word == option and place + 1 < len(argv) and _CLASS.fullmatch(argv[place + 1]):
            out[place] = f"{option}.class_path"
        elif word.startswith(f"{option}=") and _CLASS.fullmatch(value := word.removeprefix(f"{option}=")):
            out[place] = f"{option}.class_path={value}"
    return out


class FitCLI(LightningCLI):
    """Typed arguments of a job: `model`, `data`, `trainer`, `job`, `validation` and `diagnostics`."""

    def __init__(self, args: list[str]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                RecommenderModule,
                EventLogData,
                args=with_class_path(args),
                run=False,
                auto_configure_optimizers=False,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults={"max_epochs": 50, "logger": False, "enable_model_summary": False} | devices(),
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
        parser.add_class_arguments(RepresentationDiagnostics, "diagnostics")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        for group in ("validation", "diagnostics"):
            parser.link_arguments("job.monitor", f"{group}.k", compute_fn=_list_length)

    def instantiate_classes(self) -> None:
        """Makes what the arguments say.

        Raises:
            JobError: a class refuses its arguments, which its message names, or data that it cannot do with.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if type(error) is not ValueError:  # ours say whose they are
                raise
            raise JobError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer with the job's callbacks.

        Validation comes first, because the others monitor what it logs; diagnostics come before it, because it ends a
        job whose vectors are not finite, and they say what to do.
        """
        init: Any = self.config_init
        job: Job = init.job
        self.folder = job.run_folder()
        own = job.callbacks(self.folder, validates=len(self.datamodule.split.validation) > 0)
        config = dict(init.trainer)
        given = config.pop("callbacks", None) or []
        drawn = sys.stderr.isatty()
        progress = RichProgressBar() if drawn else EpochLines(job.monitor)
        config |= {
            "callbacks": [init.diagnostics, init.validation, *given, *own, progress],
            "default_root_dir": str(self.folder),
            "enable_progress_bar": drawn,
        }
        trainer = L.Trainer(**config | kwargs)
        check_launch(trainer, job)
        self.checkpoint = job.start(self.folder, first=trainer.is_global_zero)
        return trainer


def run(cli: FitCLI) -> None:
    """Trains, saves the best model, judges it beside its baselines, and tells the run folder, MLflow and people.

    In a job of many processes all train, and the first alone does the rest; the others end when training does.
    """
    job: Job = cli.config_init.job
    data, folder, trainer = cli.datamodule, RunFolder(cli.folder), cli.trainer
    resolved = cli.parser.dump(cli.config, skip_none=False)
    if trainer.is_global_zero:
        check(cli, job)
        folder.save_config(resolved)
    record = RunRecord.of(
        name=job.name,
        model=_name_of(cli),
        config=yaml.safe_load(resolved),
        split=data.split,
        rule=data.rule,
        log_folder=data.cache / data.log.fingerprint,
        seeds={"all": data.seed},
        previous=_previous(cli, job),
    )
    outcome = logged = None
    with together(trainer), tracked(trainer, record, folder, mlflow=job.track) as mlflow:
        train(cli)
        disband(trainer)
        if not trainer.is_global_zero:
            return
        if job.judge:
            strategy = trainer.strategy if isinstance(trainer.strategy, TorchRecStrategy) else None
            if strategy is not None:
                strategy.release()
            network = best_network(cli.model, data, folder.path, sharded=strategy is not None)
            history, correlation = cli.config_init.validation.history, correlation_of(cli.model.objective)
            diagnostics = cli.config_init.diagnostics.history
            outcome = conclude(network, data, job, folder, record.model, history, correlation, diagnostics)
            if mlflow is not None:
                mlflow.log_evaluations(outcome.evaluations)
                if outcome.calibration is not None:
                    error = outcome.calibration.error
                    mlflow.log_metrics({f"calibration/{name}": value for name, value in error.items()})
                logged = mlflow.log_model(folder) if job.log_model else None
    console = Console()
    if outcome is not None:
        outcome.print(console, job.k)
    console.print(f"run      {folder.path}", highlight=False)
    if outcome is None:
        console.print("model    not made; `recsys checkpoint export` makes it", highlight=False)
    else:
        console.print(f"pictures {folder.path / 'plots'}", highlight=False)
    if record.mlflow is not None:
        console.print(f"MLflow   {record.mlflow['uri']}, run {record.mlflow['run']}; see it with", highlight=False)
        console.print(f"         {shown_by(record.mlflow['uri'])}", highlight=False, soft_wrap=True)
        if logged is not None:
            serve = f"MLFLOW_TRACKING_URI={record.mlflow['uri']} mlflow models serve --env-manager local -m {logged}"
            console.print(f"serve    {serve}", highlight=False, soft_wrap=True)


def check(cli: FitCLI, job: Job) -> None:
    """Sees before training that the job can be ended as it wants to be.

    Raises:
        JobError: it cannot; the message says what to change.
    """
    data, sharded = cli.datamodule, isinstance(cli.trainer.strategy, TorchRecStrategy)
    if cli.checkpoint is not None and cli.checkpoint.is_dir() != sharded:
        raise JobError(
            f"{cli.checkpoint}: was saved without sharded tables; leave `trainer.strategy` out to continue it"
            if sharded
            else f"{cli.checkpoint}: has sharded tables; continue it with `--trainer.strategy "
            "recsys.training.torchrec_strategy.TorchRecStrategy`, on one process or more"
        )
    if job.judge and job.baselines is None and not len(data.split.validation):
        raise JobError(
            f"split `{data.split.rule}` has no validation users to choose the settings of baselines by; "
            "name the baselines in `job.baselines`, or leave them out with `job.baselines: []`"
        )
    if job.judge and sharded:
        check_memory(table_gib(network_on_meta(cli.model, data.catalogue)), job.memory_gib)


def check_memory(tables: float, stated: float | None) -> None:
    """Sees that whole tables fit in the memory of the first rank.

    Args:
        tables: GiB of the tables.
        stated: GiB that they may take; None: what the machine has free.

    Raises:
        JobError: they do not.
    """
    limit = free_gib() if stated is None else stated
    if tables > limit:
        allowed = "has free" if stated is None else "may give them (`job.memory_gib`)"
        raise JobError(
            f"the whole tables take {tables:.3g} GiB, and the first rank {allowed} {limit:.3g}: the model could be "
            "neither saved nor judged. Give it more, or train alone with `--job.judge false`; `recsys checkpoint "
            "export` then makes the model on a machine that holds it"
        )


def train(cli: FitCLI) -> None:
    """Trains to the end, or to Ctrl-C, which leaves a checkpoint to resume from."""
    with interruptible(cli.trainer):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.checkpoint)


def _previous(cli: FitCLI, job: Job) -> RunRecord | None:
    """The record of what this start continues, be it a run that ended before its first checkpoint."""
    there = cli.checkpoint is not None or (cli.folder / RUN).exists()
    return RunRecord.read(cli.folder) if job.resume and there else None


def _list_length(monitor: str) -> int:
    """The k of `job.monitor`; what is wrong with a name that has none, the job itself says."""
    k = monitor.rpartition("@")[2]
    return int(k) if k.isdigit() else 1


def _name_of(cli: FitCLI) -> str:
    """What the model is called in tables: the name of its class."""
    return str(cli.config.model.network.class_path).rpartition(".")[2]
