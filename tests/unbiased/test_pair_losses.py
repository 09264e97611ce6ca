"""Losses of pairs against their formulas, and against draws of who was exposed to what and liked it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import pytest
import torch
from torch import Tensor

from recsys.losses.base import LossOutput
from recsys.unbiased.local_losses import CrossEntropy, SquaredError
from recsys.unbiased.nonnegative import PerBatch, PerPair
from recsys.unbiased.normalized import DualUnbiased, SelfNormalized
from recsys.unbiased.pair_loss import PairLoss, PairScores, effective_share
from recsys.unbiased.pairwise import BPRLoss, TripleScores, UBPRLoss
from recsys.unbiased.pointwise import Ideal, Naive, RelMF
from recsys.unbiased.posterior import PosteriorLabel, Shrinkage
from recsys.unbiased.propensity import ItemPower

PAIRS, DRAWS = 120, 2000


class World:
    """Pairs of known relevance gamma and propensity theta, with fixed scores."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.gamma, uniform = torch.rand(2, PAIRS, generator=random, dtype=torch.float64)
        self.theta = 0.05 + 0.95 * uniform
        self.score = torch.randn(PAIRS, generator=random, dtype=torch.float64)
        self.if_relevant, self.if_not = SquaredError()(self.score)
        exposed = torch.rand(DRAWS, PAIRS, generator=random, dtype=torch.float64) < self.theta
        self.labels = (
            exposed & (torch.rand(DRAWS, PAIRS, generator=random, dtype=torch.float64) < self.gamma)
        ).double()
        self.ideal = Ideal()(PairScores(self.score, self.labels[0], relevance=self.gamma)).loss.item()

    def losses(self, loss: PairLoss, relevance: Tensor | None = None) -> Tensor:
        """`[DRAWS]` losses of the batch of all pairs."""
        return torch.stack([loss(self.scores(label, relevance)).loss for label in self.labels])

    @cached_property
    def weighted(self) -> Tensor:
        """`[DRAWS]` losses by inverse propensity."""
        return self.losses(RelMF())

    def scores(self, label: Tensor, relevance: Tensor | None = None) -> PairScores:
        return PairScores(self.score, label, self.theta, relevance=relevance)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def errors(found: Tensor, expected: float) -> float:
    """How many standard errors the mean is away from what is expected."""
    return abs(float(found.mean()) - expected) / (float(found.std()) / len(found) ** 0.5)


def test_the_ideal_loss_is_that_of_a_loop(world: World) -> None:
    total = 0.0
    for gamma, score in zip(world.gamma.tolist(), world.score.tolist(), strict=True):
        p = 1 / (1 + math.exp(-score))
        total += gamma * (1 - p) ** 2 + (1 - gamma) * p**2
    assert world.ideal == pytest.approx(total / PAIRS, rel=1e-12)


def test_inverse_propensity_is_unbiased_with_the_predicted_variance(world: World) -> None:
    found = world.weighted
    assert errors(found, world.ideal) < 2
    each = world.gamma * (1 / world.theta - world.gamma) * (world.if_relevant - world.if_not) ** 2
    variance = float(each.sum()) / PAIRS**2
    assert float(found.var()) == pytest.approx(variance, rel=4 * (2 / DRAWS) ** 0.5)


def test_naive_misses_by_the_predicted_bias(world: World) -> None:
    found = world.losses(Naive())
    bias = float(((world.theta - 1) * world.gamma * (world.if_relevant - world.if_not)).mean())
    assert errors(found, world.ideal + bias) < 2
    assert errors(found, world.ideal) > 10


def test_a_clip_misses_by_the_predicted_bias_and_has_less_variance(world: World) -> None:
    clip = 0.4
    found = world.losses(RelMF(clip))
    low = (1 - world.theta / clip).clamp(min=0)
    bias = -float((low * world.gamma * (world.if_relevant - world.if_not)).mean())
    assert errors(found, world.ideal + bias) < 2
    assert errors(found, world.ideal) > 5
    assert found.var() < world.weighted.var()


def test_posterior_labels_are_unbiased_where_the_model_is(world: World) -> None:
    found = world.losses(PosteriorLabel(), world.gamma)
    assert errors(found, world.ideal) < 2
    assert found.var() < world.weighted.var()
    g = 0.5 * world.gamma
    mean = world.theta * world.gamma + (1 - world.theta * world.gamma) * g * (1 - world.theta) / (1 - world.theta * g)
    wrong = float((mean * world.if_relevant + (1 - mean) * world.if_not).mean())
    found = world.losses(PosteriorLabel(), g)
    assert errors(found, wrong) < 2 and errors(found, world.ideal) > 5


