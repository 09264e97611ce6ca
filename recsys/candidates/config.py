"""What is asked of a candidate job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from recsys.candidates.files import JobError
from recsys.candidates.sources import ModelSource, Source
from recsys.candidates.specs import described, made
from recsys.retrieval.merging import Order

Cold = Literal["popularity", "skip", "refuse"]

_HOW = (
    "out",
    "name",
    "model",
    "log",
    "users",
    "user_allow",
    "user_deny",
    "allow",
    "deny",
    "threads",
    "memory_gib",
    "cache",
    "previous",
)
"""What does not change what is written, or is told from others by its content."""


@dataclass(frozen=True)
class JobConfig:
    """A candidate job.

    Attributes:
        model: folder of a run or of a model, or `models:/NAME@ALIAS`.
        log: folder of a prepared log, or Parquet or CSV in the schema of the model: a file, a folder or a glob.
        out: folder of all jobs.
        name: of this one, a folder in `out`.
        users: who gets a list: Parquet or CSV with a column `user_id`, or `@FILE` with an id a line. A column `query`
            says what a user searches for. None: everybody in the log.
        k: items of each user.
        filter_seen: leave out what a user's history holds, the whole of it.
        allow: raw ids of the only items that anybody may get; None: all.
        deny: raw ids of items that nobody may get.
        user_allow: Parquet with columns `user_id` and `item_id`: the only items of each user; who is not in it gets
            none. None: all.
        user_deny: likewise, items that a user may not get.
        cold: what a user of whom the model knows nothing and who searches for nothing gets: `popularity`, what the
            model gives to nobody in particular; `skip`, no list; `refuse` ends the job.
        min_score: the least score of an item in a list, by the scale of the one source, or of the ranking. It does not
            hold for what is popular.
        cap: the most items of a category in a list; None: no limit.
        cap_by: the feature of items that is their category; of a list its first value.
        sources: of candidates, first things first; empty: the model.
        order: how items of several sources are ordered; None: source by source.
        rank: let the ranking head of the model order what was retrieved.
        retrieve: items that each source gives to choose from; 0: k, four times as many where there is a cap, and 200 at
            least for a ranking.
        users_per_part: users of each part.
        batch_users: users who are asked for at a time.
        batch_events: events that are read at a time, unless one user has more.
        device: of the models.
        threads: that share a part; 0: one a core, or `OMP_NUM_THREADS`. Fewer where `memory_gib` holds no more.
        memory_gib: of each process that makes parts.
        previous: name of a complete job of the same model and settings in `out`: users for whom nothing has changed
            since keep their lists. None: all lists are made.
        cache: folder for raw logs that are prepared; None: in the folder of the job, until it is complete.

    Raises:
        JobError: a value is out of range, or does not fit another.
    """

    model: str
    log: str
    out: str
    name: str
    users: str | None = None
    k: int = 100
    filter_seen: bool = True
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] | None = None
    user_allow: str | None = None
    user_deny: str | None = None
    cold: Cold = "popularity"
    min_score: float | None = None
    cap: int | None = None
    cap_by: str | None = None
    sources: tuple[Source, ...] = ()
    order: Order | None = None
    rank: bool = False
    retrieve: int = 0
    users_per_part: int = 10_000
    batch_users: int = 256
    batch_events: int = 2**20
    device: str = "cpu"
    threads: int = 0
    memory_gib: float = 8.0
    previous: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        for name in ("k", "users_per_part", "batch_users", "batch_events"):
            if getattr(self, name) < 1:
                raise JobError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("retrieve", "threads", "memory_gib"):
            if getattr(self, name) < 0:
                raise JobError(f"{name} must not be negative: {getattr(self, name)}")
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise JobError(f"name `{self.name}`: is the name of a folder in the output, with no slash and no dot first")
        if 0 < self.retrieve < self.k:
            raise JobError(f"retrieve {self.retrieve}: fewer than k ({self.k}) items leave every list short")
        if (self.cap is None) != (self.cap_by is None) or (self.cap is not None and self.cap < 1):
            raise JobError(
                "a cap needs the feature that it counts by: give `cap` (at least 1) and `cap_by`, or neither"
            )
        names = [source.called for source in self.opened_sources]
        if len(set(names)) < len(names):
            raise JobError(f"two sources are called alike ({', '.join(names)}); give one of them another `name`")
        if self.min_score is not None and len(names) > 1 and not self.rank:
            raise JobError(
                "scores of several sources have no common scale: give each source its own `min_score`, or have the "
                "model order them with `rank`"
            )

    @property
    def opened_sources(self) -> tuple[Source, ...]:
        """The sources, the model where none is named."""
        return self.sources or (ModelSource(),)

    @property
    def fetched(self) -> int:
        """Items that each source gives."""
        return self.retrieve or max(self.k * (1 if self.cap is None else 4), 200 if self.rank else 0)

    def plain(self) -> dict[str, Any]:
        """As JSON-able values; `of` reads them."""
        return {field.name: described(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> JobConfig:
        """What `plain` has described."""
        return cls(**{name: made(value) for name, value in plain.items()})

    def rules(self) -> dict[str, str]:
        """Every setting that changes what a user gets, as text, by name."""
        found = {name: json.dumps(value) for name, value in self.plain().items() if name not in _HOW}
        found["sources"] = json.dumps([described(source) for source in self.opened_sources])
        return found | {name: digest_of(listed(getattr(self, name), f"--{name}")) for name in ("allow", "deny")}


def listed(words: tuple[str, ...] | None, option: str) -> list[str] | None:
    """The ids of a list, those of `@FILE` among them, one a line.

    Raises:
        JobError: a file cannot be read.
    """
    if words is None:
        return None
    return [line for word in words for line in (_lines(word[1:], option) if word.startswith("@") else [word])]


def digest_of(words: list[str] | None) -> str:
    """Names a list of ids."""
    return "none" if words is None else hashlib.sha256("\n".join(words).encode()).hexdigest()


def _lines(path: str, option: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{option}: {path} cannot be read ({error})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
