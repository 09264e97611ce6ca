"""R^2 against scikit-learn, and that the alarm tells a log that hides propensities from one that shows them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from recsys.unbiased.identifiability import PositionConfounded, check_identifiable, position_r2
from recsys.unbiased.shown_lists import ShownLists
from recsys.unbiased.synthetic_lists import SyntheticQueries


def of_ranker(noise: float, curved: float = 0.0, copies: int = 1) -> ShownLists:
    world = SyntheticQueries(seed=0)
    queries = world.draw(400)
    shown = queries.in_order(world.production_scores(queries, linear=1.0, curved=curved, noise=noise), 10)
    return ShownLists(torch.cat([shown.features] * copies, 2), torch.zeros(shown.label.shape), shown.mask)


def test_r2_is_that_of_a_regression_on_centred_columns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    lists = of_ranker(0.5)
    mask = torch.arange(10) < torch.randint(2, 11, (400, 1), generator=torch.Generator().manual_seed(0))
    lists = lists._replace(mask=mask, features=lists.features * mask.unsqueeze(-1))
    rows, target = [], []
    for features, kept in zip(lists.features.numpy(), mask.numpy(), strict=True):
        at = np.flatnonzero(kept)
        rows.append(features[at] - features[at].mean(0))
        target.append(at - at.mean())
    x, y = np.concatenate(rows).astype(np.float64), np.concatenate(target)
    expected = linear_model.LinearRegression(fit_intercept=False).fit(x, y).score(x, y)
    halves = [ShownLists(*(part[half] for part in lists[:3])) for half in (slice(0, 150), slice(150, 400))]
    assert position_r2(halves) == pytest.approx(expected, abs=1e-6)


def test_features_that_are_copies_of_others_tell_no_more() -> None:
    assert position_r2([of_ranker(0.5, copies=3)]) == pytest.approx(position_r2([of_ranker(0.5)]), abs=1e-6)


def test_alarm_where_the_ranker_is_a_function_of_the_features() -> None:
    with pytest.warns(PositionConfounded, match="swapped at random"):
        assert check_identifiable([of_ranker(0.0)]) > 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_identifiable([of_ranker(2.0)]) < 0.3


def test_lists_of_one_document_tell_nothing() -> None:
    single = ShownLists(torch.ones(3, 1, 2), torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool))
    assert position_r2([single]) == 0.0 == position_r2([])
