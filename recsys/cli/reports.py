"""Where the reports of commands go: a folder, the terminal, MLflow."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recsys.tracking.files import write_whole

if TYPE_CHECKING:
    from recsys.documents.document import Document

REPORT, NUMBERS = "report.html", "report.json"


class Written(NamedTuple):
    """A report on disk.

    Attributes:
        page: for people.
        numbers: the same as JSON.
        text: of the JSON.
    """

    page: Path
    numbers: Path
    text: str


def write_report(folder: str | None, kind: str, document: Document, content: Mapping[str, Any]) -> Written:
    """Writes `report.html` and `report.json`.

    Args:
        folder: where to; None: a new folder under `runs`.
        kind: how such a folder begins.
        document: for people.
        content: JSON.
    """
    from recsys.documents.page import to_page

    place = Path(folder or f"runs/{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(place / NUMBERS, text)
    write_whole(place / REPORT, to_page(document, limit=sys.maxsize))
    return Written(place / REPORT, place / NUMBERS, text)


def plain(value: Any) -> Any:
    """Nested settings as JSON has them."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
