"""Propensities: counted over training positives, without the faults that released code has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.pair_batches import AllPairs
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split
from recsys.unbiased.doubly_robust import JointLearning, MoreRobust, doubly_robust, imputation_loss
from recsys.unbiased.propensity import ItemPower, Logged, propensity_of


@pytest.fixture(scope="module")
def split() -> Split:
    """Item `b` has events after the cut alone; user 0 had item `a` three times."""
    pairs = [(0, "a"), (0, "a"), (0, "a"), (1, "a"), (2, "a"), (3, "a"), (0, "c"), (1, "d"), (2, "d"), (4, "d")]
    pairs += [(0, "b"), (1, "b")]
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    frame["timestamp"], frame["chance"] = np.arange(len(frame)) + 1, 0.25
    schema = Schema.parse({"name": "toy", "events": {"propensity": "chance"}})
    return GlobalTime(2 / 12, 0.0)(EventLog.from_frame(frame, schema))


def fitted(split: Split, eta: float = 0.5) -> ItemPower:
    power = ItemPower(eta)
    power.setup(Catalogue.from_split(split, interactions=True))
    return power


def test_users_are_counted_in_training_alone_and_no_item_shifts(split: Split) -> None:
    """Counting distinct items that occur would give `c` the count of `b`, which training has not."""
    share = {"a": 1.0, "b": 0.0, "c": 0.25, "d": 0.75}
    order = [share[item] for item in split.log.items.values]
    power = fitted(split)
    assert power.exposed[1:].tolist() == pytest.approx([value**0.5 for value in order])
    assert power.unlabeled[1:].tolist() == pytest.approx([(1 - value) ** 0.5 for value in order])
    assert fitted(split, 1.0).exposed[1:].tolist() == pytest.approx(order)


def test_propensities_are_not_the_means_of_columns_that_hold_unlabeled_pairs_too(split: Split) -> None:
    """Counting rows of a training set of all pairs gives every item propensity 1, and corrects nothing."""
    batches = AllPairs()
    batches.setup(split, 1000)
    (batch,) = batches
    rows = torch.bincount(batch.items, minlength=split.log.n_items + 1)[1:]
    assert (rows == rows[0]).all()
    found = propensity_of(fitted(split), batch)
    assert len(found.unique()) == 4 and found.min() == 0 and found.max() == 1


def test_logged_propensities_are_taken_as_they_are(split: Split) -> None:
    batches = AllPairs()
    batches.setup(split, 1000)
    (batch,) = batches
    assert (propensity_of(Logged(), batch)[batch.label > 0] == 0.25).all()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"events\.propensity"):
        Logged()(batch.users, batch.items, None)
    with pytest.raises(ValueError, match="ItemPower"):
        Logged().of_unlabeled(batch.users, batch.items)
    with pytest.raises(ValueError, match="eta"):
        ItemPower(-1)


N, DRAWS = 80, 4000


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    error, uniform = torch.rand(2, N, generator=random, dtype=torch.float64)
    theta = 0.1 + 0.8 * uniform
    observed = (torch.rand(DRAWS, N, generator=random, dtype=torch.float64) < theta).double()
    return error, theta, observed


def test_doubly_robust_is_right_where_one_of_both_models_is() -> None:
    error, theta, observed = draws()

    def miss(imputed: torch.Tensor, propensity: torch.Tensor) -> float:
        found = doubly_robust(error, imputed, observed, propensity).mean(1)
        assert found.shape == (DRAWS,)
        return float(abs(found.mean() - error.mean()) / (found.std() / DRAWS**0.5 + 1e-12))

    wrong_error, wrong_theta = 0.3 * error.flip(0), theta.flip(0)
    assert miss(wrong_error, theta) < 2
    assert miss(error, wrong_theta) < 1e-2
    assert miss(wrong_error, wrong_theta) > 10
    unseen = torch.full_like(error, torch.nan)
    nothing = doubly_robust(unseen, error, torch.zeros_like(error), torch.zeros_like(theta))
    assert torch.equal(nothing, error)  # neither errors nor propensities of unobserved pairs are read


def test_imputation_weights_estimate_what_they_are_to_minimise() -> None:
    error, theta, observed = draws()
    imputed = error.flip(0)
    square = (error - imputed) ** 2
    for weight, aim in ((JointLearning(), square), (MoreRobust(), (1 - theta) / theta * square)):
        found = torch.stack([imputation_loss(error, imputed, seen, theta, weight) for seen in observed])
        assert abs(found.mean() - aim.mean()) < 2 * found.std() / DRAWS**0.5
    variance = doubly_robust(error, imputed, observed, theta).var(0)
    torch.testing.assert_close(variance, (1 - theta) / theta * square, rtol=0.3, atol=1e-3)  # what MRDR minimises
    error.requires_grad_()
    assert not imputation_loss(error, imputed, observed[0], theta, JointLearning()).requires_grad
