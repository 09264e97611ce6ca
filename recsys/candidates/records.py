"""What is written of a finished part, and of a finished job."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PartRecord:
    """A finished part of a job.

    Attributes:
        part: its number.
        users: in it.
        rows: of its lists.
        files: SHA-256 of what was written, by path in the folder of the job.
        counts: what happened, such as `cold` users; `short_<reason>` counts users with fewer than k items.
        seconds: how long each step took, of all threads together.
    """

    part: int
    users: int
    rows: int
    files: dict[str, str]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> PartRecord:
        """Reads what `text` gave.

        Raises:
            ValueError: the file holds something else.
        """
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        try:
            return cls(**content)
        except TypeError as error:
            raise ValueError(f"{path}: no record of a part ({error})") from None
