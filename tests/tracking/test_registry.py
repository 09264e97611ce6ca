"""Aliases move whole or not at all, one process at a time, and a killed one is tidied up after. One SQLite file."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import replace

import pytest

from recsys.tracking import registry as module
from recsys.tracking.mlflow_store import TrackingError
from recsys.tracking.moves import Move, below
from recsys.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, PROMOTED_BY, ROLLED_BACK, Registry
from recsys.tracking.registry_calls import LostRaceError, MissingError, RegistryError
from recsys.tracking.registry_lock import RegistryLock
from tests.tracking.stores import empty_store

pytestmark = pytest.mark.filterwarnings("ignore")
START = multiprocessing.get_context("forkserver")  # fresh processes that need not import MLflow each for itself
START.set_forkserver_preload(
    [
        "recsys.tracking.registry",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
    ]
)
NAMES = itertools.count()
LEASE_S = 2.0


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def registry(uri: str) -> Registry:
    """A registered model with four versions; 1 is the champion and 2 the challenger."""
    found = Registry.open(f"shop {next(NAMES)}", uri)
    found.client.create_registered_model(found.name)
    for _ in range(4):
        found.client.create_model_version(found.name, "file:///nowhere")
    found.challenge("1")
    found.promote("1", None)
    found.challenge("2")
    return found


def locks(registry: Registry) -> list[str]:
    return [m.name for m in registry.client.search_registered_models() if m.name.startswith(f"{registry.name}.lock")]


def test_promotion_and_rollback(registry: Registry) -> None:
    assert registry.aliases() == {CHAMPION: "1", CHALLENGER: "2"}
    registry.promote("2", "1")
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}
    registry.challenge("3")
    registry.promote("3", "2")
    assert registry.aliases() == {CHAMPION: "3", PREVIOUS: "2"}
    started = time.monotonic()
    registry.rollback("too many soaps")
    assert time.monotonic() - started < 10
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}  # a second rollback does not bring 3 back
    registry.rollback("still")
    assert registry.aliases() == {CHAMPION: "1"}
    with pytest.raises(RegistryError, match="no previous champion"):
        registry.rollback("again")
    tags = {version.version: version.tags for version in registry.versions()}
    assert tags[3][ROLLED_BACK] == "too many soaps" and tags[2][ROLLED_BACK] == "still"
    assert tags[3][PROMOTED_BY] == module.who()
    kinds = [(move.kind, move.champion, move.replaced, move.because) for move in registry.moves()]
    assert kinds == [
        ("promotion", "1", None, None), ("promotion", "2", "1", None), ("promotion", "3", "2", None),
        ("rollback", "2", "3", "too many soaps"), ("rollback", "1", "2", "still"),
    ]  # fmt: skip
    assert not locks(registry)


def test_what_does_not_hold_any_more_is_a_lost_race(registry: Registry) -> None:
    with pytest.raises(LostRaceError, match=r"another champion .* version 1, not 4"):
        registry.promote("2", "4")
    with pytest.raises(LostRaceError, match=r"another challenger .* version 2, not 3"):
        registry.promote("3", "1")
    assert registry.aliases() == {CHAMPION: "1", CHALLENGER: "2"}
    assert not locks(registry)


def test_what_cannot_be_done_is_said(registry: Registry, uri: str) -> None:
    with pytest.raises(RegistryError, match="letters, digits"):
        Registry.open("it's", uri)
    with pytest.raises(RegistryError, match=r"no registered model `unheard`; `recsys registry register"):
        Registry.open("unheard", uri).aliases()
    with pytest.raises(MissingError):
        registry.version("99")
    for name in (" ", "..", "x" * 201, "shop."):
        with pytest.raises(RegistryError, match="up to 200 letters"):
            Registry.open(name, uri)
    with pytest.raises(RegistryError, match="kept for locks"):
        Registry.open("shop.lock.1", uri)
    for reason in (" ", "x" * 1001):
        with pytest.raises(RegistryError, match="needs a reason"):
            registry.rollback(reason)


def test_a_store_that_cannot_be_reached_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # which wait for seconds
    registry = Registry.open("shop", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"registry at http://127.0.0.1:9 cannot be used: .*doctor"):
        registry.aliases()


def test_a_deleted_version_is_nothing_to_go_back_to(registry: Registry) -> None:
    registry.promote("2", "1")
    registry.client.delete_model_version(registry.name, "1")
    with pytest.raises(RegistryError, match="no previous champion to go back to; point its alias `previous`"):
        registry.rollback("bad")
    assert registry.aliases()[CHAMPION] == "2"


def test_a_rollback_passes_over_deleted_versions_further_back(registry: Registry) -> None:
    for number in ("2", "3", "4"):
        registry.challenge(number)
        registry.promote(number, str(int(number) - 1))
    registry.client.delete_model_version(registry.name, "2")
    registry.rollback("\N{HEAVY EXCLAMATION MARK SYMBOL}" * 1000)  # as long as any, in any script
    assert registry.aliases() == {CHAMPION: "3", PREVIOUS: "1"}


@pytest.mark.parametrize("deleted", ["1", "3"])
def test_an_unfinished_move_is_settled_whatever_was_deleted_since(registry: Registry, deleted: str) -> None:
    registry.promote("2", "1")
    begun = Move(3, "promotion", "3", "2", "1", "2", "me", "now")
    registry._write(begun)
    registry._point(PREVIOUS, "2")  # and killed
    registry.client.delete_model_version(registry.name, deleted)
    move = registry.repair()
    assert move is not None and move.state == "undone"
    assert registry.aliases() == {CHAMPION: "2"} | ({PREVIOUS: "1"} if deleted == "3" else {})


def test_a_tag_that_is_no_move_is_named(registry: Registry) -> None:
    registry.client.set_registered_model_tag(registry.name, "recsys.move.note", "mine")
    with pytest.raises(RegistryError, match=r"tag `recsys\.move\.note` of the registered model is no move .*delete it"):
        registry.moves()


def test_an_alias_that_was_removed_by_hand(registry: Registry) -> None:
    """Without a champion the next one is the first; `previous` stays what it was."""
    registry.promote("2", "1")
    registry.client.delete_registered_model_alias(registry.name, CHAMPION)
    registry.challenge("3")
    registry.promote("3", None)
    assert registry.aliases() == {CHAMPION: "3", PREVIOUS: "1"}
    registry.rollback("bad")
    assert registry.aliases() == {CHAMPION: "1"}


def test_who_acts_is_told_without_a_name_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert module.who().startswith(f"user {os.getuid()}@")


def test_a_store_that_fails_when_the_lock_is_given_back_takes_nothing_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: RegistryLock, generation: int) -> None:
        raise TrackingError("down")

    with monkeypatch.context() as patch:
        patch.setattr(RegistryLock, "_delete", down)
        registry.promote("2", "1")
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"} and len(locks(registry)) == 1
    registry.challenge("3")
    replace(registry, lease_s=1.0).promote("3", "2")
    assert not locks(registry)


@pytest.mark.parametrize("moved", [0, 1, 2, "written"])
@pytest.mark.parametrize("what", [KeyboardInterrupt, TrackingError])
def test_an_interrupted_promotion_leaves_the_aliases_as_they_were(
    registry: Registry, moved: int | str, what: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many aliases were written, or all and then the tag, the call of the store is interrupted, once."""
    point, write, calls = Registry._point, Registry._write, itertools.count()

    def interrupted_late(self: Registry, move: Move) -> Move:
        if move.state == "done":
            raise what
        return write(self, move)

    def interrupted(self: Registry, alias: str, version: str | None) -> None:
        if next(calls) == moved:
            raise what
        point(self, alias, version)

    before = registry.aliases()
    monkeypatch.setattr(Registry, "_point", interrupted)
    if moved == "written":
        monkeypatch.setattr(Registry, "_write", interrupted_late)
    with pytest.raises(what):
        registry.promote("2", "1")
    monkeypatch.undo()
    assert registry.aliases() == before
    assert registry.moves()[-1].state == "undone"
    assert not locks(registry)
    registry.promote("2", "1")
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}


