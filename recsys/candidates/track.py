"""A job as a run in MLflow: what was asked, what came of it, and the manifest."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from recsys.candidates.run import Outcome
from recsys.tracking.mlflow_run import flatten
from recsys.tracking.mlflow_store import TrackingError, experiment_id, explained, open_client, tracking_uri
from recsys.tracking.redaction import without_secrets

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param

EXPERIMENT = "candidates"
_MOST_CHARACTERS = 500


def track(outcome: Outcome, uri: str | None = None) -> str | None:
    """Tells MLflow of a job; a store that fails costs a warning, and never the lists.

    Args:
        outcome: of the job.
        uri: of the store; None: see `tracking_uri`.

    Returns:
        The id of the run in MLflow; None where the store has failed.
    """
    uri = uri or tracking_uri()
    manifest = outcome.manifest
    numbers = {"users": manifest.users, "rows": manifest.rows, "parts": manifest.parts, "parts_made": outcome.made}
    metrics = numbers | manifest.counts | {f"{name}_s": value for name, value in manifest.seconds.items()}
    try:
        client = open_client(uri)
        experiment = experiment_id(client, uri, EXPERIMENT)
        with explained(uri):
            tags = {"model_version": manifest.model_version, "folder": str(outcome.folder)}
            run = client.create_run(experiment, run_name=manifest.name, tags=tags).info.run_id
            params = flatten(without_secrets(manifest.config))
            client.log_batch(run, metrics=_metrics(metrics), params=_params(params))
            client.log_artifact(run, str(outcome.folder / "manifest.json"))
            client.set_terminated(run)
    except TrackingError as error:
        warnings.warn(f"MLflow was not told of {manifest.name}: {error}", stacklevel=2)
        return None
    return str(run)


def _metrics(values: dict[str, float]) -> list[Metric]:
    import time

    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, 0) for name, value in values.items()]


def _params(values: dict[str, str]) -> list[Param]:
    from mlflow.entities import Param

    return [Param(name, value[:_MOST_CHARACTERS]) for name, value in values.items()]
