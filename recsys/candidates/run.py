"""Runs a candidate job to its end, or takes up one that was ended before it."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from recsys.candidates.config import JobConfig
from recsys.candidates.engine import Engine, InProcess
from recsys.candidates.files import JobError, locked, not_written, write_durable
from recsys.candidates.job import JOB, MANIFEST, Job
from recsys.candidates.log_source import log_fingerprint
from recsys.candidates.manifest import Manifest, files_of, holds, totals
from recsys.candidates.models import ModelFiles, find_model
from recsys.candidates.part import make_part
from recsys.candidates.records import PartRecord
from recsys.candidates.staging import STAGED, Staged, stage, unstage
from recsys.features.progress import Progress
from recsys.features.schema import Schema
from recsys.models.artefact import file_sha256
from recsys.tracking.bundle import SCHEMA
from recsys.tracking.environment import versions

_SHOWN = 3


@dataclass(frozen=True)
class Outcome:
    """How a job has ended.

    Attributes:
        folder: of its files.
        manifest: of the complete folder.
        made: parts that this start has made; the others were there.
        seconds: that this start took.
    """

    folder: Path
    manifest: Manifest
    made: int
    seconds: float


def run_job(
    config: JobConfig,
    engine: Engine | None = None,
    *,
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> Outcome:
    """Makes the lists of a job, from where an earlier start of the same job has left off.

    Args:
        config: what is asked.
        engine: makes the parts; None: this process.
        progress: told of users whose lists are there.
        check: called with the complete folder while nobody else can write to the output; to publish it, for one.

    Raises:
        JobError: another job writes to the output, the folder was begun with other inputs, or something cannot be read
            or written.
        DataError: the log cannot be used.
    """
    start = time.monotonic()
    out = Path(config.out).absolute()
    with locked(out):
        job = _begun(config, out / config.name)
        outcome = _completed(job, engine or InProcess(), progress, start)
        if check is not None:
            check(job.folder)
    return outcome


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise JobError(
            f"device `{device}`: cannot be used here ({why}): give `cpu`, or `cuda` where there is one"
        ) from None


def _completed(job: Job, engine: Engine, progress: Progress | None, start: float) -> Outcome:
    if job.manifest.is_file():
        manifest = Manifest.read(job.folder)
        damaged = manifest.damaged(job.folder)
        if not damaged:
            unstage(job)
            return Outcome(job.folder, manifest, 0, time.monotonic() - start)
        _warn_damaged(job, damaged)
        job.manifest.unlink()
    _tidy(job)
    _check_device(job.config.device)
    staged = stage(job, progress)
    records = _finished(job, staged)
    missing = [part for part in staged.parts(job) if part not in records]
    done = sum(record.users for record in records.values())
    for record in engine.run(missing, partial(make_part, job.path)):
        records[record.part] = record
        done += record.users
        if progress is not None:
            progress("making lists", done, staged.users)
    manifest = _manifest(job, staged, [records[part] for part in staged.parts(job)])
    write_durable(job.manifest, manifest.model_dump_json(indent=2) + "\n")
    unstage(job)
    return Outcome(job.folder, manifest, len(missing), time.monotonic() - start)


def _begun(config: JobConfig, folder: Path) -> Job:
    """The job of a folder, which is begun where it is not."""
    out, model = folder.parent, find_model(config.model, folder / "inputs" / "model")
    identity = identity_of(config, model, folder)
    if config.previous is not None:
        identity["previous"] = _known_previous(config, folder) or _previous(config, out / config.previous, identity)
    if (folder / JOB).is_file() and (any((folder / "parts").glob("*.json")) or (folder / MANIFEST).is_file()):
        job = Job.read(folder / JOB)
        _check_same(
            job.identity,
            identity,
            f"{folder}: was begun with other inputs",
            "Bring these back to go on, begin another job with --name, or remove the folder",
        )
        again = replace(job, config=config, model_folder=str(model.folder))
        if again.text() != job.text():  # threads, say, that need not be as they were
            write_durable(again.path, again.text())
        return again
    # Where no part was made, nothing can be mixed, and inputs may be mended.
    if folder.is_dir() and not (folder / JOB).is_file() and any(path.name != "inputs" for path in folder.iterdir()):
        raise JobError(f"{folder}: holds something else than a job; choose another --name")
    job = Job(folder, config, identity, _now(), str(model.folder), model.version)
    (job.inputs / STAGED).unlink(missing_ok=True)
    try:
        for name in ("parts", "users"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for path in (*folder.glob("part-*.parquet"), *(folder / "users").glob("part-*.parquet")):
            path.unlink()  # of no record, and perhaps more of them than there will be
    except OSError as error:
        raise not_written(folder, error) from error
    write_durable(job.path, job.text())
    return job


def identity_of(config: JobConfig, model: ModelFiles, folder: Path) -> dict[str, str]:
    """Every input and setting that decides what is written, by name, but for a job that is followed."""
    schema = Schema.parse(json.loads((model.folder / SCHEMA).read_bytes()), origin=str(model.folder / SCHEMA))
    found = {"model": f"{model.version} {model.digest}", "log": log_fingerprint(config.log, schema)}
    for name in ("users", "user_allow", "user_deny"):
        given = getattr(config, name)
        path = Path(given.removeprefix("@")) if given is not None else None
        if path is not None and not path.is_file():
            raise JobError(f"--{name}: {path}: no such file")
        found[name] = "none" if path is None else file_sha256(path)
    for at, source in enumerate(config.opened_sources):
        found[f"source {source.called}"] = source.digest(folder / "inputs" / f"source-{at}")
    return found | config.rules()


_NEWS = ("log", "users", "user_allow", "user_deny", "previous", "users_per_part")
"""What may differ from the previous job: a user's hash tells whether it matters to the user."""


