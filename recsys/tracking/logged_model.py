"""A saved model as MLflow has them: logged, registered, served and loaded by its own tools."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from recsys.features.vocabulary import Vocabulary
from recsys.models.artefact import MANIFEST, ArtefactError, read_manifest
from recsys.tracking.bundle import ITEMS, SCHEMA, SERVING
from recsys.tracking.mlflow_store import experiment_id, explained, open_client, quiet, tracking_uri

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo
    from mlflow.tracking import MlflowClient

NAME = "model"
_CODE = Path(__file__).with_name("model_from_code.py")
_EXAMPLE_ITEMS = 3
_NEEDED = (
    "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "mlflow", "numpy", "pandas", "pyarrow", "safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class SavedBundle:
    """The folder of a saved model, every file of which has been checked.

    Attributes:
        folder: where it is.
        files: what belongs to it, paths relative to the folder.
        facts: what its MLflow metadata say: `fingerprint` of the log and `split_hash` of the split that trained it,
            `model_class` (import path) and `size_bytes` of the files.
    """

    folder: Path
    files: tuple[str, ...]
    facts: dict[str, Any]

    @classmethod
    def of(cls, folder: str | Path) -> SavedBundle:
        """Checks the folder of a `Bundle`.

        Raises:
            ArtefactError: it holds something else, or a file is missing or altered.
        """
        folder = Path(folder).absolute()
        manifest = read_manifest(folder)
        for file in (SERVING, SCHEMA, ITEMS):
            if file not in manifest.files:
                raise ArtefactError(f"{folder / file}: missing; this model was saved without what serving it needs")
        files = (MANIFEST, *manifest.files)
        serving = json.loads((folder / SERVING).read_bytes())
        facts = {
            "fingerprint": serving["fingerprint"],
            "split_hash": serving["split_hash"],
            "model_class": manifest.class_path,
            "size_bytes": sum((folder / name).stat().st_size for name in files),
        }
        return cls(folder, files, facts)


def save_model(folder: str | Path, path: str | Path) -> None:
    """Writes a saved model as an MLflow model, without a store; `mlflow.pyfunc.load_model(path)` loads it.

    Args:
        folder: of a `Bundle`; its files are copied.
        path: where to; must not exist, and appears complete or not at all.

    Raises:
        ArtefactError: `folder` is not a bundle, a file of it is altered, or `path` exists.
    """
    quiet()
    from mlflow.models import Model

    path = Path(path).absolute()
    if path.exists():
        raise ArtefactError(f"{path}: exists; remove it or choose another folder")
    bundle = SavedBundle.of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as made:
        _write(bundle, Path(made) / NAME, Model(), shutil.copyfile)
        (Path(made) / NAME).replace(path)


def log_model(
    folder: str | Path,
    *,
    name: str = NAME,
    run_id: str | None = None,
    registered_model_name: str | None = None,
    uri: str | None = None,
) -> ModelInfo:
    """Logs a saved model to MLflow, and registers it where it is given a name there.

    The store gets every file of the bundle, from where it lies: no copy is made on the way.

    Args:
        folder: of a `Bundle`.
        name: of the logged model.
        run_id: the run that made it; None: an experiment by the name of the log that trained it.
        registered_model_name: where a new version is made; None: nowhere.
        uri: the store; None: see `tracking_uri`.

    Returns:
        What MLflow knows of it: `model_uri`, `model_id`, `signature`, `metadata`, and `registered_model_version`.

    Raises:
        ArtefactError: `folder` is not a bundle, or a file of it is altered.
        TrackingError: the store cannot be used.
    """
    bundle, uri = SavedBundle.of(folder), uri or tracking_uri()
    client = open_client(uri)
    with explained(uri):
        if run_id is not None:
            experiment = client.get_run(run_id).info.experiment_id
        else:
            experiment = experiment_id(client, uri, json.loads((bundle.folder / SCHEMA).read_bytes())["name"])
        info = log_to(client, experiment, bundle, name, run_id)
        if registered_model_name is not None:
            info.registered_model_version = _register(client, info, registered_model_name)
    return info


def log_to(client: MlflowClient, experiment: str, bundle: SavedBundle, name: str, run_id: str | None) -> ModelInfo:
    """Logs a saved model with an open client; see `log_model`.

    Raises:
        MlflowException: the store refuses; the logged model is then marked as failed.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    logged = client.create_logged_model(experiment, name, run_id, model_type=bundle.facts["model_class"])
    model = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
    )
    try:
        with tempfile.TemporaryDirectory() as made:
            _write(bundle, Path(made) / NAME, model, os.symlink)  # stores read through links
            client.log_model_artifacts(logged.model_id, str(Path(made) / NAME))
    except BaseException:
        with suppress(MlflowException):  # the store may be gone
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    logged = client.finalize_logged_model(logged.model_id, "READY")
    if run_id is not None:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return model.get_model_info(logged)


