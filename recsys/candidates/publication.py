"""Which of the complete jobs of an output is the one to read: one small file, switched whole, with its history.

Whoever reads lists asks `current` for the folder; so this module imports neither torch nor the job.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from recsys.candidates.files import JobError, not_written, write_durable

POINTER, _LOCK = "current.json", ".publication.lock"
_SHOWN = 3


class PublicationError(JobError):
    """A job that cannot be published or gone back to; the message says why, and what to do."""


@dataclass(frozen=True)
class Event:
    """A move of the pointer.

    Attributes:
        what: it was.
        name: of the job that is read since.
        instead_of: name of the job that was read before; None: none.
        at: when, UTC, ISO 8601.
    """

    what: Literal["published", "rolled back"]
    name: str
    instead_of: str | None
    at: str


@dataclass(frozen=True)
class Publications:
    """What stands in `current.json`.

    Attributes:
        current: name of the job to read; None: none was published.
        before: jobs that can be gone back to, oldest first, the current one left out.
        dropped: jobs that are being removed.
        events: every move of the pointer, oldest first.
    """

    current: str | None = None
    before: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()

    @classmethod
    def read(cls, out: Path) -> Publications:
        """Reads the pointer of an output; whoever reads while it is switched gets the old or the new one.

        Raises:
            PublicationError: the file holds something else.
        """
        try:
            content = json.loads((out / POINTER).read_bytes())
            events = tuple(Event(**event) for event in content["events"])
            return cls(content["current"], tuple(content["before"]), tuple(content["dropped"]), events)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PublicationError(
                f"{out / POINTER}: cannot be read ({error}); remove it and publish the job to read again"
            ) from None

    def write(self, out: Path) -> None:
        """Switches the pointer of an output: written beside it, brought to the disk, renamed."""
        write_durable(out / POINTER, json.dumps(asdict(self), indent=2) + "\n")

    def moved(self, what: Literal["published", "rolled back"], name: str, before: tuple[str, ...]) -> Publications:
        """With another job to read, which is noted."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        dropped = tuple(other for other in self.dropped if other != name)
        return Publications(name, before, dropped, (*self.events, Event(what, name, self.current, at)))


def current(out: Path) -> str | None:
    """Name of the published job of an output, whose folder is `out / name`; None: none is.

    Raises:
        PublicationError: the pointer cannot be read.
    """
    return Publications.read(out).current


def publish(out: Path, name: str, keep: int | None = None) -> None:
    """Makes a complete job the one to read; publishing it twice is publishing it once.

    Args:
        out: folder of all jobs.
        name: of the job.
        keep: jobs that are kept to be read or gone back to, this one among them; folders of those that were published
            before them are removed. Jobs that were never published, or from which somebody has gone back, are left
            alone. None: all are kept.

    Raises:
        PublicationError: the job is not complete, a file of it is missing or altered, or `keep` is less than 1.
        JobError: the pointer cannot be written.
    """
    if keep is not None and keep < 1:
        raise PublicationError(f"keep {keep}: the published job at least must be kept")
    with _locked(out):
        _check(out, name)
        found = Publications.read(out)
        if found.current != name:
            before = tuple(other for other in (*found.before, found.current) if other not in (None, name))
            found = found.moved("published", name, before)
        if keep is not None:
            n = max(len(found.before) - keep + 1, 0)
            found = replace(found, before=found.before[n:], dropped=(*found.dropped, *found.before[:n]))
        found.write(out)  # before anything is removed, so that no reader is sent to what is half removed
        if found.dropped:
            for dropped in found.dropped:
                _manifest_of(out / dropped).unlink(missing_ok=True)  # first: what is half removed is not complete
                shutil.rmtree(out / dropped, ignore_errors=True)
            # What could not be removed is tried again next time.
            replace(found, dropped=tuple(name for name in found.dropped if (out / name).exists())).write(out)


def rollback(out: Path) -> str:
    """Goes back to the job that was published before the current one.

    Returns:
        Its name.

    Raises:
        PublicationError: there is none, or it is not complete any more.
        JobError: the pointer cannot be written.
    """
    if not out.is_dir():
        raise PublicationError(f"{out}: no such folder")
    with _locked(out):
        found = Publications.read(out)
        if found.current is None:
            raise PublicationError(
                f"{out}: nothing is published here, and nothing can be gone back to; `--publish` makes complete lists "
                "the ones to read"
            )
        if not found.before:
            raise PublicationError(
                f"{out}: nothing was published before {found.current}; the command of another complete job makes it "
                "the one to read, with --publish"
            )
        *before, name = found.before
        _check(out, name)
        found.moved("rolled back", name, tuple(before)).write(out)
    return name


def _check(out: Path, name: str) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise PublicationError(f"`{name}` is no name of a job in {out}")
    from recsys.candidates.manifest import Manifest

    try:
        damaged = Manifest.read(out / name).damaged(out / name)
    except JobError as error:
        raise PublicationError(str(error)) from None
    if damaged:
        more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise PublicationError(
            f"{out / name}: {', '.join(damaged[:_SHOWN])}{more}: missing or altered since written; start its job "
            "again, which makes such parts again"
        )


def _manifest_of(folder: Path) -> Path:
    from recsys.candidates.job import MANIFEST

    return folder / MANIFEST


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Waits for the right to move the pointer. Not the lock of jobs: a job publishes while it holds that one."""
    try:
        file = (out / _LOCK).open("a")
    except OSError as error:
        raise not_written(out / _LOCK, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
