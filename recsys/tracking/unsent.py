"""What MLflow did not take of a run is kept in the run's folder until it does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Metric

UNSENT = ".mlflow-unsent.jsonl"


class Unsent:
    """Metrics and other parts of a run that wait for MLflow, in memory and in a file that is only appended to.

    A process that is killed leaves the file, and who starts the run again reads it. Metrics keep the time at which they
    were logged, by which MLflow knows again what it has already: sending one twice does no harm.

    Attributes:
        path: of the file; None: what waits is kept in memory only.
        metrics: that wait, oldest first.
        parts: what else was refused, such as files; who sends it sends all such parts again.

    Args:
        folder: of the run; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None):
        self.path = None if folder is None else folder / UNSENT
        self.metrics: list[Metric] = []
        self.parts: set[str] = set()
        self._kept = 0
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self.metrics or self.parts)

    def add(self, metrics: Sequence[Metric]) -> None:
        """Lets metrics wait, in memory so far."""
        self.metrics += metrics

    def sent(self, n: int) -> None:
        """Forgets the `n` oldest metrics, and the file once nothing waits any more."""
        del self.metrics[:n]
        self._kept = max(self._kept - n, 0)
        self.settle()

    def miss(self, part: str) -> None:
        """Keeps that a part of the run was refused."""
        if part not in self.parts:
            self.parts.add(part)
            self._append([{"part": part}])

    def forget_parts(self) -> set[str]:
        """The parts that were refused, for one who sends all of them again; those that are refused then wait again."""
        parts, self.parts = self.parts, set()
        return parts

    def keep(self) -> None:
        """Writes the metrics that wait and are not in the file."""
        waiting = self.metrics[self._kept :]
        self._append([{"key": m.key, "value": str(m.value), "timestamp": m.timestamp, "step": m.step} for m in waiting])
        self._kept = len(self.metrics)

    def settle(self) -> None:
        """Removes the file where nothing waits."""
        if self.path is not None and not self:
            self.path.unlink(missing_ok=True)

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.path is None or not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def _read(self, path: Path) -> None:
        from mlflow.entities import Metric

        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):  # cut off by a kill: what is appended begins a line of its own
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # what was cut off
                continue
            if "part" in row:
                self.parts.add(row["part"])
            else:
                self.metrics.append(Metric(row["key"], float(row["value"]), row["timestamp"], row["step"]))
        self._kept = len(self.metrics)