def _known_previous(config: JobConfig, folder: Path) -> str | None:
    """What a complete job has followed, which may be gone since; None: it is not complete, or has followed another."""
    if not (folder / MANIFEST).is_file():
        return None
    job = Job.read(folder / JOB)
    return job.identity["previous"] if job.config.previous == config.previous else None


def _previous(config: JobConfig, folder: Path, identity: dict[str, str]) -> str:
    """Names the previous job by its content.

    Raises:
        JobError: it is not complete, was made in another way, or a source follows the log.
    """
    if config.previous == config.name:
        raise JobError(f"incremental: `{config.name}` is to follow itself; give this job another --name")
    following = [source.called for source in config.opened_sources if source.follows_log]
    if following:
        raise JobError(
            f"incremental: lists of source {', '.join(following)} change with the events of others, so that none can "
            "be kept; leave the source out, or make all lists"
        )
    manifest = Manifest.read(folder)
    _check_same(
        {name: value for name, value in manifest.identity.items() if name not in _NEWS},
        {name: value for name, value in identity.items() if name not in _NEWS},
        f"incremental: {folder} was made in another way",
        "Make all lists, without the previous ones",
    )
    if damaged := manifest.damaged(folder):
        raise JobError(
            f"incremental: {folder / damaged[0]}: missing or altered since written; start that job again, or make all "
            "lists"
        )
    return file_sha256(folder / MANIFEST)


def _check_same(before: dict[str, str], now: dict[str, str], what: str, remedy: str) -> None:
    apart = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if apart:
        shown = (f"`{name}` was {_short(before.get(name))} and is {_short(now.get(name))}" for name in apart[:_SHOWN])
        raise JobError(f"{what}: {'; '.join(shown)}. {remedy}")


def _short(value: str | None, most: int = 60) -> str:
    text = "missing" if value is None else value
    return text if len(text) <= most else f"{text[:most]}..."


def _finished(job: Job, staged: Staged) -> dict[int, PartRecord]:
    """The parts whose files are there and whole; others are made again."""
    found: dict[int, PartRecord] = {}
    damaged = []
    for part in staged.parts(job):
        if not job.record(part).is_file():
            continue
        try:
            record = PartRecord.read(job.record(part))
        except ValueError:
            damaged.append(job.record(part).name)
            continue
        wrong = [name for name, expected in record.files.items() if not holds(job.folder / name, expected)]
        damaged += wrong
        if not wrong:
            found[part] = record
    if damaged:
        _warn_damaged(job, damaged)
    return found


def _warn_damaged(job: Job, names: list[str]) -> None:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    warnings.warn(
        f"{job.folder}: {', '.join(names[:_SHOWN])}{more}: missing or altered since written; such parts are made again",
        stacklevel=2,
    )


def _tidy(job: Job) -> None:
    """Removes what killed processes have left unfinished."""
    for folder in (job.folder, job.folder / "users", job.folder / "parts"):
        for path in folder.glob(".*"):
            if not path.is_dir():
                path.unlink(missing_ok=True)
    if not (job.inputs / STAGED).is_file():
        for path in job.inputs.glob("*"):
            if path.name != "model" and not path.name.startswith("source-"):  # which have fetched models
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _manifest(job: Job, staged: Staged, records: list[PartRecord]) -> Manifest:
    return Manifest(
        name=job.config.name,
        generated_at=job.generated_at,
        model_version=job.model_version,
        k=job.config.k,
        users=staged.users,
        rows=sum(record.rows for record in records),
        parts=len(records),
        counts=staged.counts | totals(record.counts for record in records),
        measured=staged.measured,
        files=files_of(records),
        identity=job.identity,
        config=job.config.plain(),
        previous=job.config.previous,
        seconds=totals(record.seconds for record in records),
        versions=versions(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
