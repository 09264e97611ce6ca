"""Small files that appear complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file under a hidden temporary name, which it is renamed from.

    Args:
        path: of the file, in a folder that is there; what it holds is replaced.
        content: text, written as UTF-8, or bytes.
        mode: of the file, before the mask of the process.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.touch(mode)
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    unfinished.replace(path)
