"""The record of a run: what went in, where and when it ran, and what it took."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from recsys.features.splits import Split, SplitRule
from recsys.tracking.environment import git_state, machine, now, versions
from recsys.tracking.files import write_whole
from recsys.tracking.redaction import command_without_secrets, without_secrets
from recsys.training.usage import Work, peak_gpu_mib, peak_rss_mib

FORMAT_VERSION = 1
RUN = "run.json"
Status = Literal["running", "finished", "interrupted", "failed"]


class RunError(ValueError):
    """A run that cannot be read or used; the message names the folder and the remedy."""


@dataclass
class RunRecord:
    """Everything needed to judge a run and to make it again. JSON throughout, without secrets.

    Attributes:
        name: of the job.
        model: name of the trained model in tables and of its evaluation.
        config: the resolved configuration.
        data: name, fingerprint, facts and folder of the prepared log.
        split: rule, hash and facts; `class_path` and `init_args` make the rule again.
        seeds: by purpose.
        command: the words of the command line.
        versions: of the stack.
        git: revision of the working folder and whether files differed from it; None outside a checkout.
        machine: processor, cores, memory, GPUs.
        started: UTC, ISO 8601; of the first start when the run was resumed.
        status: how it ended.
        usage: `wall_s` of all starts that were not killed; `peak_rss_mib`; with a GPU `peak_gpu_mib`; `train_s`,
            `sequences`, `sequences_per_s` and `padded_share` of the training.
        mlflow: tracking URI, experiment and run; None when it is not tracked.
    """

    name: str
    model: str
    config: dict[str, Any]
    data: dict[str, Any]
    split: dict[str, Any]
    seeds: dict[str, int]
    command: list[str] = field(default_factory=lambda: command_without_secrets(sys.argv))
    versions: dict[str, str] = field(default_factory=versions)
    git: dict[str, Any] | None = field(default_factory=git_state)
    machine: dict[str, Any] = field(default_factory=machine)
    started: str = field(default_factory=now)
    status: Status = "running"
    usage: dict[str, float] = field(default_factory=dict)
    mlflow: dict[str, str] | None = None

    def __post_init__(self) -> None:
        self.config = without_secrets(self.config)
        self._clock = time.perf_counter()
        self._seconds_before = self.usage.get("wall_s", 0.0)

    @classmethod
    def of(
        cls,
        name: str,
        model: str,
        config: Mapping[str, Any],
        split: Split,
        rule: SplitRule,
        log_folder: str | Path,
        seeds: Mapping[str, int],
        previous: RunRecord | None = None,
    ) -> RunRecord:
        """The record of a run that starts now.

        Args:
            name: of the job.
            model: name of the model in tables.
            config: the resolved configuration, plain values only.
            split: of the data.
            rule: what made the split.
            log_folder: the prepared log.
            seeds: by purpose.
            previous: the record of the run that is resumed; its start, wall time and MLflow run are kept.
        """
        log = split.log
        record = cls(
            name=name,
            model=model,
            config=dict(config),
            data={
                "name": log.schema.name,
                "fingerprint": log.fingerprint,
                "folder": str(Path(log_folder).resolve()),
                "facts": dict(log.facts),
            },
            split={
                "rule": split.rule,
                **rule.described(),
                "hash": split.hash,
                "facts": dict(split.facts),
            },
            seeds=dict(seeds),
        )
        if previous is not None:
            record.started, record.mlflow = previous.started, previous.mlflow
            record._seconds_before = previous.usage.get("wall_s", 0.0)
        return record

    def measure(self, work: Work) -> None:
        """Brings `usage` up to date.

        Args:
            work: the training so far.
        """
        self.usage = {
            "wall_s": round(self._seconds_before + time.perf_counter() - self._clock, 3),
            "peak_rss_mib": round(peak_rss_mib(), 1),
            "train_s": round(work.seconds, 3),
            "sequences": work.sequences,
            "sequences_per_s": round(work.sequences_per_s, 1),
            "padded_share": round(work.padded_share, 5),
        }
        gpu = peak_gpu_mib()
        if gpu is not None:
            self.usage["peak_gpu_mib"] = round(gpu, 1)

    def write(self, folder: str | Path) -> None:
        """Writes `run.json`, under a temporary name first.

        Raises:
            RunError: the configuration holds something that is not JSON.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            text = json.dumps({"format": FORMAT_VERSION} | asdict(self), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RunError(f"{folder / RUN}: the record of the run is not JSON: {error}") from error
        write_whole(folder / RUN, text + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Reads what `write` wrote.

        Raises:
            RunError: the folder holds no run, or a damaged one, or one of another format.
        """
        path = Path(folder) / RUN
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{folder}: no run here ({RUN} is missing); `recsys fit` makes one") from None
        except ValueError as error:
            raise RunError(f"{path}: damaged ({error})") from None
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != FORMAT_VERSION:
            raise RunError(f"{path}: written in format {found}, this version reads {FORMAT_VERSION}")
        names = {item.name for item in fields(cls)}
        if content.keys() != names:
            raise RunError(f"{path}: damaged (missing or unknown: {', '.join(sorted(content.keys() ^ names))})")
        return cls(**content)
