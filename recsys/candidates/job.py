"""A job that has begun: what it was begun with, and where its files lie.

- `job.json`: what was asked, with which inputs, since when; written first
- `inputs/`: users, lists and what sources need, until the job is complete
- `part-00000.parquet`, ...: the lists, a row for each user and rank
- `users/part-00000.parquet`, ...: a row for each user: how many items, why not more, and a hash of the history
- `parts/part-00000.json`, ...: the record of each finished part, written after its files
- `manifest.json`: written last; with it the folder is complete
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.candidates.config import JobConfig
from recsys.candidates.files import JobError

FORMAT_VERSION = 1
JOB, MANIFEST = "job.json", "manifest.json"


@dataclass(frozen=True)
class Job:
    """What stands in `job.json`.

    Attributes:
        folder: of the job.
        config: what was asked.
        identity: every input and setting that decides what is written, by name, as text.
        generated_at: when it was begun, UTC, ISO 8601 to the microsecond.
        model_folder: of the bundle.
        model_version: as it stands in the lists.
    """

    folder: Path
    config: JobConfig
    identity: dict[str, str]
    generated_at: str
    model_folder: str
    model_version: str

    @property
    def path(self) -> Path:
        """Of `job.json`."""
        return self.folder / JOB

    @property
    def inputs(self) -> Path:
        """Folder of what was made ready."""
        return self.folder / "inputs"

    @property
    def manifest(self) -> Path:
        """Of the manifest."""
        return self.folder / MANIFEST

    def source(self, place: int) -> Path:
        """Folder of its own for a source."""
        return self.inputs / f"source-{place}"

    def record(self, part: int) -> Path:
        """Of the record of a part."""
        return self.folder / "parts" / f"{part_name(part)}.json"

    def text(self) -> str:
        """As JSON."""
        content: dict[str, Any] = {field: getattr(self, field) for field in self.__dataclass_fields__}
        content |= {"format": FORMAT_VERSION, "config": self.config.plain()}
        del content["folder"]
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Job:
        """Reads what `text` gave.

        Raises:
            JobError: the file holds something else.
        """
        try:
            content = json.loads(path.read_bytes())
            version = content.pop("format")
            if version == FORMAT_VERSION:
                return cls(folder=path.parent, **content | {"config": JobConfig.of(content["config"])})
        except JobError:  # of the configuration, which says what is wrong with it
            raise
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise JobError(f"{path}: no job here ({error}); remove its folder, or choose another --name") from None
        raise JobError(f"{path}: begun by another version of this package (format {version}); choose another --name")


def part_name(part: int) -> str:
    """The name of a part, without its suffix."""
    return f"part-{part:05d}"
