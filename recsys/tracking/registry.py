"""A registered model: its versions, its aliases, and the moves that make a version the one in production.

Aliases: `champion` is in production, `challenger` wants to be, `previous` is what a rollback brings back. `champion`
points to a version from the first promotion on, whatever is killed when; see `moves` and `registry_lock`.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING

from recsys.tracking.environment import now
from recsys.tracking.mlflow_store import open_client, tracking_uri
from recsys.tracking.moves import Move, below, moves_of
from recsys.tracking.registry_calls import LostRaceError, MissingError, RegistryError, called
from recsys.tracking.registry_lock import INFIX, LEASE_S, RegistryLock

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
PROMOTED_AT, PROMOTED_BY, ROLLED_BACK = "recsys.promoted_at", "recsys.promoted_by", "recsys.rolled_back_because"
_MOST_CHARACTERS = 1000
_NAME = re.compile(r"[\w-]([\w .-]{0,198}[\w-])?")
_LOCK = re.compile(rf".+{re.escape(INFIX)}\d+")


def who() -> str:
    """Who acts: the user that the tracking server knows, else the one of this machine."""
    if account := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return account
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class Registry:
    """A registered model in a store.

    Attributes:
        client: of the store.
        uri: of the store.
        name: of the registered model.
        lease_s: of its lock, see `registry_lock`.
    """

    client: MlflowClient
    uri: str
    name: str
    lease_s: float = LEASE_S

    @classmethod
    def open(cls, name: str, uri: str | None = None) -> Registry:
        """The registered model `name`, which need not exist yet.

        Args:
            name: up to 200 letters, digits, spaces, dots, dashes and underscores, no dot or space at its ends.
            uri: of the store; None: see `tracking_uri`.

        Raises:
            RegistryError: the name is another, or that of a lock.
            TrackingError: the store cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise RegistryError(
                f"`{name}`: a registered model is named by up to 200 letters, digits, spaces, and . - _, with no space "
                "or dot at the ends"
            )
        if _LOCK.fullmatch(name):  # who takes a lock over deletes it
            raise RegistryError(f"`{name}`: such names are kept for locks; give the model another")
        uri = uri or tracking_uri()
        return cls(open_client(uri), uri, name)

    def versions(self) -> list[ModelVersion]:
        """Every version, newest first, with its tags and aliases.

        Raises:
            RegistryError: there is no such model.
        """
        aliases = self.aliases()
        found: list[ModelVersion] = []
        page = None
        while page != "":
            some = called(self.uri, self.client.search_model_versions, f"name='{self.name}'", page_token=page)
            found, page = [*found, *some], some.token or ""
        for version in found:
            version.aliases = [alias for alias, number in aliases.items() if number == str(version.version)]
        return sorted(found, key=lambda version: -int(version.version))

    def version(self, number: str) -> ModelVersion:
        """A version.

        Raises:
            RegistryError: there is no such version.
        """
        return called(self.uri, self.client.get_model_version, self.name, number)

    def aliases(self) -> dict[str, str]:
        """Version of each alias.

        Raises:
            RegistryError: there is no such model.
        """
        return {alias: str(version) for alias, version in self._model().aliases.items()}

    def moves(self) -> list[Move]:
        """Every move of the champion, oldest first.

        Raises:
            RegistryError: there is no such model.
        """
        return moves_of(self._model().tags)

    def tag(self, version: str, tags: Mapping[str, str | None]) -> None:
        """Sets tags of a version, in their order; None removes one that is there."""
        for key, value in tags.items():
            if value is None:
                called(self.uri, self.client.delete_model_version_tag, self.name, version, key)
            else:
                called(self.uri, self.client.set_model_version_tag, self.name, version, key, value)

    def describe(self, version: str, text: str) -> None:
        """Sets the description of a version."""
        called(self.uri, self.client.update_model_version, self.name, version, text)

    def challenge(self, version: str) -> None:
        """Makes a version the challenger."""
        called(self.uri, self.client.set_registered_model_alias, self.name, CHALLENGER, version)

    def promote(self, challenger: str, champion: str | None) -> Move:
        """Makes the challenger the champion, and the champion `previous`.

        Args:
            challenger: version that the gates have let through.
            champion: version that it was compared with; None: there was none.

        Raises:
            LostRaceError: either has changed since, or somebody else is at it.
            RegistryError: there is no such model.
            TrackingError: the store cannot be used.
        """

        def begin(aliases: dict[str, str], number: int, _: list[Move]) -> Move:
            for alias, expected in ((CHAMPION, champion), (CHALLENGER, challenger)):
                if (found := aliases.get(alias)) != expected:
                    raise LostRaceError(
                        f"`{self.name}` has another {alias} than the gates have judged: version {found or 'none'}, not "
                        f"{expected or 'none'}. Somebody else was first; nothing was moved. Judge again"
                    )
            before = aliases.get(PREVIOUS)
            previous = before if champion is None else champion
            return Move(number, "promotion", challenger, champion, before, previous, who(), now())

        return self._moved(begin)

    def rollback(self, because: str) -> Move:
        """Makes `previous` the champion again, and what was the champion before it `previous`.

        Raises:
            RegistryError: nothing is there to go back to, or no reason is given.
            LostRaceError: somebody else is moving aliases, and does not come to an end.
            TrackingError: the store cannot be used.
        """
        if not 0 < len(because.strip()) <= _MOST_CHARACTERS:
            raise RegistryError(f"a rollback needs a reason, of up to {_MOST_CHARACTERS:,} characters")

        def begin(aliases: dict[str, str], number: int, moves: list[Move]) -> Move:
            champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
            living = {str(version.version) for version in self.versions()}
            if previous not in living - {champion}:
                raise RegistryError(
                    f"`{self.name}` has no previous champion to go back to; point its alias `{PREVIOUS}` in MLflow at "
                    f"the version that is to serve, `recsys registry list {quote(self.name)}` shows them"
                )
            deeper = below(moves, previous, living)
            return Move(number, "rollback", previous, champion, previous, deeper, who(), now(), because.strip())

        return self._moved(begin)

    def repair(self) -> Move | None:
        """Settles a move that a process has left unfinished; returns it.

        Raises:
            LostRaceError: somebody else is moving aliases, and does not come to an end.
            RegistryError: there is no such model.
            TrackingError: the store cannot be used.
        """
        if not any(move.state == "begun" for move in self.moves()):
            return None
        with self._lock() as lock:
            return self._settled(lock)

    def _moved(self, begin: Callable[[dict[str, str], int, list[Move]], Move]) -> Move:
        with self._lock() as lock:
            self._settled(lock)
            moves, aliases = self.moves(), self.aliases()
            move = begin(aliases, moves[-1].number + 1 if moves else 1, moves)
            try:
                self._write(move)
                for alias, version in self._targets(move):
                    lock.check()
                    self._point(alias, version)
                return self._finished(move)
            except BaseException:  # Ctrl-C among them: whoever interrupts wants the aliases as they were
                with suppress(LostRaceError):  # a lock that is lost has a new holder, who settles the move
                    lock.check()
                    self._undone(move)
                raise

    @staticmethod
    def _targets(move: Move) -> list[tuple[str, str | None]]:
        """Aliases in the order in which they are written: `champion` is a living version after each."""
        previous, champion = (PREVIOUS, move.previous), (CHAMPION, move.champion)
        return [previous, champion] if move.kind == "promotion" else [champion, previous]

    def _settled(self, lock: RegistryLock) -> Move | None:
        last = next((move for move in self.moves() if move.state == "begun"), None)
        if last is None:
            return None
        lock.check()
        if self.aliases().get(CHAMPION) != last.champion:
            return self._undone(last)
        self._put_back(PREVIOUS, last.previous)
        return self._finished(last)

    def _finished(self, move: Move) -> Move:
        if move.kind == "promotion":
            self.tag(move.champion, {PROMOTED_AT: move.at, PROMOTED_BY: move.by})
            if self.aliases().get(CHALLENGER) == move.champion:
                self._point(CHALLENGER, None)
        elif move.replaced is not None:
            with suppress(MissingError):  # deleted, where a move is settled long after
                self.tag(move.replaced, {ROLLED_BACK: str(move.because)})
        return self._write(replace(move, state="done"))

    def _undone(self, move: Move) -> Move:
        aliases = self.aliases()
        if aliases.get(CHAMPION) == move.champion:
            self._put_back(CHAMPION, move.replaced)
            if move.kind == "promotion" and CHALLENGER not in aliases:
                self._put_back(CHALLENGER, move.champion)
        self._put_back(PREVIOUS, move.previous_before)
        return self._write(replace(move, state="undone"))

    def _write(self, move: Move) -> Move:
        called(self.uri, self.client.set_registered_model_tag, self.name, move.key, move.text())
        return move

    def _point(self, alias: str, version: str | None) -> None:
        if version is None:
            called(self.uri, self.client.delete_registered_model_alias, self.name, alias)
        else:
            called(self.uri, self.client.set_registered_model_alias, self.name, alias, version)

    def _put_back(self, alias: str, version: str | None) -> None:
        """Points an alias to what it pointed to, to nothing if that was deleted meanwhile."""
        try:
            self._point(alias, version)
        except MissingError:
            self._point(alias, None)

    def _lock(self) -> RegistryLock:
        return RegistryLock(self.client, self.uri, self.name, self.lease_s, patience_s=2 * self.lease_s)

    def _model(self) -> RegisteredModel:
        try:
            return called(self.uri, self.client.get_registered_model, self.name)
        except MissingError:
            raise RegistryError(
                f"no registered model `{self.name}`; `recsys registry register RUN --name {quote(self.name)}` makes it"
            ) from None
