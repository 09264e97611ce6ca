"""What every loss of pairs and of triples must do, with every local loss; a new one is tested by existing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recsys.unbiased
from recsys.losses.base import LossOutput
from recsys.unbiased.local_losses import CrossEntropy, LocalLoss
from recsys.unbiased.nonnegative import NonNegativity
from recsys.unbiased.pair_loss import PairLoss, PairScores, RelevanceLoss
from recsys.unbiased.pairwise import PairwiseLoss, TripleScores
from tests.contract.classes import Settings, build, check_docstring, check_refusals, concrete, has_setting

ROWS = 13

ARGUMENTS: dict[str, Settings] = {}
"""What constructors without defaults are given, by class."""

REFUSED: dict[str, list[Settings]] = {
    "Naive": [{"c": -1.0}, {"c": math.nan}],
    "RelMF": [{"clip": -0.1}, {"clip": 1.1}, {"clip": math.nan}, {"local": CrossEntropy()}],
    "SelfNormalized": [{"clip": -0.1}, {"decay": 1.0}, {"decay": math.nan}, {"local": CrossEntropy()}],
    "DualUnbiased": [{"clip": 0.0}, {"clip": -0.1}, {"clip": 1.1}, {"clip": math.nan}],
    "Shrinkage": [{"c": -1.0}, {"c": math.nan}, {"local": CrossEntropy()}],
    "UBPRLoss": [{"clip": 1.1}, {"clip": math.nan}, {"beta": -1.0}, {"beta": math.nan}],
}

PAIRS, TRIPLES = list(concrete(recsys.unbiased, PairLoss)), list(concrete(recsys.unbiased, PairwiseLoss))
LOCALS = list(concrete(recsys.unbiased, LocalLoss))
BOUNDS = list(concrete(recsys.unbiased, NonNegativity))
EVERY_CLASS: list[type] = [*PAIRS, *TRIPLES, *LOCALS, *BOUNDS]


@dataclass(frozen=True)
class Case:
    """A loss, made anew for every batch since it may learn from one, and what it is given; scores come first."""

    kind: type[nn.Module]
    settings: Settings
    scores: PairScores | TripleScores

    def loss(self) -> nn.Module:
        return build(self.kind, self.settings).to(torch.promote_types(self.scores[0].dtype, torch.float32))

    def __call__(self, score: Tensor | None = None, **fields: Any) -> LossOutput:
        output: LossOutput = self.loss()(self.given(score, **fields).scores)
        return output

    def given(self, score: Tensor | None = None, **fields: Any) -> Case:
        """The same loss of other scores or fields."""
        if score is not None:
            fields[self.scores._fields[0]] = score
        return replace(self, scores=self.scores._replace(**fields))

    def gradient(self, **fields: Any) -> Tensor:
        return torch.autograd.grad(self(**fields).loss, self.scores[0])[0]

    def each(self, change: Callable[[Tensor], Tensor]) -> Case:
        """The same loss, every field that is given changed."""
        changed = {name: change(value) for name, value in self.scores._asdict().items() if value is not None}
        return replace(self, scores=self.scores._replace(**changed))

    def cast(self, dtype: torch.dtype) -> Case:
        case = self.each(lambda value: value.detach().to(dtype))
        return case.given(case.scores[0].requires_grad_())


def pairs() -> PairScores:
    """Pairs of both labels, and positives of low propensity among them; row 2 is unlabeled."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(4, ROWS, generator=generator, dtype=torch.float64)
    label = (torch.arange(ROWS) % 3 == 0).double()
    score = torch.randn(ROWS, generator=generator, dtype=torch.float64).requires_grad_()
    return PairScores(score, label, 0.2 + 0.8 * uniform[0], 0.2 + 0.8 * uniform[1], uniform[2])


def triples() -> TripleScores:
    of_pairs = pairs()
    return TripleScores(of_pairs.score, of_pairs.label, of_pairs.propensity, of_pairs.unlabeled_propensity)


def is_bounded(kind: type[PairLoss], local: type[LocalLoss], bound: type[NonNegativity] | None) -> bool:
    """Whether nothing can be gained without end; weights of the loss may be negative where relevance exceeds one."""
    negative = kind.beyond_one if issubclass(kind, RelevanceLoss) else kind.__name__ == "SelfNormalized"
    return local.bounded or not negative or (bound is not None and bound.bounds)


def combinations() -> Iterator[tuple[type[PairLoss], type[LocalLoss], type[NonNegativity] | None]]:
    for kind, local in itertools.product(PAIRS, LOCALS):
        for bound in BOUNDS if has_setting(kind, "nonnegative") else [None]:
            yield kind, local, bound


