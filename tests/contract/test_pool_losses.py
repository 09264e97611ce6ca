"""What every loss of pools, and every rule that weighs their positives, must do; a new one is tested by existing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import recsys.denoising
from recsys.denoising.pool_losses import PoolLoss
from recsys.denoising.temperature import Temperature
from recsys.denoising.weighting import PoolWeighting
from tests.contract.classes import Settings, build, check_docstring, check_refusals, concrete, has_setting

ROWS, POOL, NEGATIVES, USERS = 9, 4, 3, 6
LATE = 40
"""An epoch by which every rule decides by losses."""

SETTINGS: dict[str, list[Settings]] = {
    "PersonalLossWeights": [{"start": 0}, {"start": 0, "floor": 0.2}],
    "PersonalLossResampling": [{"start": 0}, {"start": 0, "floor": 0.2}],
}
"""What a class is made with; without a row it is made with its defaults."""

NEUTRAL: dict[str, Settings] = {
    "PersonalLossWeights": {"temperature": math.inf},
    "PersonalLossResampling": {"temperature": math.inf},
    "TruncatedLoss": {"drop": 0.0},
    "ReweightedLoss": {"beta": 0.0},
}
"""With which a weighting weighs all alike."""

OF_PERSONAL: list[Settings] = [{"temperature": 0.0}, {"temperature": math.nan}, {"floor": 1.0}, {"start": -1}]
OF_MOMENTS: list[Settings] = [{"scale": 0.0}, {"scale": math.nan}, {"least": 0.0}, {"decay": 1.0}, {"decay": -0.1}]
REFUSED: dict[str, list[Settings]] = {
    "PersonalLossWeights": OF_PERSONAL,
    "PersonalLossResampling": OF_PERSONAL,
    "TruncatedLoss": [{"drop": 1.0}, {"drop": -0.1}, {"drop": math.nan}, {"ramp": 0}],
    "ReweightedLoss": [{"beta": -0.1}, {"beta": math.nan}],
    "FixedTemperature": [{"value": 0.0}, {"value": -1.0}, {"value": math.nan}],
    "AnnealedTemperature": [{"first": 0.0}, {"last": math.nan}, {"start": 5, "end": 5}],
    "StandardizedTemperature": OF_MOMENTS,
    "VariationTemperature": OF_MOMENTS,
}

LOSSES = list(concrete(recsys.denoising, PoolLoss))
WEIGHTINGS = list(concrete(recsys.denoising, PoolWeighting))
TEMPERATURES = list(concrete(recsys.denoising, Temperature))
EVERY_CLASS: list[type] = [*LOSSES, *WEIGHTINGS, *TEMPERATURES]

type_of = {"ids": lambda kind: kind.__name__}
every_class = pytest.mark.parametrize("kind", EVERY_CLASS, **type_of)
every_loss = pytest.mark.parametrize("kind", LOSSES, **type_of)
every_temperature = pytest.mark.parametrize("kind", TEMPERATURES, **type_of)
Make = Callable[[], PoolWeighting]


def weightings() -> Iterator[Any]:
    """Each weighting, with each temperature where it takes one."""
    for kind in WEIGHTINGS:
        for number, settings in enumerate(SETTINGS.get(kind.__name__, [{}])):
            for temperature in TEMPERATURES if has_setting(kind, "temperature") else [None]:
                names = [kind.__name__, *([] if temperature is None else [temperature.__name__]), str(number)]
                yield pytest.param(ready_maker(kind, settings, temperature), id=" ".join(names))


def ready_maker(kind: type[PoolWeighting], settings: Settings, temperature: type[Temperature] | None) -> Make:
    def make() -> PoolWeighting:
        chosen = {} if temperature is None else {"temperature": build(temperature, {})}
        return ready(build(kind, {**settings, **chosen}))

    return make


def ready(weighting: PoolWeighting, seed: int = 0) -> PoolWeighting:
    weighting.setup(USERS, seed, torch.device("cpu"))
    return weighting


every_weighting = pytest.mark.parametrize("make", list(weightings()))


def scores(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Of positives `[n, k]` and negatives `[n, m]`; both need a gradient."""
    drawn = torch.randn(ROWS, POOL + NEGATIVES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    positive, negative = drawn.split([POOL, NEGATIVES], dim=1)
    return positive.to(dtype).clone().requires_grad_(), negative.to(dtype).clone().requires_grad_()


def pools(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Losses `[B, k]` and users `[B]`, of whom some stand in several rows."""
    losses = torch.rand(ROWS, POOL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return losses.to(dtype), 1 + torch.arange(ROWS) % USERS


def draws(make: Make) -> bool:
    """Whether the weights depend on the generator."""
    losses, users = pools()
    first, second = make(), ready(make(), seed=1)
    return not torch.equal(first.weights(losses, users, LATE)[0], second.weights(losses, users, LATE)[0])


def test_the_classes_are_found() -> None:
    names = {kind.__name__ for kind in EVERY_CLASS}
    assert {"BPRPoolLoss", "BCEPoolLoss", "PersonalLossWeights", "PersonalLossResampling"} <= names
    assert {"TruncatedLoss", "ReweightedLoss", "FixedTemperature", "StandardizedTemperature"} <= names


@every_class
def test_says_where_it_comes_from_or_shows_its_use(kind: type) -> None:
    check_docstring(kind)


@every_class
def test_refuses_what_it_says_that_it_refuses(kind: type) -> None:
    check_refusals(kind, REFUSED, SETTINGS.get(kind.__name__, [{}])[0])


def of_each(loss: PoolLoss, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """The losses of the positives, and of the negatives where these have some."""
    of_negatives = loss.negatives(negative)
    return [loss.positives(positive, negative), *([] if of_negatives is None else [of_negatives])]


@every_loss
def test_losses_have_the_shape_of_the_scores_and_their_gradient(kind: type[PoolLoss]) -> None:
    loss, (positive, negative) = build(kind, {}), scores()
    each = of_each(loss, positive, negative)
    assert [one.shape for one in each] == [positive.shape, negative.shape][: len(each)]
    assert all(one.isfinite().all() and (one > 0).all() for one in each)
    assert torch.autograd.gradcheck(lambda *given: tuple(of_each(loss, *given)), (positive, negative))
    gradients = torch.autograd.grad(sum(one.sum() for one in each), [positive, negative])
    assert (gradients[0] < 0).all() and (gradients[1] > 0).all()  # positives are pushed up, negatives down


@every_loss
def test_the_loss_of_a_positive_knows_its_own_score_and_pool_alone(kind: type[PoolLoss]) -> None:
    loss, (positive, negative) = build(kind, {}), scores()
    together = loss.positives(positive, negative)
    for row, column in itertools.product(range(ROWS), range(POOL)):
        alone = loss.positives(positive[row : row + 1, column : column + 1], negative[row : row + 1])
        torch.testing.assert_close(together[row, column], alone[0, 0], rtol=1e-12, atol=0)


@every_loss
def test_order_of_rows_positives_and_negatives_is_irrelevant(kind: type[PoolLoss]) -> None:
    loss, (positive, negative) = build(kind, {}), scores()
    turned = of_each(loss, positive.flip(0, 1), negative.flip(0, 1))
    for a, b in zip(turned, of_each(loss, positive, negative), strict=True):
        torch.testing.assert_close(a.flip(0, 1), b, rtol=1e-12, atol=0)


@every_loss
def test_float32_and_float64_agree_and_bfloat16_is_summed_in_float32(kind: type[PoolLoss]) -> None:
    loss = build(kind, {})
    for dtype, longer in ((torch.float32, torch.float64), (torch.bfloat16, torch.float32)):
        given = scores(dtype)
        exact = of_each(loss, *(score.to(longer) for score in given))
        for a, b in zip(of_each(loss, *given), exact, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a.to(longer), b, rtol=1e-5, atol=1e-6)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scores_stay_finite(kind: type[PoolLoss], dtype: torch.dtype) -> None:
    signs = [score.detach().sign() for score in scores(dtype)]
    for first, second in itertools.product((-1e4, -40.0, 40.0, 1e4), repeat=2):
        for one in (signs, [sign.abs() for sign in signs]):
            given = [(one[0] * first).requires_grad_(), (one[1] * second).requires_grad_()]
            each = of_each(build(kind, {}), *given)
            assert all(values.isfinite().all() for values in each)
            gradients = torch.autograd.grad(sum(values.sum() for values in each), given, allow_unused=True)
            assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@every_weighting
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_constants_of_the_type_and_shape_of_losses(make: Make, dtype: torch.dtype) -> None:
    weighting, (losses, users) = make(), pools(dtype)
    weights, parts = weighting.weights(losses, users, LATE)
    assert weights.shape == losses.shape and weights.dtype == dtype and not weights.requires_grad
    assert weights.isfinite().all() and (weights >= 0).all() and weights.any()
    assert all(part.shape == () and part.isfinite() and not part.requires_grad for part in parts.values())
    of_negatives = weighting.negative_weights(losses, LATE)
    if of_negatives is not None:
        assert of_negatives.shape == losses.shape and of_negatives.dtype == dtype
        assert of_negatives.isfinite().all() and (of_negatives >= 0).all()


@every_weighting
def test_a_batch_weighs_no_more_than_its_rows_and_as_much_where_nothing_is_lost(make: Make) -> None:
    losses, users = pools()
    assert make().weights(losses, users, LATE)[0].sum() / ROWS < 1 + 1e-12
    total = make().weights(torch.zeros_like(losses), users, LATE)[0].sum() / ROWS
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0)
    of_negatives = make().negative_weights(torch.zeros_like(losses), LATE)
    assert of_negatives is None or (of_negatives == 1).all()


@every_weighting
def test_losses_are_left_as_they_are(make: Make) -> None:
    losses, users = pools()
    before = losses.clone()
    make().weights(losses, users, LATE)
    assert torch.equal(losses, before)


@every_weighting
def test_higher_losses_weigh_less(make: Make) -> None:
    """In the mean over rows that are all alike, so that draws average out."""
    losses = torch.tensor([0.2, 0.5, 1.5], dtype=torch.float64).repeat(4000, 1)
    mean = make().weights(losses, 1 + torch.arange(4000) % USERS, LATE)[0].mean(0)
    assert mean[0] >= mean[1] > mean[2]
    assert mean[0] > mean[2] + 0.02


@every_weighting
def test_order_of_rows_is_irrelevant_and_float32_and_float64_agree(make: Make) -> None:
    if draws(make):
        pytest.skip("its draws depend on their order and type")
    losses, users = pools()
    weights, _ = make().weights(losses, users, LATE)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(5))
    turned, _ = make().weights(losses[order], users[order], LATE)
    torch.testing.assert_close(turned, weights[order], rtol=1e-12, atol=1e-14)
    short, _ = make().weights(losses.float(), users, LATE)
    torch.testing.assert_close(short.double(), weights, rtol=1e-4, atol=1e-6)


@every_weighting
@pytest.mark.parametrize("size", [0.0, 1e-30, 40.0, 1e4])
def test_extreme_losses_stay_finite(make: Make, size: float) -> None:
    _, users = pools()
    apart = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(ROWS, 1) * size
    for losses in (apart, torch.full((ROWS, POOL), size)):
        weighting = make()
        for _ in range(2):  # with what it has learned from the first
            weights, parts = weighting.weights(losses, users, LATE)
            assert weights.isfinite().all() and (weights >= 0).all()
            assert all(part.isfinite() for part in parts.values())


@every_weighting
def test_losses_that_are_not_read_decide_nothing(make: Make) -> None:
    losses, users = pools()
    for epoch in range(LATE):
        if not make().reads_losses(epoch):
            weights, nothing = (make().weights(given, users, epoch)[0] for given in (losses, torch.zeros_like(losses)))
            assert torch.equal(weights, nothing)
    assert make().reads_losses(LATE)


@pytest.mark.parametrize("kind", WEIGHTINGS, **type_of)
def test_neutral_settings_weigh_all_alike(kind: type[PoolWeighting]) -> None:
    assert kind.__name__ in NEUTRAL, f"{kind.__name__} has no settings that weigh all alike: give it some in the table"
    weighting = ready(build(kind, {**SETTINGS.get(kind.__name__, [{}])[0], **NEUTRAL[kind.__name__]}))
    rows = 4000
    losses = torch.arange(POOL, dtype=torch.float64).repeat(rows, 1)
    for epoch in (0, LATE):
        assert not weighting.reads_losses(epoch)
        mean = weighting.weights(losses, 1 + torch.arange(rows) % USERS, epoch)[0].mean(0)
        error = (1 / POOL * (1 - 1 / POOL) / rows) ** 0.5  # of draws
        assert ((mean - 1 / POOL).abs() < 4 * error).all()
        of_negatives = weighting.negative_weights(losses, epoch)
        assert of_negatives is None or (of_negatives == 1).all()


@every_weighting
def test_states_continue_draws_and_what_was_learned(make: Make) -> None:
    losses, users = pools()
    weighting, other = make(), ready(make(), seed=7)
    weighting.weights(losses, users, LATE)
    state, later = weighting.state_dict(), losses.flip(0) * 2
    expected = [weighting.weights(later, users, epoch)[0] for epoch in (LATE, LATE + 1)]
    other.load_state_dict(state)  # which what came after it was taken has not changed
    for epoch, weights in zip((LATE, LATE + 1), expected, strict=True):
        assert torch.equal(other.weights(later, users, epoch)[0], weights)


def temperature_of(kind: type[Temperature]) -> Temperature:
    temperature = build(kind, {})
    temperature.setup(USERS, torch.device("cpu"))
    return temperature


@every_temperature
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 40.0, 1e4])
def test_temperatures_are_positive_and_finite(kind: type[Temperature], dtype: torch.dtype, size: float) -> None:
    losses, users = pools(dtype)
    temperature = temperature_of(kind)
    for epoch in (0, 10, LATE):
        for given in (losses * size, torch.full_like(losses, size)):
            found = temperature.of(given, users, epoch)
            assert found.shape in ((), (ROWS, 1)) and found.dtype == dtype and not found.requires_grad
            assert found.isfinite().all() and (found > 0).all()


@every_temperature
def test_temperatures_belong_to_users_whatever_the_order_of_rows(kind: type[Temperature]) -> None:
    losses, users = pools()

    def learned(rows: Tensor) -> Tensor:
        """Temperatures of these rows after a step before, in which some of the users stand less often."""
        temperature, before = temperature_of(kind), rows[rows < USERS + 1]
        temperature.of(2 * losses[before].square(), users[before], LATE)
        return temperature.of(losses[rows], users[rows], LATE).expand(len(rows), 1)

    found = learned(torch.arange(ROWS))
    for user in range(1, USERS + 1):
        rows = (users == user).nonzero().squeeze(1)
        torch.testing.assert_close(learned(rows), found[rows], rtol=1e-12, atol=0)
    torch.testing.assert_close(learned(torch.arange(ROWS).flip(0)).flip(0), found, rtol=1e-12, atol=0)
