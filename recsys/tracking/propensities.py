"""The propensities that a training has learned: followed along it, and kept as a table and a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor

from recsys.evaluation.plots import propensity_curves
from recsys.tracking.files import write_whole
from recsys.unbiased.click_loss import ClickLoss

TABLE, PICTURE = "propensities.json", "plots/propensities.png"


class PropensityLog(L.Callback):
    """Logs `propensity/position_2` and so on at each epoch, and writes the curves where training ends.

    It follows the loss of a `ListwiseModule`, or that of `WithSlates`; one that does not model propensities is left
    alone. Files go into `folder`, and to MLflow where the trainer has Lightning's `MLFlowLogger`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the relative propensities; those of the first position are 1."""
        curves = _curves(pl_module)
        if curves is None:
            return
        for context, curve in enumerate(curves.tolist()):
            prefix = "propensity" if len(curves) == 1 else f"propensity/context_{context}"
            for position, value in enumerate(curve[1:], start=2):
                pl_module.log(f"{prefix}/position_{position}", value, rank_zero_only=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes `propensities.json` and `plots/propensities.png`."""
        curves = _curves(pl_module)
        if curves is None or not trainer.is_global_zero:
            return
        names = ["all lists"] if len(curves) == 1 else [f"context {number}" for number in range(len(curves))]
        table = dict(zip(names, curves.tolist(), strict=True))
        (self.folder / PICTURE).parent.mkdir(parents=True, exist_ok=True)
        figure = propensity_curves(table)
        write_whole(self.folder / TABLE, json.dumps(table, indent=2) + "\n")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        write_whole(self.folder / PICTURE, picture.getvalue())
        for logger in trainer.loggers:
            if isinstance(logger, MLFlowLogger):
                logger.experiment.log_dict(logger.run_id, table, TABLE)
                logger.experiment.log_figure(logger.run_id, figure, PICTURE)


def _curves(module: L.LightningModule) -> Tensor | None:
    """`[contexts, L]`."""
    losses = [part for part in module.modules() if isinstance(part, ClickLoss)]
    if len(losses) != 1:
        raise TypeError(
            f"PropensityLog follows one loss over clicks, and this {type(module).__name__} has {len(losses)}: train a "
            "ListwiseModule, or WithSlates"
        )
    return losses[0].relative_propensities()
