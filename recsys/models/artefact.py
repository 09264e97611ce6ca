"""A model in a folder: manifest, configuration, weights, and whatever else is needed to serve it. No pickle.

The manifest holds the SHA-256 of every file, so that a damaged or altered file is refused. A hash does not tell who
wrote the folder: the manifest names a class, and loading imports its module. Load only what you trust.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file

from recsys.features.disk import sync_folder, sync_tree
from recsys.models.recommender import Recommender

MANIFEST, CONFIG, WEIGHTS = "manifest.json", "config.json", "weights.safetensors"


class ArtefactError(ValueError):
    """A model folder that cannot be written or trusted; the message names the folder and the file."""


class Manifest(BaseModel):
    """What stands in `manifest.json`.

    Attributes:
        version: of this format.
        class_path: import path of the model's class.
        torch: version of torch that wrote the weights.
        files: SHA-256 of every other file, by its path relative to the folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    class_path: str
    torch: str
    files: dict[str, str]


def save_model(model: Recommender, folder: str | Path, extras: Mapping[str, bytes | Path] | None = None) -> Manifest:
    """Writes a model to a folder, which appears complete or not at all, after a power cut too.

    A model saved there before is renamed away just before the new one takes its name; a process killed between the
    two renames leaves the old one beside it as `.<name>.*.old`.

    Args:
        model: a fitted or trained model whose class can be imported.
        folder: where to; a model saved there before is replaced.
        extras: further files by relative path, as bytes or as the file to copy (schema, vocabularies).

    Returns:
        The manifest that was written.

    Raises:
        ArtefactError: `folder` holds something other than a model, the class cannot be imported elsewhere, the
            configuration is not JSON, or the name of an extra file is not a plain relative path.
    """
    folder = Path(folder).absolute()
    class_path = _class_path(type(model))
    config = _config_bytes(model)
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtefactError(f"{folder}: exists and is no saved model; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        (temporary / CONFIG).write_bytes(config)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state().items()}
        save_file(weights, str(temporary / WEIGHTS))
        for name, source in (extras or {}).items():
            _write_extra(temporary / _checked_name(name, folder), source)
        names = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
        files = {name: file_sha256(temporary / name) for name in names}
        manifest = Manifest(class_path=class_path, torch=torch.__version__, files=files)
        (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes a private folder
        sync_tree(temporary)  # before what is there may go
        _put_in_place(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """Reads the manifest and checks every file it lists.

    Raises:
        ArtefactError: there is no manifest, it cannot be read, or a file is missing or altered.
    """
    folder = Path(folder)
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ArtefactError(f"{folder}: no saved model here ({MANIFEST} is missing)") from None
    except ValidationError as error:
        raise ArtefactError(f"{folder / MANIFEST}: not a manifest of this version: {error}") from None
    for name in (CONFIG, WEIGHTS):
        if name not in manifest.files:
            raise ArtefactError(f"{folder / MANIFEST}: lists no {name}; save the model again")
    for name, expected in manifest.files.items():
        path = folder / _relative(name, folder)
        if not path.is_file():
            raise ArtefactError(f"{path}: missing; copy the folder again or save the model again")
        if file_sha256(path) != expected:
            raise ArtefactError(f"{path}: altered since it was saved (SHA-256 differs); save the model again")
    return manifest


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Recommender:
    """Loads a model that `save_model` wrote, after checking every file.

    Args:
        folder: the model's folder.
        device: where the weights go.

    Raises:
        ArtefactError: a file is missing or altered, or the class cannot be imported or is no `Recommender`.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    model_class = _import(manifest.class_path, folder)
    config = json.loads((folder / CONFIG).read_bytes())
    return model_class.from_state(config, load_file(str(folder / WEIGHTS), device=str(device)))


def _class_path(model_class: type) -> str:
    module, name = model_class.__module__, model_class.__qualname__
    if module == "__main__" or "." in name:
        raise ArtefactError(f"{module}.{name}: not importable elsewhere; define the class at the top level of a module")
    return f"{module}.{name}"


def _config_bytes(model: Recommender) -> bytes:
    try:
        return (json.dumps(model.config(), indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"{type(model).__name__}.config() is not JSON: {error}") from error


def _import(class_path: str, folder: Path) -> type[Recommender]:
    module, _, name = class_path.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArtefactError(
            f"{folder}: the model's class {class_path} cannot be imported ({error}); install the package it came from"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Recommender)):
        raise ArtefactError(f"{folder}: {class_path} is no Recommender; refused")
    return found


def _relative(name: str, folder: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ArtefactError(f"{folder}: `{name}` is not a plain relative path")
    return path


def _checked_name(name: str, folder: Path) -> PurePosixPath:
    path = _relative(name, folder)
    if str(path) in (MANIFEST, CONFIG, WEIGHTS):
        raise ArtefactError(f"{folder}: the name `{name}` is taken by the model itself")
    return path


def _write_extra(path: Path, source: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        path.write_bytes(source)
    else:
        shutil.copyfile(source, path)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Renames `temporary` to `folder`; what stood there is moved aside first and put back if that fails."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    os.replace(folder, aside / folder.name)
    try:
        os.replace(temporary, folder)
    except OSError:
        os.replace(aside / folder.name, folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
