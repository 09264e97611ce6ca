"""What every loss of `recsys.losses` must do; a new module there is tested by existing."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import recsys.losses
from recsys.losses.base import CatalogueLoss, LossOutput, RetrievalLoss, SampledLoss, SampledScores

ROWS, COLUMNS, DIM = 7, 11, 5


def losses() -> Iterator[type[RetrievalLoss]]:
    for found in pkgutil.iter_modules(recsys.losses.__path__):
        module = importlib.import_module(f"recsys.losses.{found.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            defined_here = issubclass(kind, RetrievalLoss) and kind.__module__ == module.__name__
            if defined_here and not inspect.isabstract(kind) and kind is not RetrievalLoss:
                yield kind


@dataclass(frozen=True)
class Case:
    """Inputs of a loss: `first` has one line per row, `second` one column per negative or one line per item."""

    loss: RetrievalLoss
    first: Tensor
    second: Tensor
    target: Tensor
    log_q: Tensor | None = None
    log_q_positive: Tensor | None = None
    hits: Tensor | None = None

    def __call__(self, weight: Tensor | None = None) -> LossOutput:
        if isinstance(self.loss, CatalogueLoss):
            return self.loss(self.first, self.second, self.target, weight)
        return self.loss(SampledScores(self.first, self.second, self.log_q_positive, self.log_q, self.hits, weight))

    def cast(self, dtype: torch.dtype) -> Case:
        return replace(self, first=leaf(self.first, dtype), second=leaf(self.second, dtype))

    def gradients(self, weight: Tensor | None = None) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self(weight).loss, (self.first, self.second))

    def permuted(self) -> Case:
        """The same rows and negatives (or items) in another order."""
        generator = torch.Generator().manual_seed(5)
        rows = torch.randperm(ROWS, generator=generator)
        columns = torch.randperm(COLUMNS, generator=generator)
        if isinstance(self.loss, CatalogueLoss):
            columns = torch.cat((torch.zeros(1, dtype=torch.long), columns[columns > 0]))
            return replace(
                self, first=self.first[rows], second=self.second[columns], target=columns.argsort()[self.target[rows]]
            )
        return replace(
            self,
            first=self.first[rows],
            second=self.second[rows][:, columns],
            log_q=None if self.log_q is None else self.log_q.expand(ROWS, COLUMNS)[rows][:, columns],
            log_q_positive=None if self.log_q_positive is None else self.log_q_positive[rows],
            hits=None
            if self.hits is None
            else torch.stack((rows.argsort()[self.hits[0]], columns.argsort()[self.hits[1]])),
        )


def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).requires_grad_()


def cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    for kind in losses():
        if issubclass(kind, CatalogueLoss):
            yield kind.__name__, lambda kind=kind: case(kind)
            continue
        yield f"{kind.__name__}", lambda kind=kind: case(kind)
        yield f"{kind.__name__} hits", lambda kind=kind: case(kind, hits=True)
        yield f"{kind.__name__} corrected", lambda kind=kind: case(kind, hits=True, log_q=(COLUMNS,))
        yield f"{kind.__name__} per position", lambda kind=kind: case(kind, hits=True, log_q=(ROWS, COLUMNS))
        yield f"{kind.__name__} constant", lambda kind=kind: case(kind, log_q=(1,))


def case(kind: type[RetrievalLoss], hits: bool = False, log_q: tuple[int, ...] | None = None) -> Case:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    loss = kind()
    loss.setup(n_items=100)
    target = torch.randint(1, COLUMNS, (ROWS,), generator=generator)
    catalogue = issubclass(kind, CatalogueLoss)
    return Case(
        loss,
        normal(ROWS, DIM) if catalogue else normal(ROWS),
        normal(COLUMNS, DIM) if catalogue else normal(ROWS, COLUMNS),
        target,
        log_q=None if log_q is None else normal(*log_q),
        log_q_positive=None if log_q is None else normal(ROWS),
        hits=torch.tensor([[0, 2, 2, 6], [1, 0, 10, 4]]) if hits else None,
    ).cast(torch.float64)


every_case = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])


def test_the_losses_are_found() -> None:
    names = {kind.__name__ for kind in losses()}
    assert {"InfoNCE", "FullSoftmax", "BCE", "GBCE"} <= names
    assert all(issubclass(kind, SampledLoss) != issubclass(kind, CatalogueLoss) for kind in losses())


@every_case
def test_is_a_finite_scalar_with_detached_parts(make: Callable[[], Case]) -> None:
    loss, parts = make()()
    assert loss.shape == () and loss.isfinite() and loss.requires_grad
    assert parts and all(part.shape == () and not part.requires_grad for part in parts.values())


@every_case
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_that_of_finite_differences(make: Callable[[], Case], weighted: bool) -> None:
    inputs = make()
    weight = torch.linspace(0.2, 3, ROWS, dtype=torch.float64) if weighted else None

    def value(first: Tensor, second: Tensor) -> Tensor:
        return replace(inputs, first=first, second=second)(weight).loss

    assert torch.autograd.gradcheck(value, (inputs.first, inputs.second), eps=1e-6, atol=1e-7)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_one_change_no_bit(make: Callable[[], Case], dtype: torch.dtype) -> None:
    inputs = make().cast(dtype)
    ones = torch.ones(ROWS)
    assert torch.equal(inputs().loss, inputs(ones).loss)
    assert all(torch.equal(a, b) for a, b in zip(inputs.gradients(), inputs.gradients(ones), strict=True))


@every_case
def test_weights_are_repetitions_of_rows(make: Callable[[], Case]) -> None:
    """Weights 1, 2, 3 give the mean of one, two and three copies: the sum over single rows is the oracle."""
    inputs, weight = make(), torch.arange(1.0, ROWS + 1, dtype=torch.float64)
    rows = torch.stack([inputs(torch.eye(ROWS, dtype=torch.float64)[row]).loss for row in range(ROWS)])
    torch.testing.assert_close(inputs(weight).loss, (rows * weight).sum() / weight.sum(), rtol=1e-12, atol=0)


@every_case
def test_a_row_of_weight_zero_has_no_influence(make: Callable[[], Case]) -> None:
    inputs = make()
    weight = torch.ones(ROWS, dtype=torch.float64)
    weight[2] = 0
    first = inputs.first.detach().clone()
    first[2] += 3
    changed = replace(inputs, first=first.requires_grad_())
    if isinstance(inputs.loss, SampledLoss):
        second = inputs.second.detach().clone()
        second[2] -= 5
        changed = replace(changed, second=second.requires_grad_())
    assert torch.equal(inputs(weight).loss, changed(weight).loss)
    assert not torch.equal(inputs().loss, changed().loss)
    assert inputs.gradients(weight)[0][2].abs().max() == 0
    assert inputs.gradients(weight)[0][3].abs().max() > 0


@every_case
def test_no_weight_at_all_gives_zero(make: Callable[[], Case]) -> None:
    inputs = make()
    assert inputs(torch.zeros(ROWS)).loss == 0
    assert all((gradient == 0).all() for gradient in inputs.gradients(torch.zeros(ROWS)))


@every_case
def test_order_of_rows_and_negatives_is_irrelevant(make: Callable[[], Case]) -> None:
    inputs = make()
    torch.testing.assert_close(inputs.permuted()().loss, inputs().loss, rtol=1e-12, atol=0)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_extreme_scores_stay_finite(make: Callable[[], Case], dtype: torch.dtype, signs: tuple[int, int]) -> None:
    inputs = make()
    size = 1e2 if isinstance(inputs.loss, CatalogueLoss) else 1e4
    extreme = replace(
        inputs, first=inputs.first.sign() * size * signs[0], second=inputs.second.sign() * size * signs[1]
    ).cast(dtype)
    flat = replace(
        inputs,
        first=torch.full_like(inputs.first, size * signs[0]),
        second=torch.full_like(inputs.second, size * signs[1]),
    ).cast(dtype)
    for one in (extreme, flat):
        assert one().loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in one.gradients())


@every_case
def test_bfloat16_is_accepted_and_summed_in_float32(make: Callable[[], Case]) -> None:
    short = make().cast(torch.bfloat16)
    long = short.cast(torch.float32)
    assert short().loss.dtype == torch.float32
    torch.testing.assert_close(short().loss, long().loss, rtol=1e-6, atol=0)
    for a, b in zip(short.gradients(), long.gradients(), strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, rtol=1e-2, atol=1e-5)


@every_case
def test_no_rows_give_zero(make: Callable[[], Case]) -> None:
    inputs = make()
    empty = replace(inputs, first=inputs.first[:0], target=inputs.target[:0], hits=None, log_q_positive=None)
    if isinstance(inputs.loss, SampledLoss):
        per_row = inputs.log_q is not None and inputs.log_q.dim() == 2
        empty = replace(empty, second=inputs.second[:0], log_q=inputs.log_q[:0] if per_row else inputs.log_q)
    loss = empty().loss
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in losses()])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_bad_temperature_is_refused(kind: type[RetrievalLoss], temperature: float) -> None:
    if "temperature" not in inspect.signature(kind).parameters:
        pytest.skip("has no temperature")
    with pytest.raises(ValueError, match="temperature"):
        kind(temperature=temperature)  # type: ignore[call-arg]
