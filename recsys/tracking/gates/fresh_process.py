"""Has a model loaded and asked in a process of its own, as a server would load it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import GateError
from recsys.tracking.mlflow_store import URI_VARIABLE

REQUESTS = 1000
"""Distinct requests that a process is given at most, drawn evenly from the evaluation set."""
_LAST_CHARACTERS = 600


@dataclass(frozen=True)
class Answers:
    """What a process made of a model.

    Attributes:
        load_s: seconds to load the model.
        seconds: of each call, by size of the batch.
        asked: requests.
        answered: requests that got items.
    """

    load_s: float
    seconds: dict[int, list[float]]
    asked: int
    answered: int


def answers(case: PromotionCase, batches: Sequence[int], calls: int, k: int, timeout_s: float) -> Answers:
    """Loads the challenger in a new process and asks it for recommendations.

    The process has the environment of this one but for the folder of the data sets, and does not find modules in the
    working folder: what a model needs must be installed, as in production.

    Args:
        case: its challenger is asked requests of its evaluation set.
        batches: sizes of batches.
        calls: timed calls of each size.
        k: items asked for.
        timeout_s: seconds after which the process is killed, with all that it started.

    Raises:
        GateError: the challenger is no MLflow model, or the process died, was killed, or answered badly.
    """
    if case.challenger.uri is None:
        raise GateError(f"{case.challenger.name} is no MLflow model; it cannot be loaded in another process")
    total = len(case.evaluation_set.requests)
    rows = np.unique(np.linspace(0, total - 1, min(total, REQUESTS)).astype(np.int64))
    with tempfile.TemporaryDirectory(prefix="recsys-gate.") as made:
        folder = Path(made)
        case.evaluation_set.questions(rows).to_parquet(folder / "requests.parquet")
        job = {
            "uri": case.challenger.uri,
            "requests": str(folder / "requests.parquet"),
            "answers": str(folder / "answers.json"),
            "params": {"k": k, "retrieve": case.retrieve, "filter_seen": case.evaluation_set.filter_seen},
            "batches": list(batches),
            "calls": calls,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        _run([sys.executable, "-P", "-m", "recsys.tracking.gates.answering", str(folder / "job.json")], case, timeout_s)
        if not (folder / "answers.json").is_file():
            raise GateError("the process that loaded the model ended without answers")
        found: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return Answers(**found | {"seconds": {int(size): times for size, times in found["seconds"].items()}})


def _run(command: list[str], case: PromotionCase, timeout_s: float) -> None:
    environment = os.environ | {URI_VARIABLE: case.tracking_uri}
    environment.pop("RECSYS_DATA", None)
    with tempfile.TemporaryFile() as said:
        # A session of its own: a model may start processes, and the kill must reach them all.
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise GateError(f"no answers within {timeout_s:g} s; the process was killed") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code == 0:
            return
        said.seek(0)
        text = said.read().decode(errors="replace").strip()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    raise GateError(f"the process that loaded the model {how}: {text[-_LAST_CHARACTERS:] or 'it said nothing'}")
