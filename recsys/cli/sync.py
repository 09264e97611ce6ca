"""Sends to MLflow what it did not take of runs while it was down.

`recsys sync runs/*` looks into each folder and sends what waits there; a run of which nothing waits is left alone. The
exit code is 1 where something still waits.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: the arguments after `recsys sync`.

    Returns:
        0: nothing waits any more; 1: something does.
    """
    parser = argparse.ArgumentParser("recsys sync", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--uri", help="the MLflow store; default: the one that the run was started with")
    given = parser.parse_args(argv)

    from recsys.tracking.mlflow_run import MLflowRun
    from recsys.tracking.mlflow_store import TrackingError
    from recsys.tracking.record import RunError
    from recsys.tracking.run_folder import RunFolder

    failed = False
    for path in given.runs:
        try:
            print(f"{path}: {'sent' if MLflowRun.catch_up(RunFolder(path), given.uri) else 'nothing waits'}")
        except (RunError, TrackingError) as error:
            print(f"recsys sync: {error}", file=sys.stderr)
            failed = True
    return int(failed)
