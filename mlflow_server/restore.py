"""Brings a backup into an empty server: a database without tables, a bucket without files.

    python restore.py /backups/20260131T020000Z

The server must not have been started on them, for it makes its tables at once. A backup that was altered is refused by
its hashes, and nothing is ever written over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import mlflow
from backup import ARTIFACTS, DUMP, FORMAT, MANIFEST
from maintenance import FILES, STORE, alone, database, digest, files, variable


def checked(place: Path) -> dict[str, str]:
    """The manifest of a backup that is whole; ends the program where it is not."""
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{place}: no backup, or a damaged one ({error})")
    if manifest["format"] != FORMAT:
        sys.exit(f"{place}: written in format {manifest['format']}, this version reads {FORMAT}")
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} - {MANIFEST}
    hashes = manifest.pop("sha256")
    wrong = found ^ set(hashes) or {name for name in found if digest(place / name) != hashes[name]}
    if wrong:
        sys.exit(f"{place}: not as it was saved: {', '.join(sorted(wrong)[:5])}; take another backup")
    return manifest


def restore(place: Path) -> None:
    """Brings the backup back; the files first, so that the database never refers to one that is not there."""
    manifest = checked(place)
    with alone() as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        if tables != (0,):
            sys.exit(f"the database of {STORE} has tables; a backup is brought into an empty one only")
        if files().list_artifacts():
            sys.exit(f"{variable(FILES)} ({FILES}) holds files; a backup is brought into an empty one only")
        files().log_artifacts(str(place / ARTIFACTS))
        subprocess.run(
            ["pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges",
             f"--dbname={database()}", str(place / DUMP)],
            check=True,
        )  # fmt: skip
    if manifest["mlflow"] != mlflow.__version__:
        print(f'saved by MLflow {manifest["mlflow"]}: run `mlflow db upgrade "${STORE}"` before the server starts')


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backup", type=Path, help="folder of the backup")
    restore(parser.parse_args().backup)


if __name__ == "__main__":
    main()
