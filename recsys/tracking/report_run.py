"""A report in MLflow: its settings, its numbers and its files, as a run of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.tracking.environment import versions
from recsys.tracking.mlflow_run import flatten, metric_name
from recsys.tracking.mlflow_store import experiment_id, explained, open_client, tracking_uri


def track_report(
    experiment: str,
    name: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    files: list[Path],
    uri: str | None = None,
) -> str:
    """Logs a report that has been written.

    Args:
        experiment: where to.
        name: of the run.
        settings: become parameters.
        metrics: by any names; what is not finite is left out.
        files: of the report.
        uri: of the store; None: see `tracking_uri`.

    Returns:
        The id of the run.

    Raises:
        TrackingError: the store cannot be used.
    """
    uri = uri or tracking_uri()
    client = open_client(uri)
    tags = {f"version.{package}": version for package, version in versions().items()}
    into = experiment_id(client, uri, experiment)
    with explained(uri):
        run = client.create_run(into, run_name=name, tags=tags).info.run_id
        for key, value in flatten(settings).items():
            client.log_param(run, key, value)
        for key, number in metrics.items():
            if math.isfinite(number):
                client.log_metric(run, metric_name(key), number)
        for path in files:
            client.log_artifact(run, str(path))
        client.set_terminated(run)
    return str(run)
