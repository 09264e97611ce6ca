"""What is written is on the disk, and not in a buffer that a power cut empties."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Brings a folder to the disk, with all files and folders in it."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
