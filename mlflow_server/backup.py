"""Saves the server: the database, then the files, into a folder that is named when both are complete.

    python backup.py /backups                 # makes /backups/20260131T020000Z
    python backup.py /backups --keep 14       # and removes all but the newest 14

The server goes on meanwhile. Files are written before the database refers to them and none is removed during a backup,
so that every file which the saved database knows is saved with it; files of runs that go on may be newer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from maintenance import alone, database, digest, files

DUMP, ARTIFACTS, MANIFEST = "database.dump", "artifacts", "manifest.json"
FORMAT = 1


def save(target: Path, keep: int | None = None) -> Path:
    """Makes a backup in `target` and gives its folder; then removes all but the newest `keep`, None keeps all."""
    taken = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    place, part = target / taken, target / f".{taken}.part"
    with alone():
        part.mkdir(parents=True, mode=0o700)  # the dump holds accounts
        (part / ARTIFACTS).mkdir()
        subprocess.run(
            ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={part / DUMP}", database()],
            check=True,
        )
        if files().list_artifacts():
            files().download_artifacts("", dst_path=str(part / ARTIFACTS))
        names = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
        content = {
            "format": FORMAT,
            "taken": taken,
            "mlflow": mlflow.__version__,
            "sha256": {name: digest(part / name) for name in names},
        }
        (part / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.sync()
        part.rename(place)
        if keep is not None:
            prune(target, keep)
    return place


def prune(target: Path, keep: int) -> None:
    """Removes all backups but the newest `keep`, and what backups that did not end have left."""
    for part in target.glob(".*Z.part"):
        shutil.rmtree(part)
    for place in sorted(path.parent for path in target.glob(f"*Z/{MANIFEST}"))[:-keep]:
        shutil.rmtree(place)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder of the backups")
    parser.add_argument("--keep", type=int, help="how many to keep; default: all")
    given = parser.parse_args()
    if given.keep is not None and given.keep < 1:
        parser.error("--keep must be at least 1")
    print(save(given.target, given.keep))


if __name__ == "__main__":
    main()
