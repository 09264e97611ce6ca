"""What a study says of its making: command, time, versions, machine and state of the code."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _runs import ROOT

from recsys.tracking.environment import git_state, machine, versions


def made_by(script: str, argv: Sequence[str] | None, started: float) -> dict[str, Any]:
    """The last keys of the JSON of a study.

    Args:
        script: `__file__` of the study.
        argv: its arguments; None: those of the command line.
        started: `time.perf_counter()` when it began.
    """
    words = sys.argv[1:] if argv is None else argv
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "command": shlex.join(["python", f"experiments/{Path(script).name}", *words]),
        "versions": versions(),
        "machine": machine(),
        "git": git_state(ROOT),
    }
