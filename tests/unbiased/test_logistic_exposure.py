"""Chances of exposure against logistic regression by another library, in closed form, and against what they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from recsys.features.catalogue import Jagged
from recsys.unbiased import logistic_exposure
from recsys.unbiased.logistic_exposure import LogisticExposure

USERS, ITEMS = 40, 30


def jagged(exposed: Tensor) -> Jagged:
    """Exposures of users 1.. from a matrix `[n_users, n_items]` of who was shown what."""
    lengths = torch.cat([torch.zeros(1, dtype=torch.int64), exposed.long().sum(1)])
    return exposed.nonzero()[:, 1] + 1, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def chances(exposure: LogisticExposure, users: int, items: int) -> Tensor:
    """`[users, items]` as it has them."""
    pairs = torch.cartesian_prod(torch.arange(1, users + 1), torch.arange(1, items + 1))
    return exposure(pairs[:, 0], pairs[:, 1], None).view(users, items)


def fitted(exposed: Tensor, **settings: float) -> LogisticExposure:
    exposure = LogisticExposure(**settings)  # type: ignore[arg-type]
    exposure.fit(jagged(exposed), exposed.shape[1])
    return exposure


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """Chances `[USERS, ITEMS]` of activity, popularity and two tastes."""
    random = torch.Generator().manual_seed(0)
    user, item = torch.randn(USERS, 3, generator=random), torch.randn(ITEMS, 3, generator=random)
    return torch.sigmoid(-2 + 0.7 * user[:, :1] + 0.7 * item[:, 0] + 1.5 * user[:, 1:] @ item[:, 1:].T)


@pytest.fixture(scope="module")
def exposed(truth: Tensor) -> Tensor:
    return torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < truth


@pytest.mark.parametrize("l2", [0.3, 3.0])
def test_without_factors_it_is_the_logistic_regression_of_another_library(exposed: Tensor, l2: float) -> None:
    rows = np.indices((USERS, ITEMS)).reshape(2, -1)
    ids = np.concatenate([np.eye(USERS)[rows[0]], np.eye(ITEMS)[rows[1]]], axis=1)
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(ids, exposed.flatten().numpy())
    expected = model.predict_proba(ids)[:, 1].reshape(USERS, ITEMS)
    np.testing.assert_allclose(chances(fitted(exposed, width=0, l2=l2), USERS, ITEMS).numpy(), expected, atol=2e-5)


def test_in_closed_form_where_all_users_are_alike() -> None:
    """Without a penalty, and with as many exposures for each user, an item has its own share of exposures."""
    exposed = torch.zeros(12, 4, dtype=torch.bool)
    exposed[:3, 0], exposed[3:, 1], exposed[:6, 2], exposed[6:, 3] = True, True, True, True
    found = chances(fitted(exposed, width=0, l2=1e-9), 12, 4)
    torch.testing.assert_close(found, torch.tensor([0.25, 0.75, 0.5, 0.5]).expand(12, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [0, 2])
def test_the_gradient_is_zero_and_chances_sum_to_exposures(exposed: Tensor, width: int) -> None:
    """`sum_i (O - theta) = l2 * a_u`, likewise over users and for factors, and without a penalty for all pairs."""
    exposure = fitted(exposed, width=width, l2=2.0, iterations=500)
    rest = (exposed.float() - chances(exposure, USERS, ITEMS)).double()
    user, item = exposure.users[1:].double(), exposure.items[1:].double()
    assert abs(rest.sum()) < 1e-2
    torch.testing.assert_close(rest.sum(1), 2 * user[:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(rest.sum(0), 2 * item[:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(rest @ item[:, 1:], 2 * user[:, 1:], rtol=0, atol=1e-3)
    torch.testing.assert_close(rest.T @ user[:, 1:], 2 * item[:, 1:], rtol=0, atol=1e-3)
    assert width == 0 or user[:, 1:].abs().max() > 0.1


def test_factors_find_who_was_shown_what(truth: Tensor) -> None:
    """On a world of more pairs, the error is a fraction of that of activity and popularity alone."""
    random = torch.Generator().manual_seed(2)
    many = truth.repeat(5, 4)
    exposed = torch.rand(many.shape, generator=random) < many
    alone, both = (chances(fitted(exposed, width=width, l2=1.0, iterations=40), *many.shape) for width in (0, 2))
    assert (both - many).square().mean() < 0.2 * (alone - many).square().mean()


def test_blocks_change_nothing(exposed: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = chances(fitted(exposed, iterations=20), USERS, ITEMS)
    monkeypatch.setattr(logistic_exposure, "BLOCK", 7 * ITEMS)
    torch.testing.assert_close(chances(fitted(exposed, iterations=20), USERS, ITEMS), whole, rtol=1e-4, atol=1e-6)


def test_who_did_not_train_is_average_and_takes_no_part(exposed: Tensor) -> None:
    with_idle = torch.cat([exposed[:5], torch.zeros(3, ITEMS, dtype=torch.bool), exposed[5:]])
    found, without = fitted(with_idle), fitted(exposed)
    whole = chances(found, USERS + 3, ITEMS)
    keep = torch.tensor([*range(5), *range(8, USERS + 3)])
    torch.testing.assert_close(whole[keep], chances(without, USERS, ITEMS), rtol=1e-5, atol=1e-6)
    average = torch.sigmoid(found.intercept + found.items[1:, 0])
    torch.testing.assert_close(whole[5:8], average.expand(3, ITEMS))


def test_it_draws_from_a_generator_of_its_own(exposed: Tensor) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = fitted(exposed, iterations=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(first.users, fitted(exposed, iterations=5).users)
    assert not torch.equal(first.users, fitted(exposed, iterations=5, seed=1).users)
    users, items = torch.tensor([1, 2]), torch.tensor([3, 4])
    torch.testing.assert_close(first(users, items, None) + first.of_unlabeled(users, items), torch.ones(2))


@pytest.mark.parametrize("settings", [{"width": -1}, {"l2": -0.1}, {"l2": float("nan")}, {"iterations": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LogisticExposure(**settings)  # type: ignore[arg-type]