def test_shrinkage_has_the_predicted_bias_and_variance(world: World) -> None:
    g, c = world.gamma.flip(0), 0.3
    found = world.losses(Shrinkage(c), g)
    k, gain = world.theta / (world.theta + c), world.if_relevant - world.if_not
    assert errors(found, world.ideal + float(((1 - k) * (g - world.gamma) * gain).mean())) < 2
    variance = float((k**2 * world.gamma * (1 / world.theta - world.gamma) * gain**2).sum()) / PAIRS**2
    assert float(found.var()) == pytest.approx(variance, rel=4 * (2 / DRAWS) ** 0.5)


def test_estimates_of_relevance_have_the_predicted_mean_pair_by_pair(world: World) -> None:
    """Over pairs, misses of either sign could make up for each other."""
    theta, gamma, g = world.theta, world.gamma, 0.5 * world.gamma
    seen = theta * gamma
    cases = [
        (RelMF(), g, gamma),
        (RelMF(clip=0.4), g, theta / theta.clamp(min=0.4) * gamma),
        (PosteriorLabel(), gamma, gamma),
        (PosteriorLabel(), g, seen + (1 - seen) * g * (1 - theta) / (1 - theta * g)),
        (Shrinkage(0.3), g, (0.3 * g + theta * gamma) / (theta + 0.3)),
    ]
    for loss, relevance, expected in cases:
        scores = PairScores(world.score, world.labels, theta.expand_as(world.labels), relevance=relevance)
        estimated = loss.estimated(scores)
        errors = (estimated.mean(0) - expected) / (estimated.std(0) / DRAWS**0.5)
        assert errors.square().mean() < 1.5  # 1 but for 5 standard deviations of its own
        missed = (estimated.mean(0) - gamma) / (estimated.std(0) / DRAWS**0.5)
        assert expected is gamma or missed.square().mean() > 5


def test_limits_are_other_losses_exactly(world: World) -> None:
    label = world.labels[0]
    scores, ones = world.scores(label, world.gamma), torch.ones_like(world.theta)
    everywhere = scores._replace(propensity=ones)
    naive, rel = Naive()(scores).loss, RelMF()(scores).loss
    assert torch.equal(RelMF()(everywhere).loss, naive)  # theta = 1 is WMF with c = 1
    assert torch.equal(PosteriorLabel()(everywhere).loss, naive)
    nothing = scores._replace(relevance=torch.zeros_like(ones))
    assert torch.equal(PosteriorLabel()(nothing).loss, naive)  # g = 0
    assert torch.equal(Shrinkage(c=0)(scores).loss, rel)  # k = 1
    assert torch.equal(Shrinkage(c=0)(nothing).loss, rel)
    torch.testing.assert_close(Shrinkage(c=1e9)(scores).loss, torch.tensor(world.ideal, dtype=torch.float64))  # k = 0
    assert torch.equal(RelMF(clip=1)(scores).loss, naive)


def test_items_without_positives_do_no_harm(world: World) -> None:
    """Their propensity is 0, and all their pairs are unlabeled."""
    scores = PairScores(world.score[:3].float().requires_grad_(), torch.zeros(3), torch.zeros(3), torch.ones(3))
    for loss in (RelMF(), PosteriorLabel(), Shrinkage(0.1), Shrinkage(0.0), DualUnbiased(), SelfNormalized()):
        value = loss(scores._replace(relevance=torch.tensor([0.0, 0.5, 1.0]))).loss
        (gradient,) = torch.autograd.grad(value, scores.score)
        assert value.isfinite() and gradient.isfinite().all()


def test_weights_are_repetitions_of_pairs(world: World) -> None:
    weight = torch.arange(1, PAIRS + 1) % 4 + 1
    label = world.labels[1]
    whole = world.scores(label, world.gamma)._replace(unlabeled_propensity=world.theta.flip(0))
    repeated = PairScores(*(None if v is None else v.repeat_interleave(weight) for v in whole))
    for loss in (Naive(0.7), RelMF(0.1), SelfNormalized(), DualUnbiased(), PosteriorLabel(), Shrinkage()):
        expected = loss.train(False)(repeated).loss if not isinstance(loss, SelfNormalized) else loss(repeated).loss
        again = SelfNormalized() if isinstance(loss, SelfNormalized) else loss
        torch.testing.assert_close(again(whole._replace(weight=weight.double())).loss, expected, rtol=1e-10, atol=0)


