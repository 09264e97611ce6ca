"""Jobs with a model from the registry: the version behind the alias when the job begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.candidates.files import JobError
from recsys.candidates.run import run_job
from recsys.candidates.sources import ModelSource
from recsys.models.artefact import ArtefactError
from recsys.tracking.logged_model import save_model
from recsys.tracking.model_files import FILES, files_digest
from recsys.tracking.registry import Registry
from recsys.tracking.registry_calls import RegistryError, default_store
from tests.candidates.conftest import Saved, contents, lists_of
from tests.tracking.stores import empty_store

Make = Callable[..., Saved]
URI = "models:/shop@champion"


@pytest.fixture(scope="module")
def store(saved: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of `shop`, popularity and neighbours."""
    place = tmp_path_factory.mktemp("store")
    registry = Registry.open("shop", empty_store(place))
    registry.client.create_registered_model("shop")
    for name in ("popularity", "cosine"):
        save_model(saved(name).folder / "model", place / name)
        made = registry.client.create_model_version("shop", f"file://{place / name}")
        with default_store(registry.uri):
            registry.tag(made.version, {FILES: files_digest(f"models:/shop/{made.version}", registry.uri)})
    return place


@pytest.fixture
def registry(store: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The first version is the champion."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    registry = Registry.open("shop")
    registry.client.set_registered_model_alias("shop", "champion", "1")
    return registry


def test_the_champion_makes_the_lists(saved: Make, registry: Registry, tmp_path: Path) -> None:
    made = saved("popularity")
    ours = run_job(made.config(tmp_path / "a", model=URI))
    theirs = run_job(made.config(tmp_path / "b"))
    columns = ["user_id", "item_id", "rank", "score"]
    assert lists_of(ours.folder)[columns].equals(lists_of(theirs.folder)[columns])
    assert set(lists_of(ours.folder)["model_version"]) == {"shop/1"} and not (ours.folder / "inputs").exists()
    before = contents(ours.folder)
    registry.client.set_registered_model_alias("shop", "champion", "2")
    with pytest.raises(JobError, match=r"`model` was shop/1 .* and is shop/2"):
        run_job(made.config(tmp_path / "a", model=URI))
    assert run_job(made.config(tmp_path / "a", model="models:/shop/1")).made == 0
    assert contents(ours.folder) == before


def test_a_source_may_be_registered_too(saved: Make, registry: Registry, tmp_path: Path) -> None:
    sources = (ModelSource(name="neighbours", model="models:/shop/2", quota=2), ModelSource())
    found = lists_of(run_job(saved("popularity").config(tmp_path / "out", sources=sources)).folder)
    assert found.groupby("source").size().to_dict() == {"model": 120, "neighbours": 80}


def test_wrong_names_and_files_are_refused(saved: Make, registry: Registry, store: Path, tmp_path: Path) -> None:
    made = saved("popularity")
    with pytest.raises(JobError, match="`shop` has no alias `challenger`, but `champion`"):
        run_job(made.config(tmp_path / "out", model="models:/shop@challenger"))
    with pytest.raises(RegistryError):
        run_job(made.config(tmp_path / "out", model="models:/none@champion"))
    bundle = store / "popularity" / "artifacts" / "bundle"  # of this test alone from here on
    (bundle / "serving.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"serving\.json: altered"):
        run_job(made.config(tmp_path / "out", model=URI))
    (bundle / "manifest.json").write_text("{}")
    with pytest.raises(RegistryError, match="its files are not those that were registered"):
        run_job(made.config(tmp_path / "out2", model=URI))
