"""Areas under the curve against scikit-style loops over pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.denoising.pool_losses import BCEPoolLoss, BPRPoolLoss
from recsys.denoising.separability import mean_losses, separability
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime
from recsys.features.training_pairs import TrainingPairs
from recsys.models.light_gcn import LightGCN


def area(noisy: np.ndarray, others: np.ndarray) -> float:
    """Over all pairs."""
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in noisy for b in others]))


def test_areas_are_those_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    users = np.sort(random.integers(1, 9, 160))[random.permutation(160)]
    losses = np.round(random.exponential(1 + users / 3), 1)  # with ties
    noise = random.random(160) < 0.3
    noise[users == 2], noise[users == 3] = True, False  # of one kind only
    found = separability(losses, users, noise)
    assert found.overall == pytest.approx(area(losses[noise], losses[~noise]))
    both = [user for user in range(1, 9) if len(set(noise[users == user])) == 2]
    own = [area(losses[(users == u) & noise], losses[(users == u) & ~noise]) for u in both]
    assert found.personal == pytest.approx(np.mean(own)) and found.users == len(both) == 6
    with pytest.raises(ValueError, match="no user has noise"):
        separability(losses, users, users == 2)


def test_levels_of_users_hide_noise_from_a_global_threshold() -> None:
    random = np.random.default_rng(1)
    users = np.repeat(np.arange(300), 20)
    noise = random.random(len(users)) < 0.2
    losses = random.normal(2 * random.normal(size=300)[users] + noise, 0.5)
    found = separability(losses, users, noise)
    assert found.personal > 0.9 > 0.7 > found.overall > 0.5


@pytest.mark.parametrize("loss", [BPRPoolLoss(), BCEPoolLoss()], ids=["bpr", "bce"])
def test_mean_losses_are_over_negatives_of_the_user(loss: BPRPoolLoss | BCEPoolLoss) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"user_id": random.integers(0, 5, 40), "item_id": random.integers(0, 9, 40)})
    split = GlobalTime()(EventLog.from_frame(frame.assign(timestamp=range(40)), Schema(name="toy")))
    torch.manual_seed(0)
    network, pairs = (
        LightGCN(Catalogue.from_split(split, interactions=True), width=4, init_std=1.0),
        TrainingPairs.of(split),
    )
    n = 4000
    found = mean_losses(network, pairs, loss, n=n)
    users, items = network.encode(torch.arange(6), torch.arange(split.log.n_items + 1))
    assert users is not None and items is not None and network.training
    scores = (users @ items.T).detach().double().numpy()
    for place, (user, item) in enumerate(zip(pairs.users, pairs.items, strict=True)):
        own = set(pairs.items[pairs.offsets[user] : pairs.offsets[user + 1]].tolist())
        others = [j for j in range(1, split.log.n_items + 1) if j not in own]
        each = np.log1p(np.exp((scores[user, others] if isinstance(loss, BPRPoolLoss) else 0) - scores[user, item]))
        assert found[place] == pytest.approx(each.mean(), abs=1e-5 + 5 * np.std(each) / n**0.5)