def test_dual_is_a_loop_without_the_division_by_the_batch(world: World) -> None:
    label, other, clip = world.labels[2], world.theta.flip(0), 0.2
    sides = [[0.0, 0.0], [0.0, 0.0]]  # sums of weighted losses and of weights, of positives and of unlabeled pairs
    for row in range(PAIRS):
        side = 0 if label[row] else 1
        weight = 1 / max(float((world.theta if label[row] else other)[row]), clip)
        sides[side][0] += weight * float((world.if_relevant if label[row] else world.if_not)[row])
        sides[side][1] += weight
    scores = world.scores(label)._replace(unlabeled_propensity=other)
    expected = sum(total / weight for total, weight in sides)
    assert DualUnbiased(clip)(scores).loss.item() == pytest.approx(expected, rel=1e-12)


def test_dual_without_propensities_is_balance_alone(world: World) -> None:
    """Its neutral setting: any popularity, that of the most popular item and of one that nobody had among them."""
    label, power = world.labels[3], ItemPower(eta=0.0)
    power.fit(torch.arange(PAIRS))
    items = torch.arange(PAIRS).flip(0)
    exposed, unlabeled = power(items, items, None), power.of_unlabeled(items, items)
    liked = (label > 0) & (exposed > 0)
    scores = PairScores(world.score, liked.double(), exposed.double(), unlabeled.double())
    expected = world.if_relevant[liked].mean() + world.if_not[~liked].mean()
    torch.testing.assert_close(DualUnbiased(0.1)(scores).loss, expected, rtol=1e-12, atol=0)


def test_a_batch_without_positives_or_of_positives_alone_is_no_division_by_zero(world: World) -> None:
    for label, side in ((torch.zeros(PAIRS), world.if_not), (torch.ones(PAIRS), world.if_relevant)):
        ones = torch.ones(PAIRS, dtype=torch.float64)
        scores = PairScores(world.score.clone().requires_grad_(), label.double(), ones, ones)
        loss = DualUnbiased()(scores).loss
        assert loss.item() == pytest.approx(float(side.mean()))
        assert torch.autograd.grad(loss, scores.score)[0].isfinite().all()
    assert DualUnbiased()(PairScores(*(torch.zeros(0) for _ in range(4)))).loss == 0


def test_self_normalisation_is_inverse_propensity_over_a_running_rate(world: World) -> None:
    loss, running = SelfNormalized(decay=0.9), 0.0
    first = loss(world.scores(world.labels[0])).loss
    torch.testing.assert_close(first, RelMF()(world.scores(world.labels[0])).loss, rtol=1e-6, atol=0)
    loss = SelfNormalized(decay=0.9)
    for step, label in enumerate(world.labels[:20], 1):
        weight = label / world.theta
        running = 0.9 * running + 0.1 * float(weight.mean())
        gain = float((weight * (world.if_relevant - world.if_not)).sum() / weight.sum())
        expected = float(world.if_not.mean()) + running / (1 - 0.9**step) * gain
        assert loss(world.scores(label)).loss.item() == pytest.approx(expected, rel=1e-6)
    state, rate = loss.state_dict(), loss.rate.clone()
    loss.eval()(world.scores(world.labels[30]))
    assert torch.equal(loss.rate, rate)  # evaluation leaves it
    resumed = SelfNormalized(decay=0.9)
    resumed.load_state_dict(state)
    assert torch.equal(resumed(world.scores(world.labels[21])).loss, loss.train()(world.scores(world.labels[21])).loss)


def test_a_running_rate_has_less_variance_than_inverse_propensity(world: World) -> None:
    loss = SelfNormalized()
    world.losses(loss)  # the rate settles
    found = world.losses(loss)
    assert found.var() < world.weighted.var()
    assert abs(float(found.mean()) - world.ideal) < 0.02 * world.ideal


def test_negative_losses_are_told_and_kept_at_bay_as_asked() -> None:
    """Positives of tiny propensity at a certain score: released code clips at 1000 and calls it bounded."""
    scores = PairScores(torch.tensor([9.0, -9.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.001, 0.5]))
    free = RelMF()(scores)
    assert free.loss < -400 and free.parts["least_local"] < -900
    assert RelMF(nonnegative=PerBatch())(scores).loss == 0
    kept = RelMF(nonnegative=PerPair())(scores)
    assert 0 <= kept.loss < 1e-3 and kept.parts["least_local"] < -900
    assert RelMF(local=CrossEntropy(), nonnegative=PerPair())(scores).loss >= 0


