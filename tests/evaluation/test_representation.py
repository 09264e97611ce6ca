"""Measures of vectors against closed forms and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from recsys.evaluation.representation import EPSILON, alignment, effective_rank, uniformity


def drawn(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_directions_that_are_used_alike_count_as_k(k: int) -> None:
    rotation, _ = torch.linalg.qr(drawn(8, 8).double())
    vectors = torch.eye(8).double()[:, :k] @ rotation[:k] * 7
    assert effective_rank(vectors) == pytest.approx(k, rel=1e-4)


def test_vectors_on_one_line_have_rank_one_and_none_at_all_rank_zero() -> None:
    line = torch.outer(drawn(50, 1)[:, 0], drawn(6, 1, 1)[:, 0])
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(4, 3)) == 0


def test_the_rank_is_that_of_the_entropy_of_the_singular_values() -> None:
    vectors = drawn(40, 7) * torch.logspace(0, -3, 7)
    squares = np.linalg.eigvalsh(vectors.double().numpy().T @ vectors.double().numpy())
    sigma = np.sqrt(squares.clip(0))
    shares = [value / sigma.sum() + EPSILON for value in sigma]
    assert effective_rank(vectors) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)
    assert effective_rank(vectors) < 4 < 7


def test_many_random_vectors_use_almost_every_direction() -> None:
    """Singular values of Gaussian rows lie within sqrt(n) +- sqrt(d), by which the entropy loses little."""
    n, d = 4000, 16
    spread = math.sqrt(d / n)
    assert d * (1 - 2 * spread**2) < effective_rank(drawn(n, d)) < d


def test_the_rank_does_not_depend_on_scale_or_order() -> None:
    vectors = drawn(30, 5)
    assert effective_rank(1e-3 * vectors.flip(0)) == pytest.approx(effective_rank(vectors), rel=1e-9)


def test_alignment_is_the_mean_distance_of_pairs() -> None:
    first, second = drawn(20, 4), drawn(20, 4, 1)
    distances = [
        float((a / a.norm() - b / b.norm()).norm()) for a, b in zip(first.double(), second.double(), strict=True)
    ]
    assert alignment(first, second) == pytest.approx(np.mean(np.square(distances)))
    assert alignment(first, second, power=1) == pytest.approx(np.mean(distances))
    assert (alignment(first, 3 * first), alignment(first, -first)) == pytest.approx((0, 4))


@pytest.mark.parametrize("n", [2, 60, 1500])
def test_uniformity_is_that_of_all_pairs(n: int) -> None:
    """The last of them needs more than one block."""
    vectors = drawn(n, 3)
    distances = torch.pdist(torch.nn.functional.normalize(vectors.double(), dim=1))
    assert uniformity(vectors, t=1.5) == pytest.approx(float(distances.square().mul(-1.5).exp().mean().log()), rel=1e-9)


def test_vectors_that_fill_the_sphere_have_the_uniformity_of_the_integral() -> None:
    """On the circle the angle between two of them is uniform."""
    n = 3000
    mean, _ = integrate.quad(lambda angle: math.exp(-2 * (2 - 2 * math.cos(angle))) / math.pi, 0, math.pi)
    values = [uniformity(drawn(n, 2, seed)) for seed in range(5)]
    error = np.std(values, ddof=1) / math.sqrt(5)
    assert np.mean(values) == pytest.approx(math.log(mean), abs=4 * error + 1e-3)
    assert uniformity(torch.ones(5, 2)) == pytest.approx(0, abs=1e-12)
    assert max(values) < -0.5


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="n at least 1, not \\[0, 3\\]"):
        effective_rank(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="n at least 2, not \\[1, 3\\]"):
        uniformity(torch.ones(1, 3))
    with pytest.raises(ValueError, match="one shape, not \\(2, 3\\) and \\(3, 3\\)"):
        alignment(torch.ones(2, 3), torch.ones(3, 3))
