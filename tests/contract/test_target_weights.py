"""What every rule that weighs the targets of a window must do; a new one is tested by existing."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import recsys.denoising
from recsys.denoising.target_weights import TargetWeights
from tests.contract.classes import Settings, build, check_docstring, check_refusals, concrete

SETTINGS: dict[str, list[Settings]] = {}
"""What a class is made with beside the settings that all share."""

SHARED: list[Settings] = [{"temperature": 0.3}, {"temperature": 0.3, "floor": 0.25}]

OF_ALL: list[Settings] = [
    {"temperature": 0.0},
    {"temperature": math.nan},
    {"floor": 1.0},
    {"floor": -0.1},
    {"floor": math.nan},
    {"start": -1},
]

RULES = list(concrete(recsys.denoising, TargetWeights))
LENGTHS = torch.tensor([4, 1, 0, 5, 2, 3])


def rules() -> Iterator[Any]:
    for kind in RULES:
        for settings in SETTINGS.get(kind.__name__, [{}]):
            for number, shared in enumerate(SHARED):
                yield pytest.param(kind, {**settings, **shared}, id=f"{kind.__name__} {number}")


every_class = pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
every_rule = pytest.mark.parametrize(("kind", "settings"), list(rules()))


def ready(kind: type[TargetWeights], settings: Settings, seed: int = 0) -> TargetWeights:
    rule = build(kind, settings)
    rule.setup(seed, torch.device("cpu"))
    return rule


def windows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, offsets, and which events have a target: one window has none, one is empty, one ends without."""
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])
    losses = torch.rand(int(offsets[-1]), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.ones(len(losses), dtype=torch.bool)
    valid[[0, 9, 10, 11]] = False
    return losses.to(dtype), offsets, valid


def sums(values: Tensor, offsets: Tensor) -> Tensor:
    window = torch.repeat_interleave(offsets.diff())
    return values.new_zeros(len(offsets) - 1).index_add(0, window, values)


def draws(kind: type[TargetWeights], settings: Settings) -> bool:
    """Whether the weights depend on the generator."""
    return not torch.equal(ready(kind, settings)(*windows()), ready(kind, settings, seed=1)(*windows()))


def test_the_rules_are_found() -> None:
    assert {"PersonalTargetWeights", "PersonalTargetResampling"} <= {kind.__name__ for kind in RULES}


@every_class
def test_says_where_it_comes_from_or_shows_its_use(kind: type) -> None:
    check_docstring(kind)


@every_class
def test_refuses_what_it_says_that_it_refuses(kind: type) -> None:
    check_refusals(kind, {kind.__name__: OF_ALL}, SETTINGS.get(kind.__name__, [{}])[0])


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_windows_count_as_before_and_losses_train_no_weight(
    kind: type[TargetWeights], settings: Settings, dtype: torch.dtype
) -> None:
    losses, offsets, valid = windows(dtype)
    weights = ready(kind, settings)(losses.requires_grad_(), offsets, valid)
    assert weights.shape == losses.shape and weights.dtype == dtype and not weights.requires_grad
    assert weights.isfinite().all() and (weights >= 0).all() and not weights[~valid].any()
    torch.testing.assert_close(sums(weights, offsets), sums(valid.to(dtype), offsets), rtol=1e-5, atol=0)
    assert weights[4] == 1  # a window of one target


@every_rule
def test_events_without_a_target_change_nothing(kind: type[TargetWeights], settings: Settings) -> None:
    losses, offsets, valid = windows()
    for fill in (-40.0, 40.0, math.nan, math.inf):
        other = losses.masked_fill(~valid, fill)
        assert torch.equal(ready(kind, settings)(other, offsets, valid), ready(kind, settings)(losses, offsets, valid))


@every_rule
def test_higher_losses_weigh_less(kind: type[TargetWeights], settings: Settings) -> None:
    """In the mean over windows that are all alike, so that draws average out."""
    n = 4000
    losses, offsets = torch.tensor([0.2, 0.5, 1.5]).double().repeat(n), 3 * torch.arange(n + 1)
    weights = ready(kind, settings)(losses, offsets, torch.ones(3 * n, dtype=torch.bool))
    mean = weights.view(n, 3).mean(0)
    assert mean[0] > mean[1] + 0.1 > mean[2] + 0.2


@every_rule
def test_windows_do_not_know_each_other(kind: type[TargetWeights], settings: Settings) -> None:
    if draws(kind, settings):
        pytest.skip("its draws depend on their order")
    losses, offsets, valid = windows()
    weights = ready(kind, settings)(losses, offsets, valid)
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        alone = ready(kind, settings)(losses[begin:end], torch.tensor([0, end - begin]), valid[begin:end])
        torch.testing.assert_close(alone, weights[begin:end], rtol=1e-12, atol=0)
    short = ready(kind, settings)(losses.float(), offsets, valid)
    torch.testing.assert_close(short.double(), weights, rtol=1e-4, atol=1e-6)


@every_rule
@pytest.mark.parametrize("size", [0.0, 1e-30, 40.0, 1e4])
def test_extreme_losses_stay_finite(kind: type[TargetWeights], settings: Settings, size: float) -> None:
    losses, offsets, valid = windows(torch.float32)
    for given in ((losses > 0.5).float() * size, torch.full_like(losses, size)):
        weights = ready(kind, settings)(given, offsets, valid)
        assert weights.isfinite().all() and not weights[~valid].any()
        torch.testing.assert_close(sums(weights, offsets), sums(valid.float(), offsets))


@every_rule
def test_infinite_temperature_and_steps_before_the_start_do_not_read_losses(
    kind: type[TargetWeights], settings: Settings
) -> None:
    losses, offsets, valid = windows()
    for neutral in ({"temperature": math.inf}, {"start": 1}):
        found, same = (ready(kind, {**settings, **neutral})(one, offsets, valid) for one in (losses, losses.flip(0)))
        assert torch.equal(found, same)
    rule = ready(kind, {**settings, "start": 1})
    rule(losses, offsets, valid)
    neutral_weights = ready(kind, {**settings, "start": 9})(losses, offsets, valid)
    assert not torch.equal(rule(100 * losses, offsets, valid), neutral_weights)


@every_rule
def test_states_continue_draws_and_steps(kind: type[TargetWeights], settings: Settings) -> None:
    rule, other = ready(kind, {**settings, "start": 2}), ready(kind, {**settings, "start": 2}, seed=7)
    rule(*windows())
    other.load_state_dict(copy.deepcopy(rule.state_dict()))
    for _ in range(3):
        assert torch.equal(rule(*windows()), other(*windows()))
