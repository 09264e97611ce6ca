"""Weights of targets against loops over windows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.denoising.target_weights import PersonalTargetResampling, PersonalTargetWeights, TargetWeights

CPU = torch.device("cpu")
KINDS = (PersonalTargetWeights, PersonalTargetResampling)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def windows() -> tuple[Tensor, Tensor, Tensor]:
    """Losses, offsets and which events have targets; one window is empty, one has no target, one has one."""
    random = np.random.default_rng(0)
    lengths = np.array([5, 0, 3, 1, 8, 4])
    offsets = torch.tensor(np.concatenate([[0], lengths.cumsum()]))
    valid = torch.ones(int(lengths.sum()), dtype=torch.bool)
    valid[[2, 5, 6, 7, 16]] = False
    return torch.tensor(random.exponential(2, len(valid))), offsets, valid


def expected(windows: tuple[Tensor, Tensor, Tensor], temperature: float, floor: float) -> np.ndarray:
    losses, offsets, valid = (part.numpy() for part in windows)
    weights = np.zeros(len(losses))
    for first, last in itertools.pairwise(offsets.tolist()):
        own = [place for place in range(first, last) if valid[place]]
        terms = [math.exp(-losses[place] / temperature) for place in own]
        for place, term in zip(own, terms, strict=True):
            weights[place] = len(own) * ((1 - floor) * term / sum(terms) + floor / len(own))
    return weights


@pytest.mark.parametrize(("temperature", "floor"), [(0.5, 0.0), (2.0, 0.2)])
def test_weights_are_softmaxes_of_windows(
    windows: tuple[Tensor, Tensor, Tensor], temperature: float, floor: float
) -> None:
    found = PersonalTargetWeights(temperature, floor)(*windows)
    np.testing.assert_allclose(found, expected(windows, temperature, floor), rtol=1e-9)
    assert found.dtype == windows[0].dtype and not found.requires_grad


def test_draws_have_these_weights_as_their_mean(windows: tuple[Tensor, Tensor, Tensor]) -> None:
    drawing = PersonalTargetResampling(1.0, 0.1)
    drawing.setup(0, CPU)
    n = 2500
    draws = torch.stack([drawing(*windows) for _ in range(n)])
    of_windows = [draws[:, a:b].sum(1) for a, b in itertools.pairwise(windows[1].tolist())]
    counts = [int(windows[2][a:b].sum()) for a, b in itertools.pairwise(windows[1].tolist())]
    assert all(bool((drawn == count).all()) for drawn, count in zip(of_windows, counts, strict=True))
    mean = expected(windows, 1.0, 0.1)
    assert (np.abs(draws.mean(0).numpy() - mean) <= 4.5 * np.sqrt(mean / n)).all()
    assert not draws[:, ~windows[2]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_temperature_and_steps_before_the_start_weigh_all_alike(
    windows: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> None:
    losses, offsets, valid = windows[0].to(dtype), windows[1], windows[2]
    started = PersonalTargetWeights(0.1, start=2)
    for weigh in (PersonalTargetWeights(math.inf), started, started):
        assert torch.equal(weigh(losses, offsets, valid), valid.to(dtype))
    assert not torch.equal(started(losses, offsets, valid), valid.to(dtype))


@every_kind
def test_losses_far_apart_do_not_underflow(kind: type[TargetWeights]) -> None:
    weigh = kind(0.001)
    weigh.setup(0, CPU)
    found = weigh(torch.tensor([900.0, 901.0, 950.0]), torch.tensor([0, 3]), torch.ones(3, dtype=torch.bool))
    assert found.tolist() == [3.0, 0.0, 0.0]


@every_kind
def test_states_continue_draws_and_steps(kind: type[TargetWeights], windows: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second = kind(1.0, start=1), kind(1.0, start=1)
    first.setup(0, CPU)
    second.setup(7, CPU)
    first(*windows)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*windows), second(*windows))


def test_settings_that_mean_nothing_are_refused() -> None:
    for settings in ({"temperature": 0.0}, {"floor": 1.0}, {"start": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            PersonalTargetWeights(**settings)  # type: ignore[arg-type]
