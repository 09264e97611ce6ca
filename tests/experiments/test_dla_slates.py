"""The world of films and its slates, against what they are said to be, and one short training of each method."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from _dla_slates import METHODS, RANKER, SlateCell, SlateSize, films, judge, run_slates, slate_cells, slates
from _dla_tables import table

from recsys.features.catalogue import Catalogue
from recsys.models.synergen import SynerGen
from recsys.unbiased.click_models import PositionBased, perceived_relevance

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = SlateSize(films=60, slates=300, lists=1, steps=2, slates_per_step=16, windows=8, width=16)


def cell(method: str = "dual", eta: float = 1.0, seed: int = 0) -> SlateCell:
    return SlateCell("position", eta, RANKER, TINY.slates, method, seed)


def test_cells_have_names_of_their_own() -> None:
    made = slate_cells(2, TINY)
    assert len({one.name for one in made}) == len(made) == 3 * len(METHODS) * 2
    assert all(one.name.startswith("slates-position-") for one in made)


def test_grades_are_those_of_completed_ratings() -> None:
    """Who rated a film high is said to like it; shares of the grades are as they were cut."""
    world = films(TINY)
    shares = np.bincount(world.grade[1:].ravel()) / world.grade[1:].size
    assert shares == pytest.approx([0.4, 0.25, 0.2, 0.1, 0.05], abs=0.01)
    from recsys.features.datasets import load_dataset

    events = load_dataset("movielens_100k").events
    assert isinstance(events, pd.DataFrame)
    place = np.full(world.split.log.n_items + 1, -1)
    place[world.film] = np.arange(len(world.film))
    log = world.split.log
    user, film = log.users.encode(events["user_id"]), place[log.items.encode(events["item_id"])]
    known = film >= 0
    mean = pd.Series(world.grade[user[known], film[known]]).groupby(events["rating"][known].to_numpy()).mean()
    assert mean.is_monotonic_increasing and mean[5] > mean[1] + 1.5
    assert np.bincount(log.item_id)[world.film].min() >= np.sort(np.bincount(log.item_id))[-61]


def test_slates_are_shown_to_training_users_and_clicked_by_position() -> None:
    size = SlateSize(films=60, slates=20_000)
    world, frame = films(TINY), slates(SlateCell("position", 1.0, RANKER, size.slates, "dual", 0), size)
    log = world.split.log
    assert not frame.duplicated(["request_id", "item_id"]).any() and len(frame) == 10 * size.slates
    user = log.users.encode(frame["user_id"])
    assert (world.split.train_end[user] > world.split.train_start[user]).all()
    place = np.full(log.n_items + 1, -1)
    place[world.film] = np.arange(len(world.film))
    grade = world.grade[user, place[log.items.encode(frame["item_id"])]]
    chance = perceived_relevance(torch.from_numpy(grade)).numpy()
    chance = chance * np.tile(PositionBased().chances(10).numpy(), size.slates)
    for position in range(1, 11):
        own = (frame["position"] == position).to_numpy()
        off = frame["click"][own].mean() - chance[own].mean()
        assert abs(off) < 4 * np.sqrt((chance[own] * (1 - chance[own])).sum()) / own.sum()
    shown = np.bincount(log.item_id)[log.items.encode(frame["item_id"])]
    popular = pd.Series(np.log(shown)).groupby(frame["position"].to_numpy()).mean()
    assert (popular.diff()[1:] < 0).all()


def test_lists_are_judged_by_what_users_like() -> None:
    """A network that scores by the truth is perfect, and one that scores by its reverse is not."""
    world = films(TINY)
    truth = torch.zeros(world.split.log.n_users + 1, world.split.log.n_items + 1)
    truth[:, torch.from_numpy(world.film)] = torch.from_numpy(world.grade).float()
    network = SynerGen(Catalogue.from_split(world.split), width=16, layers=1, ranking=True)
    for sign, low, high in ((1.0, 1.0, 1.0), (-1.0, 0.0, 0.4)):
        network.candidate_scores = lambda known, candidates, sign=sign: (  # type: ignore[method-assign]
            sign * truth[known.user_id].gather(1, candidates)
        )
        found = judge(network, TINY)["NDCG@10"].nanmean().item()
        assert low - 1e-9 <= found <= high + 1e-9
    assert len(judge(network, TINY)["NDCG@10"]) == len(world.split.test)


def test_every_method_is_trained_and_judged() -> None:
    finished = {cell(method).name: run_slates(cell(method), TINY) for method in METHODS}
    rows = {row["method"]: row for row in table([cell(method) for method in METHODS], finished)}
    json.dumps(rows, allow_nan=False)
    assert set(rows) == set(METHODS) and "propensities" not in rows["naive"]
    assert rows["dual"]["propensities"][1:] != [1.0] * 9 and rows["dual"]["sessions"] == TINY.slates
    assert rows["ipw_true"]["log_error"]["mean"] == pytest.approx(0.0, abs=1e-5)
    assert rows["dual"]["comparisons"]["ipw_true"]["seeds"] == [0]
    again = run_slates(cell("dual"), TINY)
    assert again["metrics"] == finished[cell("dual").name]["metrics"]
