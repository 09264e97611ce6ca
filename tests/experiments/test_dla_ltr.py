"""Cells of judged queries, on a small set of the same form, and what their parts are said to do."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dual_learning
import numpy as np
import pandas as pd
import pytest
import torch
from _dla_cells import Cell, shuffled, world
from _dla_ltr import (
    METHODS,
    NAME,
    RANKER,
    SMOKE,
    BestByClicks,
    LtrCell,
    LtrSize,
    discounted,
    held_out_clicks,
    ltr_cells,
    production_ranker,
    queries,
    run_ltr,
    standardised,
)
from _dla_tables import table
from _report_dla import dual_learning_part

from recsys.features.datasets import DatasetError
from recsys.features.judged_queries import load_judged
from recsys.models.ltr_scorer import PointwiseScorer
from recsys.training.listwise import ListwiseModule
from recsys.unbiased.click_models import PositionBased
from recsys.unbiased.inverse_propensity import InversePropensity, NaiveClicks
from recsys.unbiased.shown_lists import ShownLists
from recsys.unbiased.synthetic_lists import JudgedLists

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = LtrSize(steps=4, batch_size=16, shuffled=1000, counted=1000, production=5, held_out=10, validating=1000, every=2)


def cell(method: str = "dual", eta: float = 1.0, seed: int = 0) -> LtrCell:
    return LtrCell("position", eta, RANKER, None, method, seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a set of 40 and 10 queries of 3 to 15 documents, whose first feature tells the grade."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    query = np.repeat(np.arange(50), random.integers(3, 16, 50))
    features = random.random((len(query), 4)).astype(np.float32)
    features[:, 3] = 0.5  # without deviation
    frame = pd.DataFrame(features, columns=[f"f{number}" for number in range(4)])
    grade = np.floor(5 * (0.8 * features[:, 0] + 0.2 * random.random(len(query)))).clip(0, 4).astype(int)
    frame = frame.assign(query_id=query, relevance=grade, split=np.where(query < 40, "train", "test"))
    (folder / NAME).mkdir()
    frame.to_parquet(folder / NAME / "documents.parquet")
    return folder


@pytest.fixture(autouse=True)
def _given(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RECSYS_DATA", str(root))
    queries.cache_clear()
    world.cache_clear()
    yield
    queries.cache_clear()
    world.cache_clear()


def test_cells_have_names_of_their_own() -> None:
    made = ltr_cells(2)
    assert len({one.name for one in made}) == len(made) == 2 * (5 * (len(METHODS) - 1) + 1)
    assert all(one.name.startswith("ltr-position-") for one in made)


def test_queries_are_shared_out_once() -> None:
    made, parts = queries(TINY), load_judged(NAME)
    assert (len(made.shown.label), len(made.held_out.label), len(made.test.label)) == (25, 10, 10)
    assert made.shown.label.shape[1] == made.held_out.label.shape[1] == 10 < made.test.label.shape[1]
    assert made.test.label.equal(torch.from_numpy(parts["test"].grade))
    assert bool(made.shown.mask[:, 0].all()) and not bool(made.shown.mask.all())
    seen = [tuple(row.tolist()) for lists in (made.shown, made.held_out) for row in lists.features[:, 0, :3]]
    assert len(set(seen)) == 35
    assert not bool(made.shown.features[~made.shown.mask].any())
    assert world(RANKER, TINY).shown is made.shown


def test_features_are_standardised_by_the_training_documents() -> None:
    part = load_judged(NAME)["train"]
    lists = JudgedLists(*map(torch.from_numpy, part))
    documents = part.features[part.mask]
    found = standardised(lists, torch.from_numpy(documents))
    values = found.features[found.mask].numpy()
    assert values[:, :3] == pytest.approx(
        (documents[:, :3] - documents[:, :3].mean(0)) / documents[:, :3].std(0), abs=1e-5
    )
    assert values[:, 3] == pytest.approx(0.0, abs=1e-5) and not found.features[~found.mask].any()


def test_the_production_ranker_minimises_the_loss_over_pairs() -> None:
    """Of two features, one of which decides; the loss is that of a loop, and nothing beside the minimum is smaller."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 4, 2, generator=generator)
    label = torch.bucketize(features[..., 0] + torch.randn(6, 4, generator=generator), torch.tensor([-0.5, 0.5]))
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[2, 2:] = False
    scorer = production_ranker(JudgedLists(features, label, mask), penalty=0.01)
    (weights, bias) = (each.detach().squeeze(0).double() for each in scorer.parameters())

    def loss(weights: torch.Tensor) -> float:
        documents = []
        for query in range(6):
            n = int(mask[query].sum())
            scores = (features[query].double() @ weights).tolist()
            for own in range(n):
                below = [scores[other] for other in range(n) if label[query, other] < label[query, own]]
                if below:
                    documents.append(np.mean([math.log1p(math.exp(other - scores[own])) for other in below]))
        return float(np.mean(documents)) + 0.01 * float(weights.square().sum())

    assert weights[0] > 0.5 and bias.item() == pytest.approx(0.0, abs=1e-6)
    least = loss(weights)
    for direction in torch.randn(20, 2, generator=generator).double():
        assert loss(weights + 0.05 * direction / direction.norm()) > least


