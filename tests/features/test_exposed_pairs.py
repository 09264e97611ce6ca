"""Which pairs were exposed, against a loop over the log."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.exposed_pairs import ExposedPairs, trained_share
from recsys.features.pair_batch import PairBatch
from recsys.features.pair_batches import AllPairs
from recsys.features.random_test import RandomTest
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split, SplitRule
from recsys.models.matrix_factorization import MatrixFactorization

USERS, ITEMS = 30, 40
SCHEMA = {
    "name": "ratings",
    "events": {"weight": "rating", "propensity": "propensity"},
    "duplicates": "keep",
    "features": [{"name": "split", "column": "part", "entity": "event", "type": "categorical"}],
}


def ratings(times: bool = False) -> EventLog:
    """Each user chose 14 items to rate, and was shown 5; user 0 liked nothing."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        chosen, shown = random.permutation(ITEMS)[:14], random.permutation(ITEMS)[:5]
        top = 4 if user == 0 else 6
        rows += [(user, item, random.integers(1, top), "train_mnar") for item in chosen]
        rows += [(user, item, random.integers(1, top), "test_random") for item in shown]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "part"])
    frame["propensity"] = random.uniform(0.1, 0.9, len(frame))
    frame["timestamp"] = np.arange(len(frame)) if times else 0
    return EventLog.from_frame(frame, Schema.parse(SCHEMA))


@pytest.fixture(scope="module")
def split() -> Split:
    return RandomTest()(ratings())


def given(split: Split) -> tuple[ExposedPairs, PairBatch]:
    """The batches, and all pairs of an epoch."""
    batches = ExposedPairs()
    batches.setup(split, 100_000)
    (batch,) = batches
    return batches, batch


def test_outcomes_are_those_of_a_loop_over_the_log(split: Split) -> None:
    log, users = split.log, split.log.user_ids()
    part = log.vocabularies["split"].values.astype(str).to_numpy()[np.asarray(log.columns["split"]) - 1]
    liked, low = {}, {}
    for event in range(log.n_events):
        user, pair = users[event], (int(users[event]), int(log.item_id[event]))
        if split.train_start[user] <= event < split.train_end[user]:
            liked[pair] = log.columns["propensity"][event]
        elif part[event] == "train_mnar" and log.columns["weight"][event] < 4:
            low[pair] = log.columns["propensity"][event]
    _, batch = given(split)
    assert batch.observed is not None and batch.propensity is not None
    active = {user for user, _ in liked}
    assert 1 not in active and len(batch) == len(active) * ITEMS
    share = trained_share(split)
    known = 0
    for user, item, label, observed, propensity in zip(
        *(v.tolist() for v in (batch.users, batch.items, batch.label, batch.observed, batch.propensity)), strict=True
    ):
        pair = (user, item)
        assert label == (pair in liked) and label <= observed
        assert not observed or pair in liked or pair in low
        known += observed
        chance = (liked | low)[pair] * share[user] if observed else 1
        assert propensity == pytest.approx(chance, rel=1e-6)
    among = sum(pair[0] in active for pair in low)
    assert len(liked) < known < len(liked) + among  # some of the low ones are left out


def test_what_is_known_is_as_relevant_as_what_was_chosen(split: Split) -> None:
    """With all low ratings, and without the positives that validate, it would look less relevant."""
    log, users = split.log, split.log.user_ids()
    part = log.vocabularies["split"].values.astype(str).to_numpy()[np.asarray(log.columns["split"]) - 1]
    active = np.isin(users, np.flatnonzero(split.train_end > split.train_start))
    chosen = (part == "train_mnar") & active
    liked = chosen & (np.asarray(log.columns["weight"]) >= 4)
    expected = liked.sum() / chosen.sum()
    kept = int((split.train_end - split.train_start).sum())
    without = kept / (kept + (chosen & ~liked).sum())
    batches, _ = given(split)
    found = len(batches.pairs) / len(batches.exposed)
    assert abs(found - expected) < 0.5 * (expected - without)


def test_the_share_that_trains_is_that_of_each_user(split: Split) -> None:
    share = trained_share(split)
    held = dict(zip(split.validation.users, split.validation.target_end - split.validation.target_start, strict=True))
    for user in range(split.log.n_users + 1):
        trained = split.train_end[user] - split.train_start[user]
        assert share[user] == (trained / (trained + held.get(user, 0)) if trained else 0)
    assert 0.6 < share[share > 0].mean() < 0.8


def test_exposures_are_a_function_of_the_split(split: Split) -> None:
    batches, batch = given(split)
    again = ExposedPairs()
    again.setup(split, 7, seed=3)
    assert np.array_equal(again.exposed.items, batches.exposed.items)
    other = ExposedPairs().exposures(RandomTest(seed=1)(ratings()))
    assert not np.array_equal(other.items, batches.exposed.items)
    seen = {(u, i) for part in again for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)}
    assert seen == {*zip(batch.users.tolist(), batch.items.tolist(), strict=True)}


def test_the_catalogue_tells_training_of_exposures_and_no_model_keeps_them(split: Split) -> None:
    batches, batch = given(split)
    catalogue = Catalogue.from_split(split, interactions=True, exposures=batches.exposures(split))
    assert catalogue.exposures is not None and batch.observed is not None
    items, offsets = catalogue.exposures
    users = torch.repeat_interleave(offsets.diff())
    observed = batch.observed > 0
    assert {*zip(users.tolist(), items.tolist(), strict=True)} == {
        *zip(batch.users[observed].tolist(), batch.items[observed].tolist(), strict=True)
    }
    assert AllPairs().exposures(split) is None
    model = MatrixFactorization(catalogue, width=2)
    assert model.catalogue.exposures is None and "exposures" not in " ".join(catalogue.tensors())
    assert catalogue.without_users().exposures is None


@pytest.mark.parametrize(
    ("log", "rule", "batches", "message"),
    [
        (ratings(times=True), GlobalTime(0.1, 0.1), ExposedPairs(), "differ in time"),
        (ratings(), RandomTest(), ExposedPairs(column="missing"), "no column `missing`"),
        (ratings(), RandomTest(), ExposedPairs(train="none"), r"no part \['none'\]"),
    ],
)
def test_logs_that_do_not_tell_are_refused(log: EventLog, rule: SplitRule, batches: ExposedPairs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches.setup(rule(log), 100)