def die_after(registry: Registry, aliases: int, rollback: bool) -> None:
    point, calls = Registry._point, itertools.count()

    def deadly(self: Registry, alias: str, version: str | None) -> None:
        if next(calls) == aliases:
            os.kill(os.getpid(), signal.SIGKILL)
        point(self, alias, version)

    Registry._point = deadly  # type: ignore[method-assign]
    again = Registry.open(registry.name, registry.uri)
    again.rollback("dies") if rollback else again.promote("3", "2")


class Address:
    """What another process needs to find a registry."""

    def __init__(self, registry: Registry) -> None:
        self.name, self.uri = registry.name, registry.uri


@pytest.mark.parametrize(
    ("aliases", "rollback", "meanwhile", "afterwards"),
    [
        (0, False, {CHAMPION: "2", PREVIOUS: "1"}, {CHAMPION: "2", PREVIOUS: "1"}),
        (1, False, {CHAMPION: "2", PREVIOUS: "2"}, {CHAMPION: "2", PREVIOUS: "1"}),
        (2, False, {CHAMPION: "3", PREVIOUS: "2"}, {CHAMPION: "3", PREVIOUS: "2"}),
        (1, True, {CHAMPION: "1", PREVIOUS: "1"}, {CHAMPION: "1"}),
    ],
)
def test_a_killed_process_leaves_a_champion_and_the_next_one_tidies_up(
    registry: Registry, aliases: int, rollback: bool, meanwhile: dict[str, str], afterwards: dict[str, str]
) -> None:
    registry.promote("2", "1")
    registry.challenge("3")
    process = START.Process(target=die_after, args=(Address(registry), aliases, rollback))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    challenger = {CHALLENGER: "3"}
    assert registry.aliases() == meanwhile | challenger
    assert len(locks(registry)) == 1  # nobody gives it back

    started = time.monotonic()
    move = replace(registry, lease_s=LEASE_S).repair()
    assert LEASE_S <= time.monotonic() - started < LEASE_S + 10
    done = registry.aliases()[CHAMPION] != "2"
    assert move is not None and move.state == ("done" if done else "undone")
    assert registry.aliases() == afterwards | (challenger if not done or rollback else {})
    assert not locks(registry) and registry.repair() is None


