"""The folder of a run: what lies where, and how its data are found again.

- `run.json`: the record
- `config.yaml`: the resolved configuration
- `model/`: the model with what serving needs
- `evaluation/<model>/`: evaluations of the model and of its baselines
- `plots/*.png`: pictures
- `checkpoints/`: of the training
"""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.evaluation.result import Evaluation
from recsys.tracking.record import RunError, RunRecord

if TYPE_CHECKING:
    from recsys.features.event_log import EventLog
    from recsys.features.splits import Split


@dataclass(frozen=True)
class RunFolder:
    """A run on disk.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The saved model."""
        return self.path / "model"

    def evaluation(self, model: str) -> Path:
        """The evaluation of a model."""
        return self.path / "evaluation" / model

    @cached_property
    def record(self) -> RunRecord:
        """The record of the run.

        Raises:
            RunError: the folder holds no run.
        """
        return RunRecord.read(self.path)

    def evaluations(self) -> list[Evaluation]:
        """Every saved evaluation, that of the trained model first.

        Raises:
            RunError: the trained model was not evaluated.
            EvaluationError: an evaluation is damaged.
        """
        own = self.evaluation(self.record.model)
        if not own.is_dir():
            raise RunError(
                f"{self.path}: the run is {self.record.status} and {self.record.model} is not evaluated; "
                "continue it with `recsys fit` and `--job.resume true`, or, where the model is saved, use `--recompute`"
            )
        others = sorted(folder for folder in own.parent.iterdir() if folder != own and not folder.name.startswith("."))
        return [Evaluation.load(folder) for folder in (own, *others)]

    def save_config(self, text: str) -> None:
        """Writes `config.yaml`, readable by its owner alone: it may hold what the record hides."""
        self.path.mkdir(parents=True, exist_ok=True)
        unfinished = self.path / f".config.yaml.{os.getpid()}"
        unfinished.touch(mode=0o600)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.config)

    def log(self, folder: str | Path | None = None) -> EventLog:
        """The prepared log that the run was made on.

        Args:
            folder: where it is; None: where the run had it.

        Raises:
            RunError: it is gone, or is another log.
        """
        from recsys.features.event_log import EventLog
        from recsys.features.log_files import MANIFEST

        data = self.record.data
        place = Path(data["folder"] if folder is None else folder)
        if not (place / MANIFEST).is_file():
            raise RunError(
                f"{place}: the prepared log of {self.path} is not there; prepare `{data['name']}` again with "
                "`recsys prepare` and name the folder that it prints: `--log FOLDER`"
            )
        log = EventLog.open(place)
        if log.fingerprint != data["fingerprint"]:
            raise RunError(
                f"{place}: another log than the run's (fingerprint {log.fingerprint}, not {data['fingerprint']}); "
                "data or schema have changed since"
            )
        return log

    def split(self, log: EventLog) -> Split:
        """The run's split of its log.

        Raises:
            RunError: the rule cannot be imported, or splits in another way than it did.
        """
        facts = self.record.split
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what a rule warns of was said when the run was made
            split: Split = _class(facts["class_path"], self.path)(**facts["init_args"])(log)
        if split.hash != facts["hash"]:
            raise RunError(
                f"{self.path}: {facts['class_path']} splits in another way than when the run was made "
                f"(hash {split.hash[:12]}, not {facts['hash'][:12]}); use the version of the package that made it: "
                f"{self.record.versions['recsys']}"
            )
        return split


def _class(class_path: str, origin: Path) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RunError(f"{origin}: the split rule {class_path} cannot be imported ({error})") from error
