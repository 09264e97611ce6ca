"""Experiments: what is drawn against what is true, arms, seeds, and memory of users."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from recsys.simulation.statistics.cuped import cuped
from recsys.simulation.statistics.effect import ratio_effect, welch
from recsys.simulation.statistics.sample_ratio import sample_ratio_mismatch
from recsys.simulation.world.assignment import assign, uniform_hash
from recsys.simulation.world.experiment import Design, remember, simulate, stream
from recsys.simulation.world.latent_model import LatentModel
from recsys.simulation.world.outcome import Sessions
from recsys.simulation.world.policy import Policy
from recsys.simulation.world.preferences import planted
from recsys.simulation.world.rules import EpsilonGreedy, PlackettLuce
from recsys.simulation.world.truth import policy_value
from recsys.simulation.world.visits import Visits
from recsys.simulation.world.world import Novelty, World
from recsys.unbiased.click_models import Cascade, ClickModel, PositionBased, TrustBias
from tests.simulation.world.worlds import best, popular, small


def same(left: Sessions, right: Sessions) -> bool:
    names = ("day", "user", "arm", "items", "propensity", "clicks", "conversions", "chance")
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in names)


def test_seeds_reproduce_bit_for_bit_and_others_do_not() -> None:
    world = small()
    design = Design(days=3, length=4, before=1, keep=True)
    arms = {"control": popular(world, PlackettLuce()), "treatment": best(world, EpsilonGreedy(0.2))}
    first, again, other = (simulate(world, arms, replace(design, seed=seed)).sessions for seed in (5, 5, 6))
    assert first is not None and again is not None and other is not None
    assert same(first, again)
    assert not torch.equal(first.user, other.user)


def test_sums_are_those_of_the_sessions_and_streaming_keeps_nothing() -> None:
    world = small(conversion=0.5)
    arms = {"control": popular(world), "treatment": best(world)}
    design = Design(days=3, length=4, before=2, keep=True)
    outcome = simulate(world, arms, design)
    sessions = outcome.sessions
    assert sessions is not None and (sessions.conversions <= sessions.clicks).all() and sessions.conversions.any()
    for user in (int(sessions.user[0]), int(sessions.user[-1])):
        for day in range(-2, 3):
            mine = (sessions.user == user) & (sessions.day == day)
            sums, row = (outcome.sums, day) if day >= 0 else (outcome.before, day + 2)
            assert sums["sessions"][row, user] == mine.sum()
            assert sums["clicks"][row, user] == sessions.clicks[mine].sum()
            assert sums["conversions"][row, user] == sessions.conversions[mine].sum()
    clicks = sum(outcome.of(arm).sum() for arm in outcome.arms)
    assert clicks == sessions.clicks[sessions.day >= 0].sum()
    lean = simulate(world, arms, replace(design, keep=False))
    assert lean.sessions is None
    np.testing.assert_array_equal(lean.sums["clicks"], outcome.sums["clicks"])


@pytest.mark.parametrize(
    "clicks", [PositionBased(), TrustBias(), Cascade(0.5)], ids=lambda clicks: type(clicks).__name__
)
def test_clicks_are_as_many_as_their_true_chances_say(clicks: ClickModel) -> None:
    world = small(clicks=clicks, noise=0.05)
    sessions = simulate(world, {"all": best(world, PlackettLuce())}, Design(days=10, length=5, keep=True)).sessions
    assert sessions is not None
    for position in range(5):
        chance = sessions.chance[:, position].double()
        error = math.sqrt(float((chance * (1 - chance)).sum()))
        assert abs(float(sessions.clicks[:, position].sum() - chance.sum())) <= 3.5 * error


def test_logged_propensities_are_the_frequencies_of_what_is_shown() -> None:
    """One user who comes a lot: the share of each first item, and of each second one given the first."""
    truth = planted(1, 6, width=2)
    world = World.of(truth, Visits(torch.tensor([0.0, 20_000.0])))
    sessions = simulate(world, {"log": best(world, PlackettLuce())}, Design(days=1, length=2, keep=True)).sessions
    assert sessions is not None
    items, propensity = sessions.items, sessions.propensity
    for first in range(1, 7):
        mine = items[:, 0] == first
        chance = float(propensity[mine][0, 0])
        assert abs(float(mine.double().mean()) - chance) <= 4 * math.sqrt(chance * (1 - chance) / len(items))
        for second in set(range(1, 7)) - {first}:
            both = items[mine, 1] == second
            if both.any():
                of_both = float(propensity[mine][both][0, 1])
                error = math.sqrt(of_both * (1 - of_both) / int(mine.sum()))
                assert abs(float(both.double().mean()) - of_both) <= 4.5 * error
    # Weighted by them, what was shown at random has the value of another policy.
    weight = (items[:, 0] == items[:, 0].mode().values).double() / propensity[:, 0]
    assert abs(float(weight.mean()) - 1) <= 4 * float(weight.std()) / math.sqrt(len(items))


def test_what_other_policies_would_have_shown_makes_their_value_from_the_log() -> None:
    world = small(n_users=200, n_items=12, visits=200.0, clicks=Cascade(0.7))
    target = best(world, PlackettLuce(0.7))
    design = Design(days=1, length=3, grow=False, keep=True)
    sessions = simulate(world, {"log": popular(world, PlackettLuce(2.0))}, design, beside={"new": target}).sessions
    assert sessions is not None
    weight = (sessions.beside["new"] / sessions.propensity).prod(1)
    reward = sessions.clicks.sum(1).double()
    estimate, error = float((weight * reward).mean()), float((weight * reward).std()) / math.sqrt(len(reward))
    truth = policy_value(world, target, 3, draws=200)
    assert abs(float(weight.mean()) - 1) <= 4 * float(weight.std()) / math.sqrt(len(weight))
    assert abs(estimate - truth.mean) <= 4 * math.hypot(error, truth.standard_error)
    assert abs(float(reward.mean()) - truth.mean) > 10 * float(reward.std()) / math.sqrt(len(reward))


@pytest.mark.parametrize("greedy", [True, False])
def test_the_value_of_a_policy_is_what_it_earns(greedy: bool) -> None:
    world = small(clicks=Cascade(0.6))
    policy = best(world) if greedy else best(world, EpsilonGreedy(0.5))
    value = policy_value(world, policy, 5)
    assert (value.standard_error == 0) is greedy
    sessions = simulate(world, {"all": policy}, Design(days=10, length=5, grow=False, keep=True)).sessions
    assert sessions is not None
    clicks = sessions.clicks.sum(1).double()
    # Which users come is drawn, too: the spread between them is in that of the sessions.
    error = math.hypot(float(clicks.std()) / math.sqrt(len(clicks)), value.standard_error)
    spread = float((value.by_user - value.mean).square().mean().sqrt()) / math.sqrt(len(clicks))
    assert abs(float(clicks.mean()) - value.mean) <= 3.5 * math.hypot(error, spread)


def test_the_value_of_one_stochastic_item_is_exact() -> None:
    world = small(n_users=50, n_items=8)
    for rule in (EpsilonGreedy(0.4), PlackettLuce(0.8)):
        exact, drawn = policy_value(world, best(world, rule), 1), []
        ranked = best(world, rule).rank(torch.arange(1, 51), world.histories, 1)
        assert exact.standard_error == 0
        for user in range(50):
            scores, items = ranked.scores[user], ranked.items[user]
            if isinstance(rule, PlackettLuce):
                chances = (scores / rule.temperature).softmax(0)
            else:
                chances = torch.full((8,), rule.epsilon / 8)
                chances[0] += 1 - rule.epsilon
            of_items = world.expected_clicks(torch.full((8,), user + 1), items[:, None])[:, 0]
            drawn.append(float((chances * of_items).sum()))
        torch.testing.assert_close(exact.by_user, torch.tensor(drawn, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_arms_of_an_a_a_test_differ_by_chance_alone() -> None:
    """The p-values of many experiments between equal policies are uniform."""
    world = small(n_users=600, n_items=15)
    arms = {"control": best(world), "treatment": best(world)}
    p_values = []
    for seed in range(60):
        outcome = simulate(world, arms, Design(days=2, length=3, seed=seed, salt=f"aa {seed}"))
        control, treatment = outcome.of("control"), outcome.of("treatment")
        error = math.hypot(*(float(clicks.std(ddof=1)) / math.sqrt(len(clicks)) for clicks in (control, treatment)))
        z = (treatment.mean() - control.mean()) / error
        p_values.append(math.erfc(abs(z) / math.sqrt(2)))
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_intervals_of_the_statistics_hold_the_true_difference() -> None:
    world = small(n_users=800, n_items=15)
    arms = {"control": popular(world), "treatment": best(world)}
    truth = policy_value(world, arms["treatment"], 3).mean - policy_value(world, arms["control"], 3).mean
    held = 0
    for seed in range(60):
        outcome = simulate(world, arms, Design(days=4, length=3, seed=seed, salt=f"ab {seed}", grow=False))
        sums = (outcome.of(arm, metric) for arm in arms for metric in ("clicks", "sessions"))
        effect = ratio_effect(*sums, level=0.2)
        held += effect.low < truth < effect.high
    # 48 are expected of 60, with a standard deviation of 3.1.
    assert 38 <= held <= 58


def test_the_pre_period_takes_variance_away_and_no_effect() -> None:
    world = small(n_users=6_000, visits=1.0)
    arms = {"control": popular(world), "treatment": best(world)}
    outcome = simulate(world, arms, Design(days=7, length=5, before=7))
    metrics, covariates = ([read(arm) for arm in arms] for read in (outcome.of, outcome.covariate))
    plain, adjusted = welch(*metrics), cuped(*metrics, *covariates)
    assert adjusted.reduction > 0.1  # users who come a lot did so before
    effect = adjusted.effect()
    assert effect.high - effect.low < 0.96 * (plain.high - plain.low)
    assert abs(effect.difference - plain.difference) < plain.high - plain.low
    # In the pre-period both arms have the control.
    assert welch(*covariates).p_value > 0.001
    assert sample_ratio_mismatch(outcome.counts()) > 0.001


def test_units_are_assigned_evenly_and_by_salts_that_know_nothing_of_each_other() -> None:
    units = np.arange(1, 100_001)
    arms = [assign(units, [0.5, 0.5], salt) for salt in ("first", "second")]
    assert chisquare(np.bincount(arms[0])).pvalue > 0.001
    together = np.bincount(arms[0] * 2 + arms[1])
    assert chisquare(together).pvalue > 0.001
    assert kstest(uniform_hash(units, "first"), "uniform").pvalue > 0.001
    np.testing.assert_array_equal(arms[0], assign(units, [0.5, 0.5], "first"))
    np.testing.assert_array_equal(arms[0][7:8], assign(units[7:8], [0.5, 0.5], "first"))
    assert np.unique(assign(units, [0, 1], "first")).tolist() == [1]
    for shares in ([0.7, 0.4], [1.0, -0.1], [0.0, 0.0], []):
        with pytest.raises(ValueError, match="above 0 and at most 1 together"):
            assign(units, shares, "first")


def test_who_takes_no_part_is_not_simulated() -> None:
    world = small()
    outcome = simulate(world, {"control": best(world), "treatment": best(world)}, Design(days=2, shares=[0.2, 0.1]))
    share = np.mean(outcome.arm[1:] >= 0)
    assert 0.25 < share < 0.35
    assert not outcome.sums["sessions"][:, outcome.arm < 0].any()
    assert [len(outcome.of(arm)) for arm in outcome.arms] == outcome.counts()


def test_novelty_lifts_the_new_policy_alone_and_wears_off_as_declared() -> None:
    world = small(n_users=4_000, novelty=Novelty(0.3, half_life=2.0))
    plain = replace(world, novelty=None)
    arms = {"control": popular(world), "treatment": popular(world)}
    design = Design(days=6, length=3, before=1, grow=False)
    with_novelty, without = (simulate(each, arms, design) for each in (world, plain))
    for day in range(6):
        lifted, base = (
            outcome.per_session("treatment", "expected_clicks", slice(day, day + 1))
            for outcome in (with_novelty, without)
        )
        # Attraction stays below 1 in most places, so that clicks grow almost as attraction does.
        expected = 1 + 0.3 * 2 ** (-day / 2)
        assert 1 + (expected - 1) * 0.8 <= lifted / base <= expected + 1e-6
    np.testing.assert_array_equal(
        with_novelty.sums["clicks"][:, with_novelty.arm == 0], without.sums["clicks"][:, without.arm == 0]
    )
    np.testing.assert_array_equal(with_novelty.before["clicks"], without.before["clicks"])


def test_tastes_turn_as_declared_and_an_old_model_loses() -> None:
    world = small(drift=0.1)
    truth = world.preferences
    users, items = torch.arange(1, 6), torch.arange(1, 41).expand(5, -1)
    for day in (0, 3, 12):
        for user in range(5):
            partner = int(truth.partner[user + 1])
            assert partner != user + 1
            vector = math.cos(0.1 * day) * truth.users[user + 1] + math.sin(0.1 * day) * truth.users[partner]
            logits = truth.items[1:] @ vector + truth.item_bias[1:] + truth.user_bias[user + 1]
            torch.testing.assert_close(truth.relevance(users, items, day)[user], logits.sigmoid())
    first, last = (policy_value(world, best(world), 5, day=day).mean for day in (0, 15))
    renewed = policy_value(world, Policy(LatentModel.of(truth, day=15)), 5, day=15).mean
    assert last < 0.8 * first and abs(renewed / first - 1) < 0.1


def test_users_return_as_often_as_their_rates_say() -> None:
    world = small(n_users=5_000)
    outcome = simulate(world, {"all": popular(world)}, Design(days=7))
    expected = world.visits.expected_users(7)
    chance = -torch.expm1(-world.visits.rate.double()[None] * torch.arange(1, 8)[:, None])
    for day in range(1, 8):
        error = float((chance[day - 1] * (1 - chance[day - 1])).sum().sqrt())
        assert abs(len(outcome.users("all", day)) - float(expected[day - 1])) <= 4 * error
    sessions = outcome.sums["sessions"].sum()
    rate = 7 * float(world.visits.rate.sum())
    assert abs(sessions - rate) <= 4 * math.sqrt(rate)


def test_users_remember_what_they_clicked_and_do_not_get_it_again() -> None:
    world = small(n_users=300, visits=2.0)
    design = Design(days=4, length=5, keep=True)
    sessions = simulate(world, {"all": best(world)}, design).sessions
    assert sessions is not None
    for user in range(1, 40):
        clicked: set[int] = set()
        for day in range(4):
            mine = (sessions.user == user) & (sessions.day == day)
            shown = set(sessions.items[mine].flatten().tolist())
            assert not shown & clicked
            clicked |= set(sessions.items[mine][sessions.clicks[mine]].tolist())
    frozen = simulate(world, {"all": best(world)}, replace(design, grow=False)).sessions
    assert frozen is not None
    for user in range(1, 40):
        assert len(torch.unique(frozen.items[frozen.user == user], dim=0)) <= 1


def test_a_world_goes_on_where_an_experiment_ended() -> None:
    world = small(n_users=300, visits=2.0)
    design = Design(days=4, length=5, keep=True)
    whole = simulate(world, {"all": best(world)}, design).sessions
    assert whole is not None
    half = simulate(world, {"all": best(world)}, replace(design, days=2)).sessions
    assert half is not None
    later = simulate(remember(world, half), {"all": best(world)}, replace(design, days=1, seed=9)).sessions
    assert later is not None
    lists = {int(user): items for user, items in zip(later.user, later.items, strict=True)}
    third = whole.where(whole.day == 2)
    both = [(lists[int(u)], items) for u, items in zip(third.user, third.items, strict=True) if int(u) in lists]
    assert len(both) > 100 and all(torch.equal(one, other) for one, other in both)


def test_sessions_stream_in_blocks() -> None:
    """A small block bounds what is held at a time, whatever the number of users and of their sessions."""
    world = small(n_users=3_000, n_items=30, visits=3.0)
    policy = best(world, PlackettLuce())
    policy.block = lambda length: 128  # type: ignore[method-assign]
    design = Design(days=2, length=4)
    parts = list(stream(world, {"all": policy}, design))
    most = int(max(torch.bincount(part.user).max() for part in parts))
    assert len(parts) > 100 and max(map(len, parts)) < 128 + most
    assert all((part.user.diff() >= 0).all() and len(torch.unique(part.day)) == 1 for part in parts)
    users = torch.cat([torch.unique(part.user) for part in parts if part.day[0] == 0])
    assert (users.diff() > 0).all()  # nobody is in two blocks, and nobody is left out
    (whole,) = (part for part in stream(world, {"all": best(world)}, design) if part.day[0] == 0)
    assert torch.equal(users, torch.unique(whole.user))


def test_a_policy_of_another_catalogue_is_refused() -> None:
    world, other = small(), small(n_items=7)
    with pytest.raises(ValueError, match="arm `new` ranks 7 items and the world has 40"):
        simulate(world, {"control": best(world), "new": best(other)})
    with pytest.raises(ValueError, match="1 shares for 2 arms"):
        simulate(world, {"control": best(world), "new": best(world)}, Design(shares=[1.0]))
