"""A job as a run in MLflow: what was asked, what came of it, and the manifest."""

from __future__ import annotations

import warnings

from recsys.candidates.job import MANIFEST
from recsys.candidates.run import Outcome
from recsys.tracking.mlflow_store import TrackingError
from recsys.tracking.redaction import without_secrets
from recsys.tracking.report_run import track_report

EXPERIMENT = "candidates"


def track(outcome: Outcome, uri: str | None = None) -> str | None:
    """Tells MLflow of a job; a store that fails costs a warning, and never the lists.

    Args:
        outcome: of the job.
        uri: of the store; None: see `tracking_uri`.

    Returns:
        The id of the run in MLflow; None where the store has failed.
    """
    manifest = outcome.manifest
    settings = without_secrets(manifest.config) | {
        "model_version": manifest.model_version,
        "folder": str(outcome.folder),
    }
    numbers = {"users": manifest.users, "rows": manifest.rows, "parts": manifest.parts, "parts_made": outcome.made}
    seconds = {f"{name}_s": value for name, value in manifest.seconds.items()}
    metrics = numbers | manifest.counts | seconds | manifest.measured
    try:
        return track_report(EXPERIMENT, manifest.name, settings, metrics, [outcome.folder / MANIFEST], uri)
    except TrackingError as error:
        warnings.warn(f"MLflow was not told of {manifest.name}: {error}", stacklevel=2)
        return None