@pytest.mark.parametrize(
    "make",
    [lambda **a: RelMF(**a), lambda **a: Shrinkage(**a), lambda **a: SelfNormalized(**a)],
    ids=["rel", "shrink", "snips"],
)
def test_an_unbounded_loss_is_refused(make: Callable[..., PairLoss]) -> None:
    with pytest.raises(ValueError, match="no lower bound"):
        make(local=CrossEntropy())
    PosteriorLabel(CrossEntropy()), Naive(local=CrossEntropy()), DualUnbiased(local=CrossEntropy())  # all weights >= 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: RelMF(clip=1.5),
        lambda: RelMF(clip=-0.1),
        lambda: Naive(c=-1),
        lambda: Shrinkage(c=-1),
        lambda: SelfNormalized(decay=1),
        lambda: UBPRLoss(beta=-1),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must"):
        make()


def test_what_a_loss_needs_is_named() -> None:
    scores = PairScores(torch.zeros(2), torch.ones(2))
    for loss, name in ((RelMF(), "propensity"), (Ideal(), "relevance"), (UBPRLoss(), "propensity")):
        given: object = TripleScores(torch.zeros(1), torch.ones(1)) if isinstance(loss, UBPRLoss) else scores
        with pytest.raises(ValueError, match=f"needs the {name}"):
            loss(given)


@pytest.mark.parametrize("local", [SquaredError(), CrossEntropy()])
def test_local_losses_stay_finite_and_have_the_right_gradient(local: SquaredError | CrossEntropy) -> None:
    far = torch.tensor([-1e4, 1e4], dtype=torch.bfloat16)
    assert all(loss.isfinite().all() and loss.dtype == torch.float32 for loss in local(far))
    score = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: local(value), score)


def test_effective_share_and_clipped_share() -> None:
    label = torch.tensor([1.0, 1.0, 1.0, 0.0])
    parts = RelMF(clip=0.2)(PairScores(torch.zeros(4), label, torch.tensor([0.5, 0.25, 0.1, 0.0]))).parts
    assert parts["clipped_share"].item() == pytest.approx(1 / 3)
    assert parts["effective_share"].item() == pytest.approx((2 + 4 + 5) ** 2 / (3 * (4 + 16 + 25)))
    assert effective_share(torch.zeros(3)) == 0


def test_ubpr_is_unbiased_for_the_ideal_comparison_and_bpr_is_not() -> None:
    random = torch.Generator().manual_seed(1)
    gamma, other_gamma = 0.6, 0.3
    theta, other_theta, difference = 0.4, 0.7, torch.tensor([0.5], dtype=torch.float64)
    draws = 200_000
    exposed, liked, other_exposed, other_liked = torch.rand(4, draws, generator=random, dtype=torch.float64)
    label = (exposed < theta) & (liked < gamma)
    other = ((other_exposed < other_theta) & (other_liked < other_gamma)).double()
    ideal = gamma * (1 - other_gamma) * math.log1p(math.exp(-0.5))

    def values(loss: UBPRLoss | BPRLoss) -> Tensor:
        by_label = [
            loss(
                TripleScores(
                    difference,
                    torch.tensor([value], dtype=torch.float64),
                    torch.tensor([theta], dtype=torch.float64),
                    torch.tensor([other_theta], dtype=torch.float64),
                )
            ).loss
            for value in (0.0, 1.0)
        ]
        return label * torch.where(other > 0, by_label[1], by_label[0])

    assert errors(values(UBPRLoss(beta=1e9)), ideal) < 2
    assert errors(values(BPRLoss()), ideal) > 10
    assert errors(values(UBPRLoss()), ideal) > 10  # beta = 0 leaves negative comparisons out, and is biased


def test_ubpr_is_bounded_by_beta_and_clipped() -> None:
    one, low = torch.ones(1), torch.tensor([0.01])
    scores = TripleScores(torch.tensor([-3.0]), one, low, low)
    assert UBPRLoss(beta=0.5)(scores).loss.item() == -0.5
    assert UBPRLoss()(scores).loss.item() == 0
    assert UBPRLoss(beta=1e9)(scores).parts["least_local"].item() < -1e4
    clipped = UBPRLoss(clip=0.5, beta=1e9)(scores).loss.item()
    assert clipped == pytest.approx(2 * (1 - 2) * math.log1p(math.exp(3)), rel=1e-5)


def test_parts_are_detached(world: World) -> None:
    scores = world.scores(world.labels[0], world.gamma)._replace(
        score=world.score.clone().requires_grad_(), unlabeled_propensity=world.theta
    )
    for loss in (Naive(), Ideal(), RelMF(), SelfNormalized(), DualUnbiased(), PosteriorLabel(), Shrinkage()):
        out: LossOutput = loss(scores)
        assert out.loss.requires_grad and not any(part.requires_grad for part in out.parts.values())
        assert out.parts["loss"] == out.loss