def test_discounted_clicks_are_those_of_a_loop() -> None:
    scores, amount = torch.tensor([[0.0, 2.0, 9.0], [3.0, 1.0, 2.0]]), torch.tensor([[4.0, 1.0, 7.0], [2.0, 3.0, 5.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    by_rank = [1.0 + 2.0, 4.0 + 5.0, 3.0]  # of both lists, first to third
    expected = sum(one / math.log2(rank + 1) for rank, one in enumerate(by_rank, start=1)) / 15
    assert discounted(scores, amount, mask) == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "chosen"), [(NaiveClicks(), 1), (InversePropensity([1.0, 0.1]), 2)])
def test_the_scorer_is_chosen_by_clicks_over_propensities(loss: Any, chosen: int) -> None:
    """The document below has fewer clicks, and more for each who examined it."""
    lists = ShownLists(torch.eye(2)[None], torch.tensor([[10.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool))
    module, callback = ListwiseModule(PointwiseScorer(2, hidden=()), loss), BestByClicks(lists, every=1)
    for step, weights in enumerate(([1.0, 0.0], [0.0, 1.0], [0.0, 0.0]), start=1):
        module.scorer.layers[0].weight.data = torch.tensor([weights])
        callback.on_train_batch_end(type("Trainer", (), {"global_step": step})(), module)
    callback.on_train_end(None, module)  # type: ignore[arg-type]
    assert callback.chosen == chosen
    assert module.scorer.layers[0].weight.squeeze(0).tolist() == [float(chosen == 1), float(chosen == 2)]


def test_held_out_clicks_are_those_of_users() -> None:
    size = LtrSize(production=5, held_out=10, validating=200_000)
    found, lists = held_out_clicks(cell(eta=2.0), size), queries(size).held_out
    chance = PositionBased(eta=2.0).chances(10) * (0.1 + 0.9 * (2.0**lists.label - 1) / 15) * lists.mask
    expected = 20_000 * chance
    assert float((((found.click - expected) / (expected + 1).sqrt()).abs()).max()) < 5
    gains = held_out_clicks(cell("labels"), size)
    assert gains.click[lists.mask].equal(torch.exp2(lists.label[lists.mask].float()) - 1)


def test_shuffled_lists_are_those_of_full_length() -> None:
    size = LtrSize(production=5, held_out=10, shuffled=400_000)
    chances = PositionBased(eta=1.0).chances(10)
    assert shuffled(cell(), size).tolist() == pytest.approx((chances / chances[0]).tolist(), rel=0.05)


def test_every_method_is_trained_and_judged() -> None:
    made = [cell(method) for method in METHODS]
    finished = {one.name: run_ltr(one, TINY) for one in made}
    rows = {row["method"]: row for row in table(made, finished)}
    json.dumps([finished, rows], allow_nan=False)
    assert set(rows) == set(METHODS) and "propensities" not in rows["naive"]
    assert rows["dual"]["propensities"][1:] != [1.0] * 9
    assert rows["dual"]["comparisons"]["ipw_true"]["seeds"] == [0]
    for content in finished.values():
        assert content["chosen_step"] in (2, 4) and len(content["metrics"]["NDCG@10"]) == 10
    assert run_ltr(cell(), TINY)["metrics"] == finished[cell().name]["metrics"]


def test_without_its_data_the_table_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ltr" in dual_learning.all_tables(1, smoke=True)
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    assert "ltr" not in dual_learning.all_tables(1, smoke=True)
    assert f"table `ltr` is left out: {NAME}: no {tmp_path}" in capsys.readouterr().out
    (tmp_path / NAME).mkdir()
    pd.DataFrame({"query_id": [1]}).to_parquet(tmp_path / NAME / "documents.parquet")
    with pytest.raises(ValueError, match="no column"):  # there, and not what it should be
        dual_learning.all_tables(1, smoke=True)


def test_the_page_has_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual_learning, "LtrSize", lambda: TINY)
    arguments = ["dual_learning.py", "--cells", str(tmp_path / "cells"), "--results", str(tmp_path / "dual_learning")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "1", "--table", "ltr", "--cell", "*-1-*"])
    dual_learning.main()
    content = json.loads((tmp_path / "dual_learning" / "ltr.json").read_text())
    page = "\n".join(dual_learning_part(tmp_path))
    (row,) = [row for row in content["rows"] if row["method"] == "dual"]
    assert f"{row['metrics']['NDCG@10']['mean']:.4f}" in page and "### the learning-to-rank example" in page
    assert "![position-1-linear](dual_learning/position-1-linear.png)" in page


@pytest.mark.skipif(not os.environ.get("RECSYS_DATA"), reason="RECSYS_DATA names no folder of data sets")
def test_a_cell_of_the_example_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    try:
        load_judged(NAME)
    except DatasetError as missing:
        pytest.skip(str(missing))
    one: Cell = cell()
    content = run_ltr(one, SMOKE)
    values = np.array(content["metrics"]["NDCG@10"], dtype=float)
    assert len(values) == 50 and 0.5 < values.mean() < 1 and content["position_r2"] > 0.6
