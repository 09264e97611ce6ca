"""Files that are whole and on the disk before anything relies on them, and the lock of an output folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recsys.features.disk import sync_folder

LOCK = ".lock"


class JobError(ValueError):
    """A candidate job that cannot be begun or continued; the message names what, where and the remedy."""


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_durable(path: Path, content: bytes | str) -> None:
    """Writes a file under a hidden temporary name, brings it to the disk, and gives it its name.

    Whoever finds the file under its name finds all of it, after a crash of the machine too.

    Args:
        path: of the file, in a folder that is there; what it holds is replaced.
        content: text, written as UTF-8, or bytes.

    Raises:
        JobError: it cannot be written, because the disk is full, for one.
    """
    unfinished = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise not_written(path, error) from error


def rename_durable(unfinished: Path, path: Path) -> None:
    """Brings a file that something else has written to the disk, and gives it its name.

    Raises:
        OSError: the system does not do it.
    """
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def not_written(path: Path, error: OSError) -> JobError:
    """The error to raise when the system does not write a file."""
    return JobError(
        f"{path}: cannot be written ({error.strerror or error}); make room there, or mend its rights, and start the "
        "same command again: finished parts are kept"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of an output folder; the system gives it back when its holder dies, however it dies.

    Raises:
        JobError: another process holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise not_written(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise JobError(
                f"{folder}: {holder} is writing here; wait until it has ended, or choose another folder with --out"
            ) from None
        except OSError as error:
            raise JobError(
                f"{folder}: its file system has no locks ({error.strerror}); two jobs could write at once. Write to "
                "another one with --out"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