def requirements(model_class: str) -> list[str]:
    """What must be installed where a model is loaded, in the versions that are installed here.

    Args:
        model_class: its import path; a class of another package adds the distribution that it came from.

    Example:
        >>> [line.partition("==")[0] for line in requirements("recsys.models.popularity.Popularity")][:2]
        ['recsys', 'torch']
    """
    top = model_class.partition(".")[0]
    own = [] if top == "recsys" else sorted(set(metadata.packages_distributions().get(top, ())))
    names = ["recsys", *own, *_NEEDED]
    return [f"{name}=={version}" for name in names if (version := _version(name)) is not None]


def signature() -> ModelSignature:
    """Columns and parameters of a request, and columns of an answer, with their types."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    text, number = DataType.string, DataType.long
    inputs: dict[str, DataType | Array] = {
        "user_id": text,
        "history": Array(text),
        "history_times": Array(number),
        "history_queries": Array(text),
        "history_actions": Array(text),
        "query": text,
        "time": number,
        "candidates": Array(text),
    }
    outputs = {
        "request": number,
        "user_id": text,
        "item_id": text,
        "rank": number,
        "score": DataType.double,
        "model_version": text,
    }
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=False) for name, kind in inputs.items()]),
        outputs=Schema([ColSpec(kind, name, required=name != "user_id") for name, kind in outputs.items()]),
        params=ParamSchema(
            [
                ParamSpec("k", number, 10),
                ParamSpec("filter_seen", DataType.boolean, True),
                ParamSpec("retrieve", number, 0),
                ParamSpec("allow", text, [], (-1,)),
                ParamSpec("deny", text, [], (-1,)),
            ]
        ),
    )


def _write(bundle: SavedBundle, path: Path, model: Model, place: Callable[[Path, Path], Any]) -> None:
    """Writes an MLflow model; `place` brings each file of the bundle to where it belongs."""
    from mlflow import pyfunc
    from mlflow.models.model import MLMODEL_FILE_NAME
    from mlflow.pyfunc.model import CONFIG_KEY_ARTIFACT_RELATIVE_PATH, CONFIG_KEY_ARTIFACT_URI, CONFIG_KEY_ARTIFACTS

    from recsys.tracking.pyfunc_model import BUNDLE

    model.metadata = {"recsys": bundle.facts}
    example = pd.DataFrame({"user_id": ["somebody"], "history": [_some_items(bundle.folder)]})
    pyfunc.save_model(
        str(path),
        python_model=str(_CODE),
        mlflow_model=model,
        signature=signature(),
        input_example=(example, {"k": 10}),
        pip_requirements=requirements(bundle.facts["model_class"]),
    )
    within = f"artifacts/{BUNDLE}"
    for name in bundle.files:
        target = path / within / name
        target.parent.mkdir(parents=True, exist_ok=True)
        place(bundle.folder / name, target)
    # What `save_model(artifacts=...)` writes, which would copy the files twice, and without paths of this machine.
    model.flavors[pyfunc.FLAVOR_NAME] |= {
        CONFIG_KEY_ARTIFACTS: {BUNDLE: {CONFIG_KEY_ARTIFACT_RELATIVE_PATH: within, CONFIG_KEY_ARTIFACT_URI: within}},
        pyfunc.MODEL_CODE_PATH: _CODE.name,
    }
    model.model_size_bytes = bundle.facts["size_bytes"]
    model.save(str(path / MLMODEL_FILE_NAME))


def _register(client: MlflowClient, info: ModelInfo, name: str) -> int:
    """A new version of a registered model, which is made where it does not exist."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    return int(client.create_model_version(name, info.model_uri, info.run_id, model_id=info.model_id).version)


def _some_items(folder: Path) -> list[str]:
    """Raw ids for an example; of users there are none in it: who trained a model is nobody else's business."""
    return [str(value) for value in Vocabulary.load(folder / ITEMS).values[:_EXAMPLE_ITEMS]]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
