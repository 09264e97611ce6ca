"""The saved model of a checkpoint: tables of all ranks put together in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from recsys.cli import checkpoint
from recsys.cli.checkpoint_contents import contents
from recsys.cli.fit_job import FitCLI, silence
from recsys.cli.outcome import save_bundle
from recsys.tracking.run_folder import RunFolder
from recsys.training.consolidation import free_gib, load_checkpoint, whole_network
from recsys.training.sharded_checkpoint import TABLE, CheckpointError


class ExportCLI(FitCLI):
    """The model and the data of a job; no trainer is made."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser of a job under the name of this command."""
        own = {"prog": "recsys checkpoint export", "description": checkpoint.__doc__, "env_prefix": "RECSYS_CHECKPOINT"}
        return super().init_parser(**kwargs | own)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """None is needed."""
        return None  # type: ignore[return-value]


def export(path: Path, folder: Path, memory_gib: float | None = None) -> None:
    """Writes the model of a checkpoint as `recsys fit` saves it.

    Args:
        path: of the checkpoint, in the folder of its run.
        folder: where the model goes; a model saved there before is replaced.
        memory_gib: what its tables may take; None: what the machine has free.

    Raises:
        CheckpointError: there is no checkpoint, it belongs to no run, or its tables do not fit.
    """
    run = RunFolder(path.resolve().parent.parent)
    tables = sum(saved.mib for saved in contents(path).tensors if saved.kind == TABLE) / 1024
    limit = free_gib() if memory_gib is None else memory_gib
    if tables > limit:
        allowed = "this machine has free" if memory_gib is None else "`--memory_gib` allows"
        raise CheckpointError(
            f"{path}: the tables take {tables:.3g} GiB, and {allowed} {limit:.3g}; export on a machine that holds them"
        )
    if not run.config.exists():
        raise CheckpointError(
            f"{path}: belongs to no run, for there is no {run.config}; name a checkpoint in the folder where `recsys "
            "fit` wrote it"
        )
    silence()
    cli = ExportCLI(args=["--config", str(run.config)])
    data = cli.datamodule
    data.load_state_dict(load_checkpoint(path)[type(data).__qualname__])  # which refuses other data
    save_bundle(whole_network(cli.model, data.catalogue, path), data, folder)
    console = Console()
    console.print(f"model    {folder}", highlight=False)
    if folder.resolve() == run.model:
        console.print(f"judge it with `recsys evaluate {run.path} --recompute`", highlight=False)
