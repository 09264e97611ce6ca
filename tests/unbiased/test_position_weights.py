from __future__ import annotations

import pytest
import torch

from recsys.unbiased.inverse_propensity import InversePropensity
from recsys.unbiased.position_weights import PositionWeights


def test_weights_are_inverse_propensities_against_the_first_position() -> None:
    relative = [0.68, 0.61, 0.48]
    found = PositionWeights(relative)(torch.tensor([3, 1, 2, 7]))
    expected = [0.68 / 0.48, 1.0, 0.68 / 0.61, 0.68 / 0.48]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(found[[1, 2, 0]], 1 / InversePropensity(relative).log_relative.exp())


def test_logs_may_count_from_zero_and_lack_positions() -> None:
    from_zero = PositionWeights([1.0, 0.5, 0.25], first=0)
    assert from_zero(torch.tensor([0, 1, 2])).tolist() == [1.0, 2.0, 4.0]
    assert PositionWeights([0.5, 0.25])(torch.tensor([0, 1, 2])).tolist() == [1.0, 1.0, 2.0]


def test_weights_are_bounded_and_bad_ones_refused() -> None:
    assert PositionWeights([1.0, 0.01], largest_weight=10.0)(torch.tensor([2])).item() == 10.0
    for arguments in ({"relative": []}, {"relative": [1.0, 0.0]}, {"relative": [1.0], "largest_weight": 0.5}):
        with pytest.raises(ValueError, match=r"above 0|at least 1"):
            PositionWeights(**arguments)