def settings_of(kind: type[PairLoss], local: type[LocalLoss], bound: type[NonNegativity] | None) -> Settings:
    chosen = {"local": local()} | ({} if bound is None else {"nonnegative": bound()})
    return {**ARGUMENTS.get(kind.__name__, {}), **chosen}


def pair_cases() -> Iterator[Any]:
    for kind, local, bound in combinations():
        if is_bounded(kind, local, bound):
            name = " ".join(part.__name__ for part in (kind, local, bound) if part is not None)
            yield pytest.param(Case(kind, settings_of(kind, local, bound), pairs()), id=name)


def triple_cases() -> Iterator[Any]:
    for kind in TRIPLES:
        yield pytest.param(Case(kind, ARGUMENTS.get(kind.__name__, {}), triples()), id=kind.__name__)


every_case = pytest.mark.parametrize("case", [*pair_cases(), *triple_cases()])
every_pair_case = pytest.mark.parametrize("case", list(pair_cases()))
every_class = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in EVERY_CLASS])


def test_the_classes_are_found() -> None:
    names = {kind.__name__ for kind in EVERY_CLASS}
    assert {"Naive", "Ideal", "RelMF", "SelfNormalized", "DualUnbiased", "PosteriorLabel", "Shrinkage"} <= names
    assert {"BPRLoss", "UBPRLoss", "SquaredError", "CrossEntropy", "Unchanged", "PerPair", "PerBatch"} <= names


@every_class
def test_says_where_it_comes_from_or_shows_its_use(kind: type) -> None:
    check_docstring(kind)


@every_class
def test_refuses_what_it_says_that_it_refuses(kind: type) -> None:
    check_refusals(kind, REFUSED, ARGUMENTS.get(kind.__name__, {}))


def test_what_can_be_gained_from_without_end_is_refused_and_nothing_else() -> None:
    for kind, local, bound in combinations():
        if is_bounded(kind, local, bound):
            build(kind, settings_of(kind, local, bound))
            continue
        with pytest.raises(ValueError, match=f"{kind.__name__}.*no lower bound"):
            build(kind, settings_of(kind, local, bound))


@every_case
def test_is_a_finite_scalar_with_detached_parts(case: Case) -> None:
    loss, parts = case()
    assert loss.shape == () and loss.isfinite() and loss.requires_grad
    assert torch.equal(parts["loss"], loss)
    assert all(part.shape == () and part.isfinite() and not part.requires_grad for part in parts.values())


@every_case
def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    assert torch.autograd.gradcheck(lambda score: case(score).loss, case.scores[0], eps=1e-6, atol=1e-7)
    assert case.gradient().any()


@every_case
def test_propensities_relevance_and_weights_are_constants(case: Case) -> None:
    """Else a model of them would make its loss small by what it says of exposure."""
    ones = torch.ones(ROWS, dtype=torch.float64)
    leaves = {
        name: (ones if value is None else value).clone().requires_grad_()
        for name, value in list(case.scores._asdict().items())[2:]
    }
    loss, parts = case(**leaves)
    gradients = torch.autograd.grad(loss, [case.scores[0], *leaves.values()], allow_unused=True)
    assert gradients[0].any()
    moved = [name for name, gradient in zip(leaves, gradients[1:], strict=True) if gradient is not None]
    assert not moved, f"{case.kind.__name__} has a gradient for {moved}"
    assert not any(part.requires_grad for part in parts.values())


@every_case
def test_float32_and_float64_agree(case: Case) -> None:
    short, long = case.cast(torch.float32), case.cast(torch.float32).cast(torch.float64)
    torch.testing.assert_close(short().loss.double(), long().loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(short.gradient().double(), long.gradient(), rtol=1e-4, atol=1e-6)


@every_case
def test_bfloat16_scores_are_summed_in_float32(case: Case) -> None:
    exact = case.cast(torch.bfloat16).cast(torch.float32)
    loss = exact.given(exact.scores[0].bfloat16())().loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact().loss, rtol=1e-6, atol=1e-7)