def repeatedly(uri: str, name: str, rounds: int, barrier, results) -> None:
    """Promotes in each round; the rounds begin together."""
    registry = Registry.open(name, uri)
    for number in range(rounds):
        barrier.wait(60)
        try:
            registry.promote(str(number + 2), str(number + 1))
            results.put((number, "won"))
        except LostRaceError:
            results.put((number, "lost"))
        except BaseException as error:
            results.put((number, repr(error)))
        barrier.wait(60)


def test_of_promotions_at_the_same_moment_one_wins_and_the_others_are_told(uri: str) -> None:
    rounds, processes = 6, 3
    registry = Registry.open("contended", uri)
    registry.client.create_registered_model(registry.name)
    for _ in range(rounds + 1):
        registry.client.create_model_version(registry.name, "file:///nowhere")
    registry.challenge("1")
    registry.promote("1", None)
    barrier, results = START.Barrier(processes + 1), START.Queue()
    workers = [
        START.Process(target=repeatedly, args=(uri, registry.name, rounds, barrier, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for number in range(rounds):
        registry.challenge(str(number + 2))
        barrier.wait(60)  # go
        champions = set()
        while barrier.n_waiting < processes:  # whoever looks meanwhile finds a champion
            champions.add(registry.aliases()[CHAMPION])
        assert champions <= {str(number + 1), str(number + 2)}
        barrier.wait(60)
    found = [results.get(timeout=60) for _ in range(rounds * processes)]
    for worker in workers:
        worker.join(60)
    assert Counter(found) == Counter(
        {(n, how): count for n in range(rounds) for how, count in (("won", 1), ("lost", 2))}
    )
    assert registry.aliases() == {CHAMPION: str(rounds + 1), PREVIOUS: str(rounds)}
    assert [move.state for move in registry.moves()] == ["done"] * (rounds + 1)
    assert not locks(registry)


def test_a_stale_lock_is_taken_over_once_and_its_holder_moves_nothing(registry: Registry) -> None:
    def lock() -> RegistryLock:
        return RegistryLock(registry.client, registry.uri, registry.name, lease_s=0.5, patience_s=5)

    slow = lock().__enter__()
    slow.check()
    with lock() as second:
        second.check()
        with pytest.raises(LostRaceError, match="took longer"):
            slow.check()
        slow.__exit__(None, None, None)
        assert locks(registry) == [f"{registry.name}.lock.2"]  # the slow one gave back its own, and no other
    assert not locks(registry)


def test_a_lock_that_is_held_is_waited_for_until_patience_ends(registry: Registry) -> None:
    with RegistryLock(registry.client, registry.uri, registry.name):
        hurried = RegistryLock(registry.client, registry.uri, registry.name, lease_s=20, patience_s=0.3)
        with pytest.raises(LostRaceError, match=rf"moved by .*process {os.getpid()}; try again"):
            hurried.__enter__()


def test_a_lost_lock_is_not_undone_by_its_former_holder(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sleeps before the second alias, and another one, whose leases are short, settles the move meanwhile."""
    point = Registry._point

    def sleepy(self: Registry, alias: str, version: str | None) -> None:
        point(self, alias, version)
        if self is registry and alias == PREVIOUS:
            monkeypatch.setattr(Registry, "_point", point)
            replace(registry, lease_s=4.0).promote("2", "1")

    monkeypatch.setattr(Registry, "_point", sleepy)
    with pytest.raises(LostRaceError):
        registry.promote("2", "1")
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}
    assert [move.state for move in registry.moves()] == ["done", "undone", "done"]


def promoted(number: int, champion: str, replaced: str | None) -> Move:
    return Move(number, "promotion", champion, replaced, None, replaced, "me", "now", state="done")


def rolled_back(number: int, champion: str, replaced: str) -> Move:
    return Move(number, "rollback", champion, replaced, champion, None, "me", "now", "bad", "done")


@pytest.mark.parametrize(
    ("moves", "champion", "expected"),
    [
        ([promoted(1, "7", None), promoted(2, "8", "7"), promoted(3, "9", "8")], "9", None),  # 7 and 8 were deleted
        ([], "1", None),
        ([promoted(1, "1", None)], "1", None),
        ([promoted(1, "2", "1"), promoted(2, "3", "2")], "2", "1"),
        ([promoted(1, "2", "1"), rolled_back(2, "1", "2"), promoted(3, "3", "1")], "3", "1"),
        ([promoted(1, "2", "1"), promoted(2, "3", "2"), promoted(3, "1", "3")], "1", "3"),
        ([promoted(1, "2", "1"), promoted(2, "3", "2"), rolled_back(3, "2", "3")], "2", "1"),
        ([promoted(1, "2", "1")], "9", None),
    ],
)
def test_the_pile_of_champions(moves: list[Move], champion: str, expected: str | None) -> None:
    assert below(moves, champion, {"1", "2", "3", "9"}) == expected
