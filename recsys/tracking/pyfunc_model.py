"""What MLflow calls when it serves a logged model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME

from recsys.models.artefact import MANIFEST
from recsys.tracking.bundle import Bundle, QueryError
from recsys.tracking.bundle_server import BundleServer, ServingParams
from recsys.tracking.serving_requests import ServingError

BUNDLE = "bundle"
"""Name of the artefact that holds the model."""


class LoggedModel(PythonModel):
    """A bundle behind the interface of `mlflow.pyfunc`; `mlflow.pyfunc.load_model` makes and loads it.

    Attributes:
        server: that answers, once the model is loaded.
    """

    server: BundleServer

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the bundle.

        Raises:
            ArtefactError: a file is missing or altered, or the model's class cannot be imported.
        """
        folder = Path(context.artifacts[BUNDLE])
        self.server = BundleServer(Bundle.load(folder), model_version(folder))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answers the rows of a frame; see `BundleServer.answer`.

        Raises:
            MlflowException: a request cannot be answered; a server sends its message with status 400.
        """
        try:
            return self.server.answer(model_input, ServingParams(**(params or {})))
        except (ServingError, QueryError) as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


def model_version(bundle: Path) -> str:
    """What a logged model is called in its answers.

    Args:
        bundle: its folder, in the folder that MLflow has loaded.

    Returns:
        The registered version, when it was loaded by the name or an alias of one; else the id of the logged model; else
        the first 16 digits of the SHA-256 of the manifest.
    """
    root = bundle.parents[1]
    registered = root / REGISTERED_MODEL_META_FILE_NAME
    if registered.is_file():
        version = yaml.safe_load(registered.read_text(encoding="utf-8"))["model_version"]
        if version is not None:
            return str(version)
    logged: str | None = Model.load(str(root / MLMODEL_FILE_NAME)).model_id
    return logged or hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()[:16]
