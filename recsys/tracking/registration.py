"""Makes a finished run a version of a registered model, which is from then on the challenger."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.result import EvaluationError
from recsys.tracking.mlflow_run import MLflowRun
from recsys.tracking.mlflow_store import open_client, tracking_uri
from recsys.tracking.model_card import MARKDOWN, ModelCard
from recsys.tracking.model_files import FILES, files_digest
from recsys.tracking.record import RUN, RunError
from recsys.tracking.redaction import without_secrets
from recsys.tracking.registry import Registry, who
from recsys.tracking.registry_calls import RegistryError, TakenError, called, default_store
from recsys.tracking.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

EVALUATION_SET = "evaluation_set"
"""Folder of a run, and artefact of its MLflow run, that holds the frozen requests."""
FINGERPRINT = "recsys.evaluation_set"
"""Tag of a version: fingerprint of the evaluation set that was held out of its training."""
REGISTERED_BY = "recsys.registered_by"


def register(run: str, name: str | None = None, uri: str | None = None) -> ModelVersion:
    """Registers the model of a run, and makes the new version the challenger.

    The version is described by the model card, and tagged with the fingerprint of the run's evaluation set and a hash
    of the model's files. What the MLflow run lacks of the model and the set is logged; a folder that was never tracked
    gets a run. A card that cannot be made costs a warning.

    Args:
        run: folder of a run, or id of an MLflow run.
        name: of the registered model, which is made where it does not exist; None: that of the job.
        uri: of the store; None: see `tracking_uri`.

    Raises:
        RegistryError: there is no such run, or it has no model.
        RunError: the folder is damaged.
        TrackingError: the store cannot be used.
    """
    uri = uri or tracking_uri()
    folder = RunFolder(Path(run)) if (Path(run) / RUN).is_file() else None
    client = open_client(uri)
    run_id = run if folder is None else _run_of(folder, uri)
    try:
        found = called(uri, client.get_run, run_id)
    except RegistryError:
        what = "neither the folder of a run nor" if folder is None else f"its MLflow run {run_id} is not"
        raise RegistryError(f"{run}: {what} a run of the store at {without_secrets(uri)}") from None
    if found.info.lifecycle_stage == "deleted":
        raise RegistryError(f"run {run_id} is deleted in MLflow, and its files go with it in time; restore it there")
    if name is None:
        name = (
            called(uri, client.get_experiment, found.info.experiment_id).name if folder is None else folder.record.name
        )
    registry = Registry.open(name, uri)
    model = _logged_model(client, uri, run_id, folder)
    fingerprint = _evaluation_set(client, uri, run_id, folder)
    tags = {FILES: files_digest(model.artifact_location, uri), REGISTERED_BY: who()}
    tags |= {} if fingerprint is None else {FINGERPRINT: fingerprint}
    try:
        called(uri, client.create_registered_model, name)
    except TakenError:
        registry.repair()
    with default_store(uri):
        version: ModelVersion = called(
            uri, client.create_model_version, name, model.model_uri, run_id, tags, model_id=model.model_id
        )
    card = _card(client, uri, run_id, folder, f"models:/{name}/{version.version}")
    if card is not None:
        registry.describe(str(version.version), card)
    registry.challenge(str(version.version))
    return registry.version(str(version.version))


def load_evaluation_set(client: MlflowClient, uri: str, run_id: str) -> EvaluationSet | None:
    """The evaluation set of an MLflow run; None where it has none.

    Raises:
        EvaluationError: it is damaged.
        TrackingError: the store cannot be used.
    """
    if EVALUATION_SET not in {entry.path for entry in called(uri, client.list_artifacts, run_id)}:
        return None
    with tempfile.TemporaryDirectory() as made:
        folder = called(uri, client.download_artifacts, run_id, EVALUATION_SET, made)
        try:
            return EvaluationSet.load(folder)
        except EvaluationError as error:  # which names the folder that is about to go
            raise EvaluationError(f"artefact {EVALUATION_SET} of run {run_id}: {error}") from error


def _run_of(folder: RunFolder, uri: str) -> str:
    record = folder.record
    if record.status != "finished":
        raise RegistryError(f"{folder.path}: the run is {record.status}; continue it with `--job.resume true`")
    if record.mlflow is not None:
        return record.mlflow["run"]
    run = MLflowRun.start(record, folder.path.name, uri, folder)
    run.log_evaluations(folder.evaluations())
    run.finish(record, folder)
    record.write(folder.path)
    return run.run_id


def _logged_model(client: MlflowClient, uri: str, run_id: str, folder: RunFolder | None) -> LoggedModel:
    """The model that the run has logged last, else the one of its folder, which is logged now."""
    from mlflow.entities import LoggedModelStatus

    outputs = called(uri, client.get_run, run_id).outputs
    for output in reversed(outputs.model_outputs if outputs is not None else []):
        model: LoggedModel = called(uri, client.get_logged_model, output.model_id)
        if model.status == LoggedModelStatus.READY:
            return model
    if folder is None or not folder.model.is_dir():
        raise RegistryError(f"run {run_id} has no model in MLflow; name the folder of the run, which is logged then")
    from recsys.tracking.logged_model import log_model

    return called(uri, client.get_logged_model, log_model(folder.model, run_id=run_id, uri=uri).model_id)


def _evaluation_set(client: MlflowClient, uri: str, run_id: str, folder: RunFolder | None) -> str | None:
    """Fingerprint of the evaluation set, which is logged where the MLflow run lacks it; None: there is none."""
    logged = load_evaluation_set(client, uri, run_id)
    own = None if folder is None else folder.evaluation_set
    if logged is not None or own is None or not own.is_dir():
        return None if logged is None else logged.fingerprint
    fingerprint = EvaluationSet.load(own).fingerprint
    called(uri, client.log_artifacts, run_id, str(own), EVALUATION_SET)
    return fingerprint


def _card(client: MlflowClient, uri: str, run_id: str, folder: RunFolder | None, model: str) -> str | None:
    """The model card, as the description of a version; None where the run has none."""
    if folder is not None:
        try:
            return ModelCard.of(folder, uri=model).markdown()
        except (RunError, EvaluationError) as error:  # the version is there already
            warnings.warn(f"version without a card: {error}", stacklevel=3)
            return None
    if MARKDOWN not in {entry.path for entry in called(uri, client.list_artifacts, run_id)}:
        return None
    with tempfile.TemporaryDirectory() as made:
        return Path(called(uri, client.download_artifacts, run_id, MARKDOWN, made)).read_text(encoding="utf-8")
