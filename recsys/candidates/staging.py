"""What is made ready once, before any part: log, users, lists, and what sources leave for those who open them."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.candidates.asked import Inputs
from recsys.candidates.config import listed
from recsys.candidates.files import JobError, write_durable
from recsys.candidates.histories import HistoryReader
from recsys.candidates.job import Job
from recsys.candidates.log_source import is_prepared, open_log
from recsys.candidates.user_lists import write_pairs, write_users
from recsys.features.event_log import EventLog
from recsys.features.progress import Progress
from recsys.tracking.bundle import Bundle
from recsys.tracking.serving_requests import item_ids

STAGED, USERS = "staged.json", "users.parquet"
PAIRS = {"user_allow": "allow.parquet", "user_deny": "deny.parquet"}


@dataclass(frozen=True)
class Staged:
    """What stands in `inputs/staged.json`, written last.

    Attributes:
        users: who get a list.
        log: folder of the prepared log.
        counts: of what was found in inputs.
        measured: what sources have measured.
    """

    users: int
    log: str
    counts: dict[str, int]
    measured: dict[str, float]

    def parts(self, job: Job) -> range:
        """The numbers of all parts."""
        return range(-(-self.users // job.config.users_per_part))


def stage(job: Job, progress: Progress | None = None) -> Staged:
    """Makes a job's inputs ready, where they are not.

    Args:
        job: to get ready for.
        progress: told of every chunk of a raw log that is sorted.

    Raises:
        JobError: a list cannot be used, `cold: refuse` meets users without events, or something cannot be written.
        DataError: the log cannot be used.
    """
    marker, config = job.inputs / STAGED, job.config
    if marker.is_file():
        staged = Staged(**json.loads(marker.read_bytes()))
        # A prepared log of the same content may have been moved since.
        return replace(staged, log=str(Path(config.log).absolute())) if is_prepared(config.log) else staged
    job.inputs.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.load(job.model_folder, config.device)
    cache = job.inputs / "log" if config.cache is None else Path(config.cache)
    log = open_log(config.log, bundle.schema, cache, progress=progress)
    place = config.log if is_prepared(config.log) else str(cache / log.fingerprint)
    users = job.inputs / USERS
    counts = write_users(users, log, config.users, config.users_per_part) | {"catalogue": bundle.model.n_items}
    nobodies = counts.pop("users_of_whom_nothing_is_known")
    if config.cold == "refuse" and nobodies and bundle.users is None:  # others are told from their parts
        raise JobError(
            f"cold: refuse: {nobodies:,} of {counts['users']:,} users have no events and no query; leave them out, or "
            "choose `popularity` or `skip`"
        )
    for option, file in PAIRS.items():
        if (source := getattr(config, option)) is not None:
            found = write_pairs(job.inputs / file, source, f"--{option}", users, config.users_per_part)
            counts |= {f"{option}_{name}": value for name, value in found.items()}
    for option in ("allow", "deny"):
        counts |= _write_ids(job.inputs / f"{option}.npy", bundle, listed(getattr(config, option), option), option)
    inputs = opened_inputs(job, log, bundle)
    measured: dict[str, float] = {}
    for at, source in enumerate(config.opened_sources):
        measured |= source.prepare(inputs, job.source(at))
    staged = Staged(counts.pop("users"), str(Path(place).absolute()), counts, measured)
    write_durable(marker, json.dumps(asdict(staged), indent=2) + "\n")
    return staged


def unstage(job: Job) -> None:
    """Removes what was made ready: the folder is complete without it."""
    shutil.rmtree(job.inputs, ignore_errors=True)


def opened_inputs(job: Job, log: EventLog, bundle: Bundle) -> Inputs:
    """What sources are opened with."""
    reader = HistoryReader(log, bundle)
    return Inputs(bundle, log, reader, *(_read_ids(job.inputs / f"{option}.npy") for option in ("allow", "deny")))


def _write_ids(path: Path, bundle: Bundle, words: list[str] | None, option: str) -> dict[str, int]:
    if words is None:
        return {}
    ids = item_ids(bundle, words)
    known = np.unique(ids[ids > 0])
    if option == "allow" and not len(known):
        raise JobError(f"--allow: the model knows none of the {len(words):,} items")
    content = io.BytesIO()
    np.save(content, known)
    write_durable(path, content.getvalue())
    return {f"{option}_items": len(known), f"{option}_unknown": int((ids == 0).sum())}


def _read_ids(path: Path) -> Tensor | None:
    return torch.from_numpy(np.load(path, allow_pickle=False)) if path.is_file() else None