@every_case
def test_order_of_rows_is_irrelevant(case: Case) -> None:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(case.each(lambda value: value[order])().loss, case().loss, rtol=1e-12, atol=1e-14)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scores_stay_finite(case: Case, dtype: torch.dtype) -> None:
    sign = case.scores[0].detach().sign()
    short = case.cast(torch.float32)
    for factor, size in itertools.product((sign, -sign, sign.abs(), -sign.abs()), (40.0, 1e4)):
        extreme = short.given((factor * size).to(dtype).requires_grad_())
        loss, parts = extreme()
        assert loss.isfinite() and all(part.isfinite() for part in parts.values())
        assert torch.autograd.grad(loss, extreme.scores[0])[0].isfinite().all()


@every_case
def test_nothing_is_gained_without_end(case: Case) -> None:
    """Propensities of 0.2 give a bounded local loss of positives the factors 5 and -4."""
    rare = case.each(lambda value: torch.full_like(value, 0.2))
    positive = torch.ones(ROWS, dtype=torch.float64)
    for score in (-1e4, 1e4):
        assert rare(score * positive, **{case.scores._fields[1]: positive}).loss > -4.001


@every_case
def test_no_rows_give_zero(case: Case) -> None:
    empty = case.each(lambda value: value[:0])
    loss, parts = empty()
    assert loss == 0 and all(part.isfinite() for part in parts.values())
    loss.backward()


@every_case
def test_evaluation_changes_no_state(case: Case) -> None:
    loss = case.loss()
    loss(case.scores)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()
    first, second = loss(case.scores).loss, loss(case.scores).loss
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


@every_pair_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_one_change_no_bit(case: Case, dtype: torch.dtype) -> None:
    case, ones = case.cast(dtype), torch.ones(ROWS, dtype=dtype)
    assert torch.equal(case().loss, case(weight=ones).loss)
    assert torch.equal(case.gradient(), case.gradient(weight=ones))


@every_pair_case
def test_weights_are_repetitions_of_pairs(case: Case) -> None:
    times = 1 + torch.arange(ROWS) % 4
    repeated = case.each(lambda value: value.repeat_interleave(times))
    torch.testing.assert_close(case(weight=times.double()).loss, repeated().loss, rtol=1e-12, atol=1e-14)


@every_pair_case
def test_a_pair_of_weight_zero_has_no_influence(case: Case) -> None:
    weight = torch.ones(ROWS, dtype=torch.float64)
    weight[2] = 0
    moved = case.scores[0].detach().clone()
    moved[2] += 3
    assert not torch.equal(case().loss, case(moved).loss)
    other = case.each(lambda value: value.detach().index_fill(0, torch.tensor([2]), 0.9)).given(moved)
    assert torch.equal(case(weight=weight).loss, other(label=other.scores[1].round(), weight=weight).loss)
    gradient = case.gradient(weight=weight)
    assert gradient[2] == 0 and gradient.any()


@every_pair_case
def test_no_weight_at_all_gives_zero(case: Case) -> None:
    weight = torch.zeros(ROWS, dtype=torch.float64)
    assert case(weight=weight).loss == 0
    assert torch.equal(case.gradient(weight=weight), weight)


@every_pair_case
@pytest.mark.parametrize(
    ("flag", "field"),
    [("asks_exposure", "propensity"), ("asks_dual", "unlabeled_propensity"), ("asks_relevance", "relevance")],
)
def test_reads_what_it_asks_for_and_no_more(case: Case, flag: str, field: str) -> None:
    if getattr(case.kind, flag):
        with pytest.raises(ValueError, match=f"{case.kind.__name__} needs the"):
            case(**{field: None})
    else:
        assert torch.equal(case(**{field: None}).loss, case().loss)


@every_pair_case
def test_reads_propensities_of_unlabeled_pairs_where_it_says_so(case: Case) -> None:
    assert isinstance(case.scores, PairScores)
    unlabeled = case.scores.label == 0
    fields = {
        name: torch.where(unlabeled, 0.5 * value, value)
        for name in ("propensity", "unlabeled_propensity")
        if (value := getattr(case.scores, name)) is not None
    }
    # Of one factor alone a normalised mean would know nothing.
    fields["unlabeled_propensity"][2] *= 0.5
    assert issubclass(case.kind, PairLoss)
    assert torch.equal(case(**fields).loss, case().loss) != case.kind.asks_unlabeled


@pytest.mark.parametrize("case", list(triple_cases()))
def test_a_comparison_reads_propensities_where_it_says_so(case: Case) -> None:
    assert issubclass(case.kind, PairwiseLoss)
    for field in ("propensity", "other_propensity"):
        if case.kind.asks_exposure:
            with pytest.raises(ValueError, match=f"{case.kind.__name__} needs the"):
                case(**{field: None})
        else:
            assert torch.equal(case(**{field: None}).loss, case().loss)
