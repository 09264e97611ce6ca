"""Histories, ids, and preferences that are planted or fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.item_item import Cosine
from recsys.models.popularity import Popularity
from recsys.models.synergen import SynerGen
from recsys.simulation.world.experiment import Design, simulate
from recsys.simulation.world.fitted import fit_preferences
from recsys.simulation.world.histories import Histories
from recsys.simulation.world.latent_model import LatentModel
from recsys.simulation.world.model_ids import ModelIds
from recsys.simulation.world.policy import Lists, Policy
from recsys.simulation.world.preferences import planted
from recsys.simulation.world.visits import Visits
from recsys.simulation.world.world import World
from tests.simulation.world.worlds import best, small


def test_histories_grow_in_the_order_of_time() -> None:
    random = np.random.default_rng(0)
    expected: dict[int, list[tuple[int, int]]] = {user: [] for user in range(8)}
    histories = Histories.empty(7)
    for day in range(5):
        users = random.integers(1, 8, size=12)
        items = random.integers(1, 99, size=12)
        for user, item in zip(users, items, strict=True):
            expected[user].append((item, day))
        histories = histories.grown(torch.from_numpy(users), torch.from_numpy(items), day)
    asked = [5, 2, 7]
    batch = histories.of(torch.tensor(asked))
    assert batch.lengths.tolist() == [len(expected[user]) for user in asked]
    found = list(zip(batch.item_id.tolist(), batch.timestamp.tolist(), strict=True))
    assert found == [event for user in asked for event in expected[user]]


def test_lists_are_ranked_again_only_where_a_history_changed() -> None:
    world = small(n_users=20)
    policy, asked = best(world), []
    rank = policy.rank
    policy.rank = lambda users, *rest: asked.append(users.tolist()) or rank(users, *rest)  # type: ignore[method-assign,func-returns-value]
    lists, users = Lists(policy, 20, 3), torch.tensor([3, 5, 9])
    first = lists.of(users, world.histories)
    assert torch.equal(lists.of(users, world.histories).items, first.items)
    grown = world.histories.grown(torch.tensor([5]), first.items[1, :1], 0)
    again = lists.of(users, grown)
    assert asked == [[3, 5, 9], [5]]
    assert torch.equal(again.items, rank(users, grown, 3).items)
    assert first.items[1, 0] not in again.items[1] and torch.equal(again.items[::2], first.items[::2])
    without_room = Lists(policy, 20, 3, budget=100)
    assert torch.equal(without_room.of(users, grown).items, again.items)


def clicks_of(world: World) -> EventLog:
    """What users of a world clicked, with raw ids that are those of the world."""
    sessions = simulate(world, {"all": best(world)}, Design(days=4, length=4, keep=True)).sessions
    assert sessions is not None
    row, column = sessions.clicks.nonzero(as_tuple=True)
    frame = pd.DataFrame(
        {"user_id": sessions.user[row], "item_id": sessions.items[row, column], "timestamp": sessions.day[row] + 1}
    )
    return EventLog.from_frame(frame, Schema(name="clicks"))


@pytest.mark.filterwarnings("ignore")
def test_models_of_simulated_clicks_recommend_by_their_own_ids() -> None:
    world = small(n_users=300, n_items=120)
    log = clicks_of(world)
    assert log.n_items < world.n_items
    split = LeaveLastOut()(log)
    ids = ModelIds.of_log(log, world.n_users, world.n_items)
    popularity = Popularity()
    popularity.fit(split)
    ranked = Policy(popularity, ids=ids).rank(torch.tensor([1, 2]), world.histories, 5)
    counts = pd.Series(split.train_counts()[1:], index=log.items.values)
    assert counts[ranked.items[0].tolist()].tolist() == sorted(counts, reverse=True)[:5]
    assert torch.equal(ranked.items[0], ranked.items[1])


@pytest.mark.filterwarnings("ignore")
def test_a_network_is_asked_without_dropout_and_stays_in_training() -> None:
    world = small(n_users=300, n_items=60)
    log = clicks_of(world)
    torch.manual_seed(0)
    network = SynerGen(Catalogue.from_split(LeaveLastOut()(log)), width=16, dropout=0.5).train()
    policy = Policy(network, ids=ModelIds.of_log(log, world.n_users, world.n_items))
    users = torch.arange(1, 301)
    histories = Histories.empty(300).grown(users, users % 50 + 1, 0)
    assert torch.equal(policy.rank(users, histories, 4).items, policy.rank(users, histories, 4).items)
    assert network.training


def test_models_without_vectors_are_ranked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    world, asked = small(n_users=50), []

    class Plain(LatentModel):
        """Read by its scores."""

        def scores(self, batch: SequenceBatch) -> torch.Tensor:
            asked.append(len(batch))
            return super().scores(batch)

    model = Plain.of(world.preferences)
    monkeypatch.setattr("recsys.simulation.world.policy.BLOCK_BYTES", 12 * 4 * 41)
    monkeypatch.setattr("recsys.simulation.world.policy.VectorRecommender", int)
    monkeypatch.setattr("recsys.retrieval.topk.VectorRecommender", int)
    users = torch.arange(1, 51)
    found = Policy(model).rank(users, world.histories, 3)
    assert asked == [12, 12, 12, 12, 2]
    expected = world.preferences.relevance(users, torch.arange(1, 41).expand(50, -1)).topk(3).indices + 1
    assert torch.equal(found.items, expected)


@pytest.mark.filterwarnings("ignore")
def test_a_recommender_that_reads_histories_reacts_to_what_its_users_click() -> None:
    world = small(n_users=300, n_items=120)
    log = clicks_of(world)
    model = Cosine()
    model.fit(LeaveLastOut()(log))
    policy = Policy(model, ids=ModelIds.of_log(log, world.n_users, world.n_items))
    sessions = simulate(world, {"all": policy}, Design(days=4, length=4, keep=True)).sessions
    assert sessions is not None
    changed, kept = 0, 0
    for user in range(1, 301):
        before = (sessions.user == user) & (sessions.day < 2)
        after = (sessions.user == user) & (sessions.day >= 2)
        if before.any() and after.any():
            clicked = sessions.items[before][sessions.clicks[before]]
            same = set(sessions.items[before][0].tolist()) == set(sessions.items[after][-1].tolist())
            changed, kept = changed + (len(clicked) > 0 and not same), kept + (len(clicked) == 0 and not same)
            assert not torch.isin(sessions.items[after], clicked).any()
    # Without a click before, a list changes only between the days after.
    assert changed > 20 and changed > 4 * kept


def test_planted_popularity_agrees_with_appeal_as_declared() -> None:
    for agreement in (-1.0, 0.0, 0.7, 1.0):
        truth = planted(10, 4_000, agreement=agreement, skew=0.8)
        popularity = truth.popularity[1:]
        expected = torch.arange(1.0, 4_001.0) ** -0.8
        torch.testing.assert_close(popularity.sort(descending=True).values, expected)
        ranks = [np.argsort(np.argsort(each.numpy())) for each in (popularity, truth.item_bias[1:])]
        spearman = np.corrcoef(ranks)[0, 1]
        pearson = 2 * np.sin(np.pi * spearman / 6)  # of normal scores
        assert abs(pearson - agreement) < 0.05


def test_fitted_preferences_find_the_truth_and_keep_their_word() -> None:
    truth = planted(300, 150, width=3, taste=2.0, level=0.0, seed=3)
    random = np.random.default_rng(0)
    pairs = random.permutation(300 * 150)[:15_000]
    users, items = torch.from_numpy(pairs // 150 + 1), torch.from_numpy(pairs % 150 + 1)
    chance = truth.relevance(users, items[:, None])[:, 0].numpy()
    frame = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": 1, "like": random.random(15_000) < chance})
    log = EventLog.from_frame(frame, Schema.parse({"name": "likes", "events": {"weight": "like"}}))
    assert log.n_users == 300 and log.n_items == 150  # so that ids are those of the truth
    fit = fit_preferences(log, log.columns["weight"] > 0, width=3, penalty=2.0, steps=100)
    fresh = torch.from_numpy(np.setdiff1d(np.arange(300 * 150), pairs))
    users, items = fresh // 150 + 1, fresh % 150 + 1
    found, true = (each.relevance(users, items[:, None])[:, 0].numpy() for each in (fit.preferences, truth))
    assert np.corrcoef(found, true)[0, 1] > 0.8
    assert abs(found.mean() - true.mean()) < 0.02
    assert fit.log_loss < fit.base_log_loss - 0.05 and fit.calibration_error < 0.06
    with pytest.raises(ValueError, match="one label for each event"):
        fit_preferences(log, np.ones(15_000, bool))


def test_worlds_of_parts_that_do_not_fit_are_refused() -> None:
    truth = planted(5, 5)
    with pytest.raises(ValueError, match=r"\(5, 6, 5\) users"):
        World.of(truth, Visits.gamma(6))
    with pytest.raises(ValueError, match="noise is a chance"):
        World.of(truth, Visits.gamma(5), noise=2.0)
    with pytest.raises(ValueError, match="finite and not negative"):
        Visits(torch.tensor([0.0, -1.0]))


def test_a_planted_world_takes_the_popularity_of_a_catalogue_rank_by_rank() -> None:
    truth = planted(10, 500, agreement=1.0)
    popularity = torch.randint(0, 9, (501,), generator=torch.Generator().manual_seed(0)).float()
    popularity[0] = 0
    found = truth.as_popular_as(popularity)
    assert torch.equal(found.popularity, popularity) and torch.equal(found.users, truth.users)
    by_popularity = sorted(range(1, 501), key=lambda item: (-popularity[item].item(), item))
    by_appeal = truth.item_bias[1:].sort(descending=True).values  # at agreement 1 the order of popularity
    assert torch.equal(found.item_bias[by_popularity], by_appeal)
    same = [int((truth.item_bias == bias).nonzero()) for bias in found.item_bias[1:]]
    assert sorted(same) == list(range(1, 501))
    assert torch.equal(found.items[1:], truth.items[same])
