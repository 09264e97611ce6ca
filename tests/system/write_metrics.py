"""A process that writes metrics and prints those that the server has acknowledged, until a file tells it to stop."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient


def main(url: str, run: str, key: str, stop: str) -> None:
    client, step = MlflowClient(url), 0
    while not Path(stop).exists():
        batch = [Metric(key, float(step + n), int(time.time() * 1000), step + n) for n in range(5)]
        try:
            client.log_batch(run, metrics=batch)
        except (MlflowException, OSError):
            print("refused", flush=True)
            time.sleep(0.1)
        else:
            print(*(metric.step for metric in batch), flush=True)
        step += 5


if __name__ == "__main__":
    main(*sys.argv[1:])
