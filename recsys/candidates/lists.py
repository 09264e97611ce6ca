"""The lists of a block of users: sources are asked, merged, and ranked by the model where that is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from recsys.candidates.asked import Asked, Inputs
from recsys.candidates.categories import caps_of
from recsys.candidates.files import JobError
from recsys.candidates.histories import Ids
from recsys.candidates.job import Job
from recsys.candidates.sources import Opened, PopularitySource
from recsys.candidates.staging import Staged, opened_inputs
from recsys.evaluation.scoring import device_of
from recsys.features.event_log import EventLog
from recsys.retrieval.merging import Caps, Merged, Shortfall, merge
from recsys.retrieval.order import TopK
from recsys.retrieval.reranking import reranked
from recsys.retrieval.topk import BUDGET_BYTES
from recsys.tracking.bundle import Bundle

_GIB = 2**30


class Steps(Protocol):
    """Measures steps."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """Adds what it takes."""


@dataclass(frozen=True)
class Lists:
    """Lists of U users, filled in block by block.

    Attributes:
        items: `[U, k]` int64, 0 where there are fewer.
        scores: `[U, k]` float32.
        source: `[U, k]` int16, place of the source, the number of sources for what is popular; -1 for none.
        reason: `[U]` int8, a `Shortfall`.
        cold: `[U]` bool, whether the model knows nothing of the user.
        events: `[U]` int32, known events.
        hashes: `[U]` uint64, of what decides the list of each user.
    """

    items: Ids
    scores: NDArray[np.float32]
    source: NDArray[np.int16]
    reason: NDArray[np.int8]
    cold: NDArray[np.bool_]
    events: NDArray[np.int32]
    hashes: NDArray[np.uint64]

    @classmethod
    def empty(cls, users: int, k: int) -> Lists:
        """No list yet."""
        return cls(
            items=np.zeros((users, k), dtype=np.int64),
            scores=np.full((users, k), -np.inf, dtype=np.float32),
            source=np.full((users, k), -1, dtype=np.int16),
            reason=np.zeros(users, dtype=np.int8),
            cold=np.zeros(users, dtype=np.bool_),
            events=np.zeros(users, dtype=np.int32),
            hashes=np.zeros(users, dtype=np.uint64),
        )

    def put(self, rows: Ids, merged: Merged) -> None:
        """Fills in the lists of some rows."""
        self.items[rows] = merged.items.cpu().numpy()
        self.scores[rows] = merged.scores.cpu().numpy()
        self.source[rows] = merged.source.cpu().numpy()
        self.reason[rows] = merged.reason.cpu().numpy()


class ListMaker:
    """Makes lists with the sources of a job.

    Args:
        job: with its settings.
        inputs: of the job.
        sources: that are ready.
        popular: for users of whom the model knows nothing.
        caps: of categories; None: no limit.

    Attributes:
        inputs: of the job.
        caps: of categories; None: no limit.
        readers: of models of sources, which may know events that the model of the job does not.
        most: users that may be asked for at a time.
        threads: that may ask side by side.
    """

    def __init__(self, job: Job, inputs: Inputs, sources: Sequence[Opened], popular: Opened, caps: Caps | None) -> None:
        self.inputs, self.caps = inputs, caps
        self._config, self._sources, self._popular = job.config, sources, popular
        self.readers = [source.reader for source in sources if source.reader is not None]
        self.most = min(source.most or job.config.batch_users for source in sources)
        self.threads = threads_within(job)

    @classmethod
    def open(cls, job: Job, staged: Staged) -> ListMaker:
        """Loads model and log of a job, and opens its sources.

        Raises:
            JobError: the model does not rank and is to, categories are not known, or there is not the memory.
        """
        config = job.config
        bundle = Bundle.load(job.model_folder, config.device)
        if config.rank and not bundle.model.ranks:
            raise JobError(
                f"rank: {type(bundle.model).__name__} has no ranking head; leave `rank` out, or train one with "
                "`ranking: true`"
            )
        inputs = opened_inputs(job, EventLog.open(staged.log), bundle)
        opened = [source.open(inputs, job.source(at)) for at, source in enumerate(config.opened_sources)]
        popular = PopularitySource().open(inputs, job.inputs)
        caps = None if config.cap is None else caps_of(inputs, str(config.cap_by), config.cap)
        return cls(job, inputs, opened, popular, caps)

    def fill(self, found: Lists, rows: Ids, asked: Asked, clock: Steps) -> None:
        """Fills in the lists of B users.

        Args:
            found: lists of a part.
            rows: `[B]` of the part.
            asked: of these users.
            clock: measures the steps.

        Raises:
            JobError: a user is cold, and that is refused.
        """
        cold = self._cold(asked)
        found.cold[rows] = cold
        if cold.any() and self._config.cold == "refuse":
            user = asked.raw_users[cold][0]
            raise JobError(
                f"cold: refuse: the model knows nothing of user `{user}`; leave such users out, or choose "
                "`popularity` or `skip`"
            )
        warm = np.flatnonzero(~cold)
        if len(warm):
            some = asked if len(warm) == len(rows) else asked.of(warm)
            found.put(rows[warm], self._merged(some, clock))
        if not cold.any():
            return
        if self._config.cold == "skip":
            found.reason[rows[cold]] = Shortfall.COLD
            return
        with clock.step("retrieving"):
            few = asked.of(np.flatnonzero(cold))
            top = self._popular.retrieve(few, self._config.fetched)
        with clock.step("merging"):
            merged = self._merge([top], self._config.k, [None], [None], self.caps)
            source = torch.where(merged.source >= 0, len(self._sources), merged.source).short()
            found.put(rows[cold], merged._replace(source=source))

    def _cold(self, asked: Asked) -> NDArray[np.bool_]:
        """`[B]` whether neither history, id nor query tells the model something."""
        model = self.inputs.bundle.model
        known = model.knows(torch.from_numpy(asked.histories.users).to(device_of(model))).cpu().numpy()
        if model.reads_history:
            known = known | (asked.histories.lengths > 0)
        if asked.queries is not None and self.inputs.bundle.queries is not None:
            known = known | (asked.queries != None)  # noqa: E711  (elementwise)
        return np.asarray(~known)

    def _merged(self, asked: Asked, clock: Steps) -> Merged:
        config, sources = self._config, self._config.opened_sources
        with clock.step("retrieving"):
            lists = [opened.retrieve(asked, config.fetched) for opened in self._sources]
        quotas, least = [source.quota for source in sources], [source.min_score for source in sources]
        if not config.rank:
            if config.min_score is not None:
                least = [config.min_score if least[0] is None else max(config.min_score, least[0])]
            with clock.step("merging"):
                return self._merge(lists, config.k, quotas, least, self.caps)
        with clock.step("merging"):
            first = self._merge(lists, config.fetched, quotas, least, None)
        with clock.step("ranking"):
            top = reranked(self.inputs.bundle.model, asked.batch, TopK(first.items, first.scores), config.fetched)
        with clock.step("merging"):
            second = _with_origin(self._merge([top], config.k, [None], [config.min_score], self.caps), first)
            few = ((first.items > 0).sum(1) < config.k).nonzero().squeeze(1)
            if len(few):  # why there are fewer than k, and not why there are fewer than were to be ranked
                of_few = [TopK(items[few], scores[few]) for items, scores in lists]
                second.reason[few] = self._merge(of_few, config.k, quotas, least, None).reason
        return second

    def _merge(
        self,
        lists: Sequence[TopK],
        k: int,
        quotas: Sequence[int | None],
        least: Sequence[float | None],
        caps: Caps | None,
    ) -> Merged:
        order = self._config.order if len(lists) > 1 else None
        n_items = self.inputs.bundle.model.n_items
        return merge(lists, k, n_items=n_items, quotas=quotas, order=order, caps=caps, minimum=least)


def _with_origin(second: Merged, first: Merged) -> Merged:
    """A ranked list with the sources from which its items were retrieved."""
    ordered, place = first.items.sort(dim=1)
    at = torch.searchsorted(ordered, second.items.contiguous()).clamp_(max=ordered.shape[1] - 1)
    source = first.source.gather(1, place.gather(1, at)).masked_fill(second.items == 0, -1)
    return second._replace(source=source)


def cores() -> int:
    """Cores that this process may use: those of `OMP_NUM_THREADS`, which Ray sets for a worker, or all."""
    there, given = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS", "")
    return min(there, int(given)) if given.isdecimal() and int(given) else there


def threads_within(job: Job) -> int:
    """Threads whose blocks fit into the memory of a process, beside what it holds already.

    Raises:
        JobError: not even one does.
    """
    config = job.config
    wanted = config.threads or cores()
    wanted = wanted if config.device == "cpu" else 1
    memory = psutil.Process().memory_info()
    held = memory.rss - getattr(memory, "shared", 0)
    part = config.users_per_part * (config.k * 14 * 3 + 200)
    block = BUDGET_BYTES + config.batch_events * 64 + config.batch_users * config.fetched * 64
    room = config.memory_gib * _GIB - held - part
    if room < block:
        needed = (held + part + block) / _GIB
        raise JobError(
            f"memory_gib {config.memory_gib:g}: model and log take {held / _GIB:.2f} GiB, a part and a block of users "
            f"{(part + block) / _GIB:.2f} more; give at least {needed:.2f}, or lower `users_per_part` or `batch_events`"
        )
    return max(1, min(wanted, int(room // block)))
