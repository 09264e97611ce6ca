"""The files of an MLflow model in a store: how large they are, and whether they are those that were registered."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from recsys.models.artefact import MANIFEST, Manifest, file_sha256
from recsys.tracking.registry import Registry
from recsys.tracking.registry_calls import RegistryError, called

FILES = "recsys.files_sha256"
"""Tag of a version: hash of the files that it was registered with, see `files_digest`."""
_BUNDLE = "artifacts/bundle"
_ADDED = "registered_model_meta"  # by MLflow, when it loads a model from a folder


def sizes(uri: str, tracking_uri: str) -> dict[str, int | None]:
    """Bytes of each file of an MLflow model, by path; None where the store of files does not tell.

    No file is fetched for it.

    Args:
        uri: of the model.
        tracking_uri: of the store.

    Raises:
        TrackingError: the store cannot be used.
    """
    from mlflow.artifacts import list_artifacts

    found: dict[str, int | None] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        for entry in called(tracking_uri, list_artifacts, artifact_uri=uri + folder, tracking_uri=tracking_uri):
            place = f"{folder}/{entry.path.rpartition('/')[2]}"
            if entry.is_dir:
                folders.append(place)
            else:
                found[place[1:]] = None if entry.file_size is None else int(entry.file_size)
    return found


def files_digest(uri: str, tracking_uri: str) -> str:
    """SHA-256 over names and contents of the files of an MLflow model.

    What the manifest of a saved model lists is covered by the hashes there, which loading checks, and is not fetched.

    Args:
        uri: of the model.
        tracking_uri: of the store.

    Raises:
        RegistryError: it has no files.
        TrackingError: the store cannot be used.
    """
    from mlflow.artifacts import download_artifacts

    names = {name for name in sizes(uri, tracking_uri) if name != _ADDED}
    if not names:
        raise RegistryError(f"{uri}: the model has no files in the store; bring them back, or log the model again")
    with tempfile.TemporaryDirectory() as made:

        def fetched(name: str) -> Path:
            place = {"artifact_uri": f"{uri}/{name}", "dst_path": made, "tracking_uri": tracking_uri}
            return Path(called(tracking_uri, download_artifacts, **place))

        manifest = f"{_BUNDLE}/{MANIFEST}"
        if manifest in names:
            with suppress(ValidationError):  # what is no manifest covers nothing
                listed = Manifest.model_validate_json(fetched(manifest).read_bytes()).files
                names -= {f"{_BUNDLE}/{name}" for name in listed}
        hashes = {name: file_sha256(fetched(name)) for name in sorted(names)}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def check_files(registry: Registry, version: str) -> None:
    """Sees that a version has the files that it was registered with; says nothing of one that was not tagged then.

    Raises:
        RegistryError: it has others, or there is no such version.
        TrackingError: the store cannot be used.
    """
    expected = registry.version(version).tags.get(FILES)
    if expected is not None and files_digest(f"models:/{registry.name}/{version}", registry.uri) != expected:
        raise RegistryError(
            f"version {version} of `{registry.name}`: its files are not those that were registered; bring them back "
            "from a backup, or register the run again"
        )
