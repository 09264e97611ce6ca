"""What says that a folder of lists is complete, and whether it still is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from recsys.candidates.files import JobError
from recsys.candidates.job import MANIFEST
from recsys.candidates.records import PartRecord
from recsys.models.artefact import file_sha256


class Manifest(BaseModel):
    """What stands in `manifest.json`.

    Attributes:
        version: of this format.
        name: of the job.
        generated_at: when the job was begun; stands in every row.
        model_version: likewise.
        k: items that each user was to get.
        users: who were asked for.
        rows: of all lists.
        parts: number of them.
        counts: what happened, of all parts and inputs; `short_<reason>` counts users with fewer than k items.
        measured: by sources, such as the recall of an index.
        files: SHA-256 of every other file, by its path in the folder.
        identity: every input and setting that decided what was written.
        config: what was asked.
        previous: the job whose lists were kept where nothing had changed; None: none.
        seconds: of each step, of all threads and processes together.
        versions: of the stack.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str
    generated_at: str
    model_version: str
    k: int
    users: int
    rows: int
    parts: int
    counts: dict[str, int]
    measured: dict[str, float] = {}
    files: dict[str, str]
    identity: dict[str, str]
    config: dict[str, Any]
    previous: str | None
    seconds: dict[str, float]
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest of a folder; `damaged` looks at the files.

        Raises:
            JobError: there is none, or not one of this version.
        """
        try:
            return cls.model_validate_json((folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise JobError(f"{folder}: not complete ({MANIFEST} is missing); start its job again") from None
        except ValidationError as error:
            raise JobError(f"{folder / MANIFEST}: not a manifest of this version: {error}") from None

    def damaged(self, folder: Path) -> list[str]:
        """The files that are missing or altered."""
        return [name for name, expected in self.files.items() if not holds(folder / name, expected)]


def holds(path: Path, expected: str) -> bool:
    """Whether a file is there with the content of a SHA-256."""
    return path.is_file() and file_sha256(path) == expected


def totals(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sums by name."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            found[name] = round(found.get(name, 0) + value, 3)
    return dict(sorted(found.items()))


def files_of(records: Sequence[PartRecord]) -> dict[str, str]:
    """The files of all parts, with their hashes."""
    return {name: digest for record in records for name, digest in record.files.items()}
