"""The folder of a run: what lies where, and how its data are found again.

- `run.json`: the record
- `config.yaml`: the resolved configuration
- `model/`: the model with what serving needs
- `lexical/`: for a log with queries, the baseline that compares words
- `evaluation/<model>/`: evaluations of the model and of its baselines; `<model>.<task>` where there are several tasks
- `evaluation_set/`: the requests of the test users, frozen, on which any model can be judged
- `calibration.json`: of a model that ranks, how far its probabilities are off and what mends them
- `history.json`: what was measured after each epoch, `validation` and `diagnostics`
- `plots/*.png`: pictures
- `model_card.md`, `model_card.html`: what the model is, how well it does, and what limits it
- `checkpoints/`: of the training
"""

from __future__ import annotations

import importlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.evaluation.result import Evaluation
from recsys.tracking.files import write_whole
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

    @property
    def lexical(self) -> Path:
        """The lexical baseline of a log with queries."""
        return self.path / "lexical"

    @property
    def evaluation_set(self) -> Path:
        """The frozen requests of test users, see `EvaluationSet`."""
        return self.path / "evaluation_set"

    def evaluation(self, model: str, task: str | None = None) -> Path:
        """The evaluation of a model, in one of its tasks where the log has several."""
        return self.path / "evaluation" / (model if task is None else f"{model}.{task}")

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """Writes an evaluation to its place."""
        evaluation.save(self.evaluation(evaluation.model, evaluation.facts["task"]))

    @cached_property
    def record(self) -> RunRecord:
        """The record of the run.

        Raises:
            RunError: the folder holds no run.
        """
        return RunRecord.read(self.path)

    def evaluations(self, of_any: bool = False) -> list[Evaluation]:
        """Every saved evaluation, those of the trained model first.

        Args:
            of_any: give what there is, were it nothing.

        Raises:
            RunError: the trained model was not evaluated.
            EvaluationError: an evaluation is damaged.
        """
        name, folder = self.record.model, self.path / "evaluation"
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        found = [Evaluation.load(place) for place in there if not place.name.startswith(".")]
        if not of_any and not any(evaluation.model == name for evaluation in found):
            raise RunError(
                f"{self.path}: the run is {self.record.status} and {name} is not evaluated; "
                "continue it with `recsys fit` and `--job.resume true`, or, where the model is saved, use `--recompute`"
            )
        return sorted(found, key=lambda evaluation: evaluation.model != name)

    def save_history(self, **measured: Sequence[Mapping[str, float]]) -> None:
        """Writes `history.json`: a list of epochs for each kind of measurement; null where a value is not finite."""
        content = {
            kind: [{name: value if math.isfinite(value) else None for name, value in epoch.items()} for epoch in epochs]
            for kind, epochs in measured.items()
        }
        self._save("history.json", content)

    def history(self, kind: str) -> list[dict[str, float]]:
        """The epochs of a kind of measurement, `validation` or `diagnostics`; NaN where a value was not finite.

        Raises:
            RunError: the run left none, as those of older versions.
        """
        place = self.path / "history.json"
        if not place.exists():
            raise RunError(f"{place}: not there; a run leaves it when its model is judged")
        epochs = json.loads(place.read_text(encoding="utf-8"))[kind]
        return [{name: math.nan if value is None else value for name, value in epoch.items()} for epoch in epochs]

    def save_calibration(self, content: dict[str, Any]) -> None:
        """Writes `calibration.json`."""
        self._save("calibration.json", content)

    def _save(self, name: str, content: dict[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(content, indent=2) + "\n")

    def save_config(self, text: str) -> None:
        """Writes `config.yaml`, readable by its owner alone: it may hold what the record hides."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.config, text, mode=0o600)

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
            split: Split = _made(facts, self.path)(log)
        if split.hash != facts["hash"]:
            raise RunError(
                f"{self.path}: {facts['class_path']} splits in another way than when the run was made "
                f"(hash {split.hash[:12]}, not {facts['hash'][:12]}); use the version of the package that made it: "
                f"{self.record.versions['recsys']}"
            )
        return split


def _made(facts: Mapping[str, Any], origin: Path) -> Any:
    """What `class_path` and `init_args` make, and what such arguments make among these."""
    arguments = {
        name: _made(value, origin) if isinstance(value, dict) and "class_path" in value else value
        for name, value in facts["init_args"].items()
    }
    return _class(facts["class_path"], origin)(**arguments)


def _class(class_path: str, origin: Path) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RunError(f"{origin}: the split rule {class_path} cannot be imported ({error})") from error
