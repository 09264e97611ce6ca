"""InfoNCE against cross-entropy, and its corrected form against the softmax over the whole catalogue."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.negatives import InBatch, Mixed, NegativeSampler, Popularity, Uniform
from recsys.losses import FullSoftmax, InfoNCE, SampledScores

N_ITEMS, DIM, TEMPERATURE = 20, 6, 0.7


@pytest.mark.parametrize("log_q", [None, (1,), (9,), (5, 9)])
@pytest.mark.parametrize("hits", [False, True])
@pytest.mark.parametrize("log_q_positive", [False, True])
def test_equals_cross_entropy_of_the_corrected_logits(
    log_q: tuple[int, ...] | None, hits: bool, log_q_positive: bool
) -> None:
    torch.manual_seed(0)
    positive = torch.randn(5, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(5, dtype=torch.float64)
    q_negative = None if log_q is None else torch.randn(log_q, dtype=torch.float64)
    q_positive = torch.randn(5, dtype=torch.float64) if log_q_positive else None
    where = torch.tensor([[0, 3, 3], [2, 0, 8]]) if hits else None
    loss = InfoNCE(TEMPERATURE)(SampledScores(positive, negative, q_positive, q_negative, where, weight)).loss

    logits = torch.cat(
        (
            (positive / TEMPERATURE - (0 if q_positive is None else q_positive))[:, None],
            negative / TEMPERATURE - (0 if q_negative is None else q_negative),
        ),
        1,
    )
    if where is not None:
        mask = torch.zeros_like(logits, dtype=torch.bool)
        mask[where[0], where[1] + 1] = True
        logits = logits.masked_fill(mask, -torch.inf)
    rows = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="none")
    expected = (rows * weight).sum() / weight.sum()
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    ours = torch.autograd.grad(loss, (positive, negative))
    theirs = torch.autograd.grad(expected, (positive, negative))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_starts_at_the_log_of_one_plus_the_negatives() -> None:
    scores = SampledScores(torch.full((3,), 0.4), torch.full((3, 128), 0.4))
    assert InfoNCE(0.05)(scores).loss.item() == pytest.approx(math.log(129), rel=1e-6)


def test_a_frequently_drawn_negative_counts_less() -> None:
    """With equal scores the corrected softmax gives each candidate a share of 1 / q: the sign of the correction."""
    negative = torch.zeros(1, 2, requires_grad=True)
    q = torch.tensor([0.5, 0.125])
    InfoNCE(0.1)(SampledScores(torch.zeros(1), negative, log_q_negative=q.log())).loss.backward()
    total = 1 + 2 + 8
    assert negative.grad is not None
    torch.testing.assert_close(negative.grad[0], torch.tensor([2.0, 8.0]) / total / 0.1)


def test_a_corrected_positive_counts_by_its_own_probability() -> None:
    loss = InfoNCE()(SampledScores(torch.zeros(1), torch.zeros(1, 3), torch.tensor([0.25]).log())).loss
    assert loss.item() == pytest.approx(-math.log(4 / (4 + 3)))


def test_a_row_of_nothing_but_hits_has_no_loss() -> None:
    negative = torch.randn(2, 2, requires_grad=True)
    hits = torch.tensor([[0, 0], [0, 1]])
    rows = InfoNCE().rows(SampledScores(torch.zeros(2), negative, hits=hits))
    rows.sum().backward()
    assert rows[0] == 0 and rows[1] > 0
    assert negative.grad is not None and negative.grad[0].abs().max() == 0 and negative.grad.isfinite().all()


def test_no_negatives_give_no_loss() -> None:
    positive = torch.zeros(2, requires_grad=True)
    loss = InfoNCE()(SampledScores(positive, torch.zeros(2, 0, requires_grad=True))).loss
    loss.backward()
    assert loss == 0 and positive.grad is not None and positive.grad.abs().max() == 0


SAMPLERS: dict[str, Callable[[], NegativeSampler]] = {
    "uniform": lambda: Uniform(40, corrected=True),
    "uniform per position": lambda: Uniform(40, per_position=True, corrected=True),
    "popularity": lambda: Popularity(40, alpha=0.75),
    "popularity per position": lambda: Popularity(40, alpha=1.0, per_position=True),
    "in-batch": lambda: InBatch(),
    "some of the batch": lambda: InBatch(25),
    "mixed": lambda: Mixed([Uniform(15), InBatch()]),
    "mixed of three": lambda: Mixed([Uniform(7), Popularity(9, alpha=0.5), InBatch(20)]),
}


class Problem:
    """A user vector `q`, an item matrix and the training counts from which batches are drawn."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        self.query = torch.randn(DIM, generator=generator, dtype=torch.float64) * 0.5
        self.items = torch.randn(N_ITEMS + 1, DIM, generator=generator, dtype=torch.float64)
        self.counts = torch.randint(2, 60, (N_ITEMS + 1,), generator=generator)
        self.counts[0] = 0
        self.target = 8
        self.generator = generator

    def batch(self, rows: int) -> Tensor:
        """Targets of a batch: that of row 0 is given, the others are drawn by their training counts."""
        target = torch.multinomial(self.counts.double(), rows, replacement=True, generator=self.generator)
        target[0] = self.target
        return target

    def full(self) -> tuple[Tensor, Tensor]:
        """Loss and its gradient by the query over the whole catalogue."""
        query = self.query.clone().requires_grad_()
        loss = FullSoftmax(TEMPERATURE)(query[None], self.items, torch.tensor([self.target])).loss
        return loss.detach(), torch.autograd.grad(loss, query)[0]

    def sampled(self, sampler: NegativeSampler, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of row 0 and its gradient by the query, with the negatives that the sampler gives the batch."""
        query = self.query.clone().requires_grad_()
        negatives = sampler.sample(target)
        vectors = self.items[negatives.ids]
        scores = SampledScores(
            positive=self.items[target] @ query,
            negative=(vectors @ query).expand(target.shape[0], -1),
            log_q_negative=negatives.log_q,
            hits=negatives.hits(target),
        )
        loss = InfoNCE(TEMPERATURE).rows(scores)[0]
        return loss.detach(), torch.autograd.grad(loss, query)[0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_corrected_sum_is_unbiased(name: str) -> None:
    """`exp(loss)` is the sum over candidates, so its mean and its gradient's mean are exactly the full softmax's."""
    problem, sampler = Problem(), SAMPLERS[name]()
    sampler.setup(N_ITEMS, problem.counts, seed=2)
    draws = [problem.sampled(sampler, problem.batch(30)) for _ in range(1500)]
    value = torch.stack([loss.exp() for loss, _ in draws])
    slope = torch.stack([loss.exp() * gradient for loss, gradient in draws])
    loss, gradient = problem.full()
    for observed, expected in ((value[:, None], loss.exp()[None]), (slope, loss.exp() * gradient)):
        error = observed.std(0) / len(draws) ** 0.5
        assert ((observed.mean(0) - expected).abs() / error).max() < 4.5
        assert (error / expected.norm()).max() < 0.02  # the test would see a correction that is a little wrong


@pytest.mark.parametrize("name", ["uniform", "popularity", "in-batch", "mixed"])
def test_the_corrected_loss_converges_to_the_full_softmax(name: str) -> None:
    size = 60_000
    sampler: NegativeSampler = {
        "uniform": Uniform(size, corrected=True),
        "popularity": Popularity(size),
        "in-batch": InBatch(),
        "mixed": Mixed([Uniform(size // 2), InBatch()]),
    }[name]
    problem = Problem()
    sampler.setup(N_ITEMS, problem.counts, seed=4)
    rows = size if name in ("in-batch", "mixed") else 2
    target = problem.batch(rows)
    negatives = sampler.sample(target)
    query = problem.query.clone().requires_grad_()
    own = target[:1]
    scores = SampledScores(
        positive=problem.items[own] @ query,
        negative=(problem.items[negatives.ids] @ query)[None],
        log_q_negative=negatives.log_q,
        hits=negatives.hits(own),
    )
    sampled = InfoNCE(TEMPERATURE)(scores).loss
    slope = torch.autograd.grad(sampled, query)[0]
    loss, gradient = problem.full()
    torch.testing.assert_close(sampled.detach(), loss, rtol=0.01, atol=0)
    torch.testing.assert_close(slope, gradient, rtol=0.02, atol=0.01)


def test_without_correction_the_loss_does_not_converge_to_the_full_softmax() -> None:
    problem, sampler = Problem(), Popularity(3000, alpha=1.0, corrected=False)
    sampler.setup(N_ITEMS, problem.counts, seed=4)
    _, slope = problem.sampled(sampler, problem.batch(2))
    _, gradient = problem.full()
    assert (slope - gradient).abs().max() > 0.05
