"""Loads a model and answers requests, and does nothing else: what gates start in a process of its own.

`python -m recsys.tracking.gates.answering JOB` reads a JSON file that `fresh_process` wrote and writes its answers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.tracking.mlflow_store import quiet


def answer(uri: str, requests: pd.DataFrame, params: dict[str, Any], batches: list[int], calls: int) -> dict[str, Any]:
    """Answers requests in batches of several sizes, and times each call.

    Args:
        uri: of the MLflow model.
        requests: the rows that are asked, again from the start where they run out.
        params: of the model.
        batches: sizes.
        calls: timed calls of each size, after one that is not timed.

    Returns:
        `load_s`, `seconds` of each call by size, and of the requests of the timed calls `asked` and `answered`.

    Raises:
        ValueError: an answer is no answer.
    """
    quiet()
    import mlflow

    started = time.perf_counter()
    model = mlflow.pyfunc.load_model(uri)
    load_s = time.perf_counter() - started
    asked = answered = 0
    seconds: dict[str, list[float]] = {}
    for size in batches:
        timed = []
        for call in range(-1, calls):
            rows = np.arange(size) + max(call, 0) * size
            frame = requests.iloc[rows % len(requests)].reset_index(drop=True)
            began = time.perf_counter()
            found = model.predict(frame, params)
            if call >= 0:
                timed.append(time.perf_counter() - began)
                asked, answered = asked + size, answered + _answered(found, size, params["k"])
        seconds[str(size)] = timed
    return {"load_s": load_s, "seconds": seconds, "asked": asked, "answered": answered}


def _answered(found: Any, size: int, k: int) -> int:
    """How many requests of a call got items."""
    if not isinstance(found, pd.DataFrame) or not {"request", "item_id", "rank", "score"} <= set(found.columns):
        raise ValueError("an answer is no data frame with request, item_id, rank and score")
    request = found["request"].to_numpy(dtype=np.int64)
    if len(request) and (request.min() < 0 or request.max() >= size):
        raise ValueError(f"an answer names requests {request.min()} to {request.max()} where {size} were asked")
    if not np.isfinite(found["score"].to_numpy(dtype=np.float64)).all():
        raise ValueError("an answer has scores that are not finite")
    items = np.bincount(request, minlength=size)
    if items.max(initial=0) > k:
        raise ValueError(f"an answer has {items.max()} items where {k} were asked for")
    return int((items > 0).sum())


def main(job: Path) -> None:
    """Does a job and writes what came of it, complete or not at all."""
    content = json.loads(job.read_text(encoding="utf-8"))
    requests = pd.read_parquet(content.pop("requests"))
    place = Path(content.pop("answers"))
    unfinished = place.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(answer(requests=requests, **content)), encoding="utf-8")
    unfinished.replace(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
