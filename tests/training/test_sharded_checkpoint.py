"""A checkpoint is there whole or not at all, wherever a job dies; and what cannot be read is named."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from recsys.training import sharded_checkpoint
from recsys.training.sharded_checkpoint import (
    METADATA,
    REPLICATED,
    CheckpointError,
    consolidate,
    finish,
    inspect,
    is_sharded,
    load_replicated,
    load_tables,
    part_of,
    remove,
    settle,
    start,
    tables,
)

TABLE, STATE = "items.weight", "items.weight/momentum1"


def write(path: Path, value: float) -> None:
    """A complete checkpoint, without a process group."""
    part = start(path)
    torch.save({"state_dict": {"line.weight": torch.full((2,), value)}, "step": int(value)}, part / REPLICATED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state = {f"table.{TABLE}": torch.full((3, 2), value), f"optimizer.{STATE}": torch.full((3,), value)}
        dcp.save(state, checkpoint_id=part)
    finish(path)


def value_of(path: Path) -> float:
    weights = consolidate(path)
    assert weights.keys() == {TABLE, "line.weight"}
    (value,) = {float(value) for weight in weights.values() for value in weight.flatten()}
    assert load_replicated(path)["step"] == int(value)
    return value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


def test_the_newer_replaces_the_older(path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        write(path, value)
        assert value_of(path) == value
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]
    assert is_sharded(path)


class Killed(BaseException):
    """Where a job dies."""


@pytest.mark.parametrize("moment", range(5))
def test_a_job_that_dies_at_any_moment_leaves_one_that_can_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The moments are those before each change that `finish` makes to the folder."""
    write(path, 1.0)
    changes = iter(range(9))

    def dying(change):
        def changed(*arguments, **more):
            if next(changes) == moment:
                raise Killed
            return change(*arguments, **more)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(sharded_checkpoint, "remove", dying(remove))
        patch.setattr(os, "replace", dying(os.replace))
        if moment == 4:
            write(path, 2.0)  # it makes four changes
        else:
            with pytest.raises(Killed):
                write(path, 2.0)
    assert settle(path) == path
    assert value_of(path) == (1.0 if moment < 3 else 2.0)
    write(path, 3.0)  # and goes on
    assert value_of(path) == 3.0
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]


def test_a_write_that_was_cut_off_is_begun_anew(path: Path) -> None:
    write(path, 1.0)
    part_of(path).mkdir()
    (part_of(path) / "__0_0.distcp").write_bytes(b"half")
    assert settle(path) == path and value_of(path) == 1.0
    assert list(start(path).iterdir()) == []
    assert value_of(path) == 1.0


def test_without_any_there_is_nothing_to_settle(path: Path) -> None:
    assert settle(path) == path and not path.exists()


def test_one_of_the_other_kind_is_replaced(path: Path) -> None:
    path.write_bytes(b"a checkpoint of one file")
    assert not is_sharded(path)
    write(path, 1.0)
    assert value_of(path) == 1.0


def test_what_is_removed_is_gone(path: Path, tmp_path: Path) -> None:
    file, link = tmp_path / "file.ckpt", tmp_path / "link.ckpt"
    write(path, 1.0)
    file.touch()
    link.symlink_to(path)
    remove(link)
    assert value_of(path) == 1.0
    for found in (path, file, tmp_path / "never.ckpt"):
        remove(found)
    assert list(tmp_path.iterdir()) == []


def test_what_it_holds_is_told(path: Path) -> None:
    write(path, 1.0)
    optimizer, table = inspect(path)
    assert (table.kind, table.name, table.shape, table.shards) == ("table", TABLE, (3, 2), 1)
    assert (optimizer.kind, optimizer.name, optimizer.shape) == ("optimizer", STATE, (3,))
    assert table.mib == 6 * 4 / 2**20
    assert tables(path) == [TABLE]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_tables_are_read_in_place(path: Path) -> None:
    write(path, 4.0)
    into = {f"table.{TABLE}": torch.zeros(3, 2), f"optimizer.{STATE}": torch.zeros(3)}
    load_tables(path, into, stepped=["items.weight"])
    assert all(bool((tensor == 4.0).all()) for tensor in into.values())


@pytest.mark.parametrize(
    ("into", "stepped", "message"),
    [
        ({"table.words.weight": torch.zeros(3, 2)}, [], "has no `table.words.weight`; it was saved from another model"),
        (
            {f"table.{TABLE}": torch.zeros(4, 2)},
            [],
            r"`table.items.weight` has shape \[3, 2\], the model wants \[4, 2\]",
        ),
        ({f"optimizer.{STATE}": torch.zeros(6)}, [], r"momentum1` has shape \[3\], the model wants \[6\]; .*same cuts"),
        (
            {f"table.{TABLE}": torch.zeros(3, 2)},
            ["items.weight"],
            "has no place for `optimizer.items.weight/momentum1`",
        ),
    ],
)
def test_what_does_not_fit_is_named(path: Path, into, stepped, message: str) -> None:
    write(path, 1.0)
    before = {name: tensor.clone() for name, tensor in into.items()}
    with pytest.raises(CheckpointError, match=f"last.ckpt: .*{message}"):
        load_tables(path, into, stepped)
    assert all(torch.equal(tensor, before[name]) for name, tensor in into.items())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("file", [REPLICATED, METADATA, "__0_0.distcp"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_damaged_file_is_named(path: Path, file: str, kept: float) -> None:
    write(path, 1.0)
    whole = (path / file).read_bytes()
    (path / file).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(CheckpointError, match=r"last.ckpt.*cannot be read \(.*\); resume from another checkpoint$"):
        consolidate(path)
        load_tables(path, {f"optimizer.{STATE}": torch.zeros(3)})


@pytest.mark.parametrize("file", [REPLICATED, METADATA])
def test_one_of_which_a_part_is_missing_is_none(path: Path, file: str) -> None:
    write(path, 1.0)
    (path / file).unlink()
    assert not is_sharded(path)
    with pytest.raises(CheckpointError, match="no checkpoint of sharded tables"):
        load_replicated(path)


def test_a_missing_shard_is_named(path: Path) -> None:
    write(path, 1.0)
    (path / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        consolidate(path)


def test_python_objects_are_read_on_demand_alone(path: Path) -> None:
    write(path, 1.0)
    torch.save({"folder": Path("runs"), "state_dict": {}}, path / REPLICATED)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_replicated(path)
    assert load_replicated(path, weights_only=False)["folder"] == Path("runs")
    shutil.rmtree(path)
