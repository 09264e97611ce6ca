"""One process at a time moves the aliases of a registered model.

MLflow cannot compare and set, but the names of registered models are unique in its database, and so creating one is
atomic, in SQLite, in PostgreSQL and through a server. A lock is a registered model `NAME.lock.G` that exists while it
is held. Who finds generations that are stale, their holders having died, creates the next one, which again only one
can.

Nobody's clock is compared with another's. A lock is stale for a process that has seen it unchanged for `LEASE_S` by its
own clock, and a holder moves no alias once half of that has passed since before it created the lock.
"""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from recsys.tracking.mlflow_store import TrackingError
from recsys.tracking.registry_calls import LostRaceError, MissingError, TakenError, called

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LEASE_S = 20.0
"""Seconds after which a lock is taken over that nobody gives back. Moving aliases takes less than one."""
PATIENCE_S = 40.0
"""Seconds for which others are waited for."""
INFIX = ".lock."
_TOKEN, _OWNER = "recsys.lock.token", "recsys.lock.owner"
_POLL_S = 0.1


@dataclass
class RegistryLock:
    """The lock of a registered model; a context manager.

    Attributes:
        client: of the store.
        uri: of the store.
        name: of the registered model.
        lease_s: see `LEASE_S`.
        patience_s: see `PATIENCE_S`.
    """

    client: MlflowClient
    uri: str
    name: str
    lease_s: float = LEASE_S
    patience_s: float = PATIENCE_S
    _token: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)
    _generation: int = field(default=0, init=False)
    _taken_over: list[int] = field(default_factory=list, init=False)
    _started: float = field(default=0.0, init=False)

    def __enter__(self) -> RegistryLock:
        """Waits for the lock.

        Raises:
            LostRaceError: somebody else kept it for longer than `patience_s`.
            TrackingError: the store cannot be used.
        """
        seen: dict[str, float] = {}
        deadline = time.monotonic() + self.patience_s
        while True:
            held = self._held()
            now = time.monotonic()
            for token, _ in held.values():
                seen.setdefault(token, now)
            if self._all_stale(held, seen) and self._create(max(held, default=0) + 1, sorted(held)):
                # Created before looked: of two who create different generations at once, one at least sees the other.
                others = {g: lock for g, lock in self._held().items() if lock[0] != self._token}
                if self._all_stale(others, seen) and max(others, default=0) < self._generation:
                    return self
                self._delete(self._generation)
            if time.monotonic() > deadline:
                owners = ", ".join(sorted({owner for _, owner in held.values()})) or "somebody who cannot be seen"
                raise LostRaceError(f"the aliases of `{self.name}` are being moved by {owners}; try again later")
            time.sleep(_POLL_S * random.uniform(0.5, 2))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the lock back, and clears those that were taken over.

        A store that fails now keeps the lock, which grows stale: what was done under it is done.
        """
        with suppress(TrackingError):
            held = self._held()
            if held.get(self._generation, ("", ""))[0] != self._token:
                return  # taken over by somebody else, who clears it
            for generation in self._taken_over:
                self._delete(generation)
            self._delete(self._generation)

    def check(self) -> None:
        """To be called right before each write that the lock protects.

        Raises:
            LostRaceError: the lock is held for too long already, or was taken over.
        """
        held = self._held()
        own = held.get(self._generation, ("", ""))[0] == self._token and max(held) == self._generation
        if not own or time.monotonic() - self._started > self.lease_s / 2:
            raise LostRaceError(
                f"moving the aliases of `{self.name}` took longer than the {self.lease_s / 2:g} s for which the lock "
                "is held; nothing more was moved. Try again"
            )

    def _held(self) -> dict[int, tuple[str, str]]:
        """Token and owner of each generation that exists."""
        prefix = f"{self.name}{INFIX}"
        found: dict[int, tuple[str, str]] = {}
        page = None
        while page != "":
            models = called(self.uri, self.client.search_registered_models, f"name LIKE '{prefix}%'", page_token=page)
            for model in models:
                generation = model.name.removeprefix(prefix)
                if model.name.startswith(prefix) and generation.isdecimal():
                    # A token for whoever made it by hand keeps such a lock from being stale at once.
                    found[int(generation)] = model.tags.get(_TOKEN, model.name), model.tags.get(_OWNER, "somebody")
            page = models.token or ""
        return found

    def _all_stale(self, held: dict[int, tuple[str, str]], seen: dict[str, float]) -> bool:
        now = time.monotonic()
        return all(now - seen.get(token, now) >= self.lease_s for token, _ in held.values())

    def _create(self, generation: int, stale: list[int]) -> bool:
        self._started = time.monotonic()
        name = f"{self.name}{INFIX}{generation}"
        tags = {_TOKEN: self._token, _OWNER: f"{socket.gethostname()}, process {os.getpid()}"}
        why = f"Exists while somebody moves the aliases of {self.name}."
        try:
            called(self.uri, self.client.create_registered_model, name, tags, why)
        except (TakenError, MissingError):  # missing: taken, and given back before the store had looked
            # A request that was sent twice may find its own lock.
            if self._held().get(generation, ("", ""))[0] != self._token:
                return False
        self._generation, self._taken_over = generation, stale
        return True

    def _delete(self, generation: int) -> None:
        with suppress(MissingError):
            called(self.uri, self.client.delete_registered_model, f"{self.name}{INFIX}{generation}")
