"""`recsys checkpoint` on checkpoints that no training has made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from recsys.cli.checkpoint import main
from recsys.cli.checkpoint_export import ExportCLI
from recsys.training.sharded_checkpoint import REPLICATED, CheckpointError

TABLES = {"network.items.ids.embeddings.item_id.weight": (300, 16), "network.bags.embedding_bags.words.weight": (7, 16)}
DENSE = {"network.project.weight": (16, 16), "network.positions.weight": (5, 16)}

pytestmark = pytest.mark.filterwarnings("ignore")


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint as Lightning writes it."""
    torch.save({"epoch": 3, "global_step": 70, "state_dict": weights(TABLES | DENSE)}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of sharded tables, written by five ranks as it says."""
    path, (table, _) = tmp_path / "sharded.ckpt", TABLES
    state = {f"table.{name}": weight for name, weight in weights(TABLES).items()}
    dcp.save(state | {f"optimizer.{table}/momentum1": torch.zeros(300)}, checkpoint_id=path, no_dist=True)
    torch.save({"epoch": 3, "global_step": 70, "ranks": 5, "state_dict": weights(DENSE)}, path / REPLICATED)
    return path


def looked_into(path: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_has_its_tables(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = looked_into(file, capsys)
    assert (found["sharded"], found["epoch"], found["step"], found["ranks"]) == (False, 3, 70, 1)
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in found["tensors"]} == TABLES
    for tensor in found["tensors"]:
        rows, dim = tensor["shape"]
        assert tensor["mib"] * 2**20 == tensor["disk_bytes"] == rows * dim * 4
        assert (tensor["kind"], tensor["shards"]) == ("table", 1)
    assert found["disk_bytes"] == file.stat().st_size


def test_a_folder_has_tables_and_the_state_of_their_optimizer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = looked_into(folder, capsys)
    assert (found["sharded"], found["epoch"], found["step"], found["ranks"]) == (True, 3, 70, 5)
    of_kind = {kind: {t["name"]: t for t in found["tensors"] if t["kind"] == kind} for kind in ("table", "optimizer")}
    assert {name: tuple(tensor["shape"]) for name, tensor in of_kind["table"].items()} == TABLES
    ((name, state),) = of_kind["optimizer"].items()
    assert name.endswith("item_id.weight/momentum1") and state["shape"] == [300]
    assert all(tensor["disk_bytes"] >= tensor["mib"] * 2**20 for tensor in found["tensors"])
    assert sum(tensor["disk_bytes"] for tensor in found["tensors"]) < found["disk_bytes"]
    assert found["disk_bytes"] == sum(part.stat().st_size for part in folder.iterdir())


def test_people_get_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(folder)])
    printed = capsys.readouterr().out
    assert "epoch 3 (the first is 0), step 70; tables written by 5 ranks" in " ".join(printed.split())
    assert "300 x 16" in printed and "7 x 16" in printed and "project" not in printed


def test_a_checkpoint_without_a_run_is_not_exported(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last.ckpt: belongs to no run, for there is no .*config.yaml"):
        main(["export", str(file), "--folder", str(tmp_path / "model")])
    with pytest.raises(CheckpointError, match=r"nowhere: no checkpoint there"):
        main(["export", str(tmp_path / "nowhere"), "--folder", str(tmp_path / "model")])


def test_tables_that_do_not_fit_are_not_read(folder: Path, tmp_path: Path) -> None:
    exactly = (300 + 7) * 16 * 4 / 2**30
    arguments = ["export", str(folder), "--folder", str(tmp_path / "model"), "--memory_gib"]
    with pytest.raises(CheckpointError, match="export on a machine that holds them"):
        main([*arguments, str(exactly * 0.999)])
    with pytest.raises(CheckpointError, match="belongs to no run"):
        main([*arguments, str(exactly)])


def test_an_export_speaks_under_its_own_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_FIT_SEED_EVERYTHING", "no number")  # what a job is told by the environment is not for it
    with pytest.raises(SystemExit) as ended:
        ExportCLI(args=["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: recsys checkpoint export")
