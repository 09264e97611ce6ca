"""What a saved model tells of itself without being loaded, however large it is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from recsys.features.schema import Schema, SchemaError
from recsys.models.artefact import MANIFEST, WEIGHTS, ArtefactError, Manifest
from recsys.tracking.bundle import SCHEMA, USERS


@dataclass(frozen=True)
class SavedModel:
    """A model folder as its manifest and the heads of its files describe it; hashes are not checked.

    Attributes:
        class_path: import path of the model's class.
        size_bytes: of all files.
        values: numbers in the weights, parameters and buffers.
        schema: of the log that trained it.
        names_users: whether raw ids of users are among the files.
    """

    class_path: str
    size_bytes: int
    values: int
    schema: Schema
    names_users: bool

    @classmethod
    def read(cls, folder: Path) -> SavedModel:
        """Reads manifest, schema and the head of the weights.

        Raises:
            ArtefactError: one of them is missing or cannot be read.
        """
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
            schema = Schema.parse(json.loads((folder / SCHEMA).read_bytes()), origin=str(folder / SCHEMA))
            with safe_open(folder / WEIGHTS, framework="numpy") as weights:
                values = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except OSError as error:
            raise ArtefactError(f"{folder}: no complete model here ({error})") from error
        except (ValidationError, SchemaError, SafetensorError, json.JSONDecodeError) as error:
            raise ArtefactError(f"{folder}: damaged ({error})") from error
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return cls(manifest.class_path, size, values, schema, (folder / USERS).is_file())
