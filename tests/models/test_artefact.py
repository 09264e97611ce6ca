from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models import artefact
from recsys.models.artefact import ArtefactError, load_model, read_manifest, save_model
from recsys.models.popularity import Popularity, RecentPopularity
from recsys.models.recommender import Recommender

THIRD_PARTY = """
from recsys.models.popularity import Popularity

class Upside(Popularity):
    def item_vectors(self, ids=None):
        return -super().item_vectors(ids)
"""


def batch(n_users: int = 2) -> SequenceBatch:
    empty = torch.zeros(0, dtype=torch.int64)
    users = torch.zeros(n_users, dtype=torch.int64)
    return SequenceBatch.build(users, torch.zeros_like(users), empty, empty)


@pytest.fixture
def model() -> RecentPopularity:
    return RecentPopularity.from_state({"days": 7.5}, {"popularity": torch.tensor([0.0, 3, 1, 2])})


@pytest.fixture
def folder(tmp_path: Path, model: RecentPopularity) -> Path:
    save_model(model, tmp_path / "model", {"schema.yaml": b"name: shop\n"})
    return tmp_path / "model"


def test_a_saved_model_comes_back(folder: Path, model: RecentPopularity) -> None:
    loaded = load_model(folder)
    assert type(loaded) is RecentPopularity
    assert loaded.config() == {"days": 7.5}
    assert torch.equal(loaded.scores(batch()), model.scores(batch()))


def test_the_folder_holds_what_the_manifest_lists_and_nothing_executable(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.class_path == "recsys.models.popularity.RecentPopularity"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*manifest.files, "manifest.json"])
    assert set(manifest.files) == {"config.json", "weights.safetensors", "schema.yaml"}
    with safe_open(folder / "weights.safetensors", "pt") as weights:
        assert list(weights.keys()) == ["popularity"]


def test_extras_are_written_from_bytes_and_from_files(tmp_path: Path, model: Recommender) -> None:
    source = tmp_path / "items.parquet"
    source.write_bytes(b"parquet")
    folder = tmp_path / "deep" / "model"
    manifest = save_model(model, folder, {"vocabularies/items.parquet": source, "schema.yaml": b"name: shop"})
    assert (folder / "vocabularies" / "items.parquet").read_bytes() == b"parquet"
    assert (folder / "schema.yaml").read_bytes() == b"name: shop"
    assert read_manifest(folder) == manifest
    assert "vocabularies/items.parquet" in manifest.files


@pytest.mark.parametrize("name", ["config.json", "./weights.safetensors", "manifest.json", "../up", "/abs", "", "a\\b"])
def test_extras_with_other_names_are_refused(tmp_path: Path, model: Recommender, name: str) -> None:
    with pytest.raises(ArtefactError):
        save_model(model, tmp_path / "model", {name: b"x"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "schema.yaml"])
def test_an_altered_or_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtefactError, match=rf"{name}: altered"):
        load_model(folder)
    (folder / name).unlink()
    with pytest.raises(ArtefactError, match=rf"{name}: missing"):
        load_model(folder)


def edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("os.system", "no Recommender"),
        ("collections.OrderedDict", "no Recommender"),
        ("no_such_package.Model", "install the package"),
        ("recsys.models.popularity.NoSuchModel", "install the package"),
        ("nothing", "install the package"),
    ],
)
def test_a_foreign_class_is_refused(folder: Path, class_path: str, message: str) -> None:
    edit_manifest(folder, class_path=class_path)
    with pytest.raises(ArtefactError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "changes", [{"version": 2}, {"files": {}}, {"files": {"../x": "0"}}, {"unknown": 1}, {"files": None}]
)
def test_a_manifest_that_is_not_ours_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(ArtefactError):
        load_model(folder)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no saved model"):
        load_model(tmp_path)
    with pytest.raises(ArtefactError, match="no saved model"):
        load_model(tmp_path / "nowhere")


def test_a_model_of_another_package_is_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_party_model.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import third_party_model  # type: ignore[import-not-found]

    upside = third_party_model.Upside.from_state({}, {"popularity": torch.tensor([0.0, 1, 2])})
    save_model(upside, tmp_path / "model")
    monkeypatch.delitem(sys.modules, "third_party_model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded).__module__ == "third_party_model"
    assert loaded.scores(batch(1)).tolist() == [[-torch.inf, -1.0, -2.0]]


def test_a_class_that_no_other_process_can_import_is_refused(tmp_path: Path) -> None:
    class Local(Popularity):
        pass

    with pytest.raises(ArtefactError, match="top level of a module"):
        save_model(Local.from_state({}, {"popularity": torch.ones(3)}), tmp_path / "model")


@pytest.mark.parametrize("value", [Path("x"), float("nan"), {1, 2}])
def test_a_configuration_that_is_not_json_is_refused(tmp_path: Path, model: RecentPopularity, value: Any) -> None:
    model.days = value
    with pytest.raises(ArtefactError, match="not JSON"):
        save_model(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def popularity(*values: float) -> Popularity:
    return Popularity.from_state({}, {"popularity": torch.tensor([0.0, *values])})


def test_saving_again_replaces_the_model_and_leaves_nothing_behind(folder: Path) -> None:
    save_model(popularity(1, 2), folder)
    assert isinstance(load_model(folder), Popularity) and load_model(folder).n_items == 2
    assert not (folder / "schema.yaml").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="what a handle is open on is read from /proc")
def test_all_of_a_model_is_on_the_disk_before_the_old_one_goes(
    folder: Path, model: RecentPopularity, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    seen: list[set[str]] = []
    replaced = artefact._put_in_place

    def fsync(handle: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{handle}")))

    def put_in_place(temporary: Path, final: Path) -> None:
        assert {temporary, *temporary.rglob("*")} <= synced
        seen.append({path.name for path in temporary.rglob("*")})
        synced.clear()
        replaced(temporary, final)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(artefact, "_put_in_place", put_in_place)
    save_model(model, folder, {"more/schema.yaml": b"name: shop\n"})
    assert seen == [{"config.json", "manifest.json", "weights.safetensors", "more", "schema.yaml"}]
    assert synced == {folder.parent}  # and then the new name


@pytest.mark.parametrize("failing", ["save_file", "file_sha256"])
def test_a_failure_while_writing_leaves_the_old_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(artefact, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            save_model(popularity(1, 2), folder)
    assert load_model(folder).n_items == 3
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failure_of_the_last_rename_puts_the_old_model_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def fail(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError("no rename")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(artefact.os, "replace", fail)
        with pytest.raises(OSError, match="no rename"):
            save_model(popularity(1, 2), folder)
    assert load_model(folder).n_items == 3
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_or_file_that_is_no_model_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "log.csv").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("data", "file"):
        with pytest.raises(ArtefactError, match="no saved model"):
            save_model(popularity(1), tmp_path / name)
    assert (tmp_path / "data" / "log.csv").read_text() == (tmp_path / "file").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    save_model(popularity(1), tmp_path / "empty")
    assert load_model(tmp_path / "empty").n_items == 1


class Views(Popularity):
    """A model whose tensors are parts of one storage, as fused embedding tables are."""

    def state(self) -> dict[str, Tensor]:
        whole = torch.arange(6.0)
        return {"popularity": whole[:3], "rest": whole[3:]}


def test_tensors_of_one_storage_are_kept_apart(tmp_path: Path) -> None:
    save_model(Views(), tmp_path / "model")
    saved = load_file(tmp_path / "model" / "weights.safetensors")
    assert {name: value.tolist() for name, value in saved.items()} == {"popularity": [0, 1, 2], "rest": [3, 4, 5]}
