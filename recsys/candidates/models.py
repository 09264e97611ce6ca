"""Where the model of a job comes from: the folder of a run, the folder of a model, or the registry."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from recsys.candidates.files import JobError
from recsys.models.artefact import MANIFEST, file_sha256
from recsys.tracking.record import RUN, RunError
from recsys.tracking.run_folder import RunFolder

REGISTERED = "models:/"
_BUNDLE = "artifacts/bundle"


class ModelFiles(NamedTuple):
    """A saved model.

    Attributes:
        folder: of its bundle.
        version: as it stands in the lists: the version of a registered model, else the start of the digest.
        digest: SHA-256 of its manifest, which has the hashes of all its files.
    """

    folder: Path
    version: str
    digest: str


def find_model(name: str, download: Path) -> ModelFiles:
    """Finds a saved model; one from the registry is fetched.

    Args:
        name: folder of a run or of a model, or `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        download: a folder that gets the files of a registered model; those that are there from before are used.

    Raises:
        JobError: there is no such model.
        RegistryError: the registry has no such version, or its files are not those that were registered.
        TrackingError: the registry cannot be used.
    """
    if name.startswith(REGISTERED):
        return _registered(name, download)
    run = RunFolder(Path(name))
    if (run.path / RUN).is_file() and not run.model.is_dir():
        raise RunError(f"{run.path}: no saved model (the run is {run.record.status}); `recsys fit` saves one")
    folder = run.model if run.model.is_dir() else run.path
    if not (folder / MANIFEST).is_file():
        raise JobError(
            f"{name}: no run and no saved model here; name the folder of a run or of a model, or "
            f"{REGISTERED}NAME@champion"
        )
    digest = file_sha256(folder / MANIFEST)
    return ModelFiles(folder.absolute(), digest[:12], digest)


def _registered(name: str, download: Path) -> ModelFiles:
    from mlflow.artifacts import download_artifacts

    from recsys.tracking.model_files import check_files
    from recsys.tracking.registry import Registry
    from recsys.tracking.registry_calls import called, default_store

    path = name.removeprefix(REGISTERED)
    model, at, alias = path.rpartition("@")
    if not at:
        model, _, version = path.rpartition("/")
        if not (model and version.isdecimal()):
            raise JobError(f"{name}: a registered model is named {REGISTERED}NAME@ALIAS or {REGISTERED}NAME/VERSION")
        registry = Registry.open(model)
    else:
        registry = Registry.open(model)
        aliases = registry.aliases()
        if alias not in aliases:
            there = ", ".join(f"`{found}`" for found in sorted(aliases)) or "none"
            raise JobError(f"{name}: `{model}` has no alias `{alias}`, but {there}; `recsys registry promote` sets it")
        version = aliases[alias]
    with default_store(registry.uri):
        check_files(registry, version)
    folder = download / f"{model}-{version}"
    bundle = folder / _BUNDLE
    if not folder.is_dir():
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        place = {"artifact_uri": f"{REGISTERED}{model}/{version}", "dst_path": str(unfinished)}
        with default_store(registry.uri):
            called(registry.uri, download_artifacts, **place, tracking_uri=registry.uri)
        unfinished.rename(folder)
    if not (bundle / MANIFEST).is_file():
        raise JobError(f"{name}: version {version} holds no model of this package ({_BUNDLE} is missing)")
    return ModelFiles(bundle.absolute(), f"{model}/{version}", file_sha256(bundle / MANIFEST))
