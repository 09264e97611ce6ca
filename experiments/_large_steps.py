"""What the ranks of the large run write down of their steps, and what that says of the run."""

from __future__ import annotations

import json
import statistics
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

When = Literal["start", "step", "end"]


class Line(NamedTuple):
    """A moment of a process.

    Attributes:
        process: its id; a job that is started again has others.
        when: training starts, a step is done, or training and all that follows it have ended.
        step: steps done, those of the processes before included.
        time: seconds since 1970.
        peak_rss_mib: the most memory the process has held.
    """

    process: int
    when: When
    step: int
    time: float
    peak_rss_mib: float


def write(folder: Path, rank: int, line: Line) -> None:
    """Adds a line of a rank to those in the folder of a run."""
    with _file(folder, rank).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(folder: Path, rank: int) -> list[Line]:
    """The lines of a rank so far; one that is being written is left out."""
    path = _file(folder, rank)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [Line(*json.loads(line)) for line in text.split("\n")[:-1]]


def _file(folder: Path, rank: int) -> Path:
    return folder / f"steps.{rank}.jsonl"


def summary(lines: list[list[Line]]) -> dict[str, Any]:
    """What a run took that was killed once and went on.

    The speed is the median over the pairs of neighbouring lines of a process, so that checkpoints and validations
    between two steps do not count; `seconds` has everything from the first step of a process to its last.

    Args:
        lines: of every rank.

    Raises:
        ValueError: the run is not that of two starts, of which the second came to its end.
    """
    starts = [list(of_one) for _, of_one in groupby(lines[0], key=lambda line: line.process)]
    if len(starts) != 2 or starts[1][-1].when != "end":
        raise ValueError(f"{len(starts)} starts, the last of which ends with `{starts[-1][-1].when}`")
    killed, resumed = starts
    pairs = [(a, b) for one in starts for a, b in pairwise(one) if (a.when, b.when) == ("step", "step")]
    steps = [[line for line in one if line.when == "step"] for one in starts]
    return {
        "steps": resumed[-1].step,
        "killed_after_step": killed[-1].step,
        "resumed_from_step": resumed[0].step,
        "steps_per_s": statistics.median((b.step - a.step) / (b.time - a.time) for a, b in pairs),
        "seconds": [one[-1].time - one[0].time for one in steps],
        "peak_rss_mib": {
            "training": [max(line.peak_rss_mib for line in rank if line.when != "end") for rank in lines],
            "judging": [rank[-1].peak_rss_mib for rank in lines],
        },
    }
