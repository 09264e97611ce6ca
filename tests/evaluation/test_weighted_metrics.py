"""Weighted metrics and judged lists against plain loops, without the faults that released code has."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.judged import evaluate_judged
from recsys.evaluation.metrics import find_targets, ranking_metrics
from recsys.evaluation.validation import RankingValidation
from recsys.evaluation.weighted_metrics import weighted_metrics
from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.fraction import Fraction
from recsys.features.random_test import JudgedItems, RandomTest
from recsys.features.schema import Schema
from recsys.features.splits import SplitError
from recsys.models.popularity import Popularity
from recsys.retrieval.topk import Jagged

KS = (1, 3, 5)
USERS, ITEMS = 30, 12


def loop(ranked: list[int], relevant: set[int], weight: list[float], k: int) -> tuple[float, float, float]:
    """Recall, NDCG and MAP of one user, place by place."""
    total = sum(weight[item] for item in relevant)
    if not relevant:
        return 0.0, 0.0, 0.0
    recall = dcg = average = so_far = 0.0
    for place, item in enumerate(ranked[:k], 1):
        if item in relevant:
            so_far += weight[item]
            recall += weight[item]
            dcg += weight[item] / math.log2(place + 1)
            average += so_far / place
    best = sorted((weight[item] for item in relevant), reverse=True)[:k]
    return recall / total, dcg / sum(w / math.log2(j + 1) for j, w in enumerate(best, 1)), average / total


def test_metrics_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    ranked = np.stack([random.permutation(ITEMS) + 1 for _ in range(USERS)])[:, :8]
    relevant = [set((random.permutation(ITEMS) + 1)[: random.integers(0, 7)].tolist()) for _ in range(USERS)]
    weight = random.uniform(0.1, 5, ITEMS + 1)
    flat = torch.tensor([item for items in relevant for item in sorted(items)])
    offsets = torch.tensor([0, *np.cumsum([len(items) for items in relevant])])
    targets = find_targets(torch.from_numpy(ranked), Jagged(flat, offsets))
    for weights in (weight, np.ones(ITEMS + 1)):
        found = weighted_metrics(targets, torch.from_numpy(weights), KS)
        for user in range(USERS):
            for k in KS:
                expected = loop(ranked[user].tolist(), relevant[user], weights.tolist(), k)
                got = [float(found[f"{name}@{k}"][user]) for name in ("Recall", "NDCG", "MAP")]
                assert got == pytest.approx(expected, rel=1e-5)
    scaled = weighted_metrics(targets, torch.from_numpy(7 * weight), KS)
    for name, value in weighted_metrics(targets, torch.from_numpy(weight), KS).items():
        torch.testing.assert_close(scaled[name], value)  # only ratios of propensities count


def test_equal_weights_are_the_plain_metrics_but_for_map() -> None:
    ranked, relevant = torch.tensor([[3, 1, 2, 4]]), Jagged(torch.tensor([1, 4]), torch.tensor([0, 2]))
    found = weighted_metrics(find_targets(ranked, relevant), torch.ones(5), [1, 3])
    plain = ranking_metrics(ranked, relevant, [1, 3])
    for name in ("Recall@1", "Recall@3", "NDCG@1", "NDCG@3"):
        torch.testing.assert_close(found[name], plain[name])
    assert found["MAP@3"].item() == pytest.approx(0.25) and found["MAP@1"].item() == found["Recall@1"].item()


def test_the_second_place_is_discounted_and_low_items_have_no_relevance() -> None:
    """Released code starts its discount at the third place, and gives what is not relevant a relevance of .001."""
    relevant = Jagged(torch.tensor([1]), torch.tensor([0, 1]))
    second = weighted_metrics(find_targets(torch.tensor([[2, 1]]), relevant), torch.ones(3), [2])
    assert second["NDCG@2"].item() == pytest.approx(1 / math.log2(3))
    nothing = weighted_metrics(find_targets(torch.tensor([[2, 3]]), relevant), torch.ones(4), [2])
    assert all(value.item() == 0 for value in nothing.values())


def rated() -> EventLog:
    """Ratings from 1 to 5, chosen and random, pairs in both parts among them."""
    random = np.random.default_rng(2)
    rows = []
    for user in range(USERS):
        for part, n in (("train_mnar", int(random.integers(1, 9))), ("test_random", 4 if user == 0 else 6)):
            rows += [(user, item, int(random.integers(1, 6)), part) for item in random.permutation(ITEMS)[:n]]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "part"]).assign(timestamp=0)
    schema = {"name": "rated", "events": {"weight": "rating"}, "duplicates": "keep"}
    schema |= {"features": [{"name": "split", "column": "part", "entity": "event", "type": "categorical"}]}
    return EventLog.from_frame(frame.sample(frac=1, random_state=0), Schema.parse(schema))


@pytest.fixture(scope="module")
def log() -> EventLog:
    return rated()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_split_is_that_of_a_loop(log: EventLog, seed: int) -> None:
    split = RandomTest(seed=seed)(log)
    frame = split.log.to_frame()
    everything = sorted(map(tuple, log.to_frame()[["user_id", "item_id", "weight", "split"]].to_numpy().tolist()))
    assert sorted(map(tuple, frame[["user_id", "item_id", "weight", "split"]].to_numpy().tolist())) == everything
    high = frame[frame["weight"] >= 4]
    kept: list[int] = []
    for user, raw in enumerate(log.users.values, 1):
        chosen = high[(high["user_id"] == raw) & (high["split"] == "train_mnar")]
        shown = high[(high["user_id"] == raw) & (high["split"] == "test_random")]
        train = frame.iloc[split.train_start[user] : split.train_end[user]]
        held = min(math.floor(0.3 * len(chosen) + 0.5), max(len(chosen) - 1, 0))
        assert len(train) == len(chosen) - held and set(train.index) <= set(chosen.index)
        kept += train.index.tolist()
        for part, events in (("validation", set(chosen.index) - set(train.index)), ("test", set(shown.index))):
            found = set()
            for name in (part, f"{part}_cold_users"):
                users = getattr(split, name)
                for row in np.flatnonzero(users.users == user):
                    found |= set(range(users.target_start[row], users.target_end[row]))
            assert found == events
    assert split.hash != RandomTest(seed=seed + 2)(log).hash
    assert split.hash == RandomTest(seed=seed)(log).hash
    items = {raw_seed: RandomTest(seed=raw_seed)(log) for raw_seed in (0, 1)}
    assert any((items[0].train_counts() != items[1].train_counts()).tolist())  # another part is drawn


def test_a_share_of_the_users_is_split_in_the_same_order(log: EventLog) -> None:
    whole, part = RandomTest()(log), Fraction(RandomTest(), 0.5)(log)
    assert np.array_equal(part.log.item_id, whole.log.item_id) and part.facts["train_users"] < USERS
    assert np.array_equal(part.test.targets(), whole.test.targets())


def test_a_log_that_does_not_say_its_parts_is_refused(log: EventLog) -> None:
    with pytest.raises(SplitError, match="no column `part`"):
        RandomTest(column="part")(log)
    with pytest.raises(SplitError, match=r"names no part \['shown'\]"):
        RandomTest(test="shown")(log)
    with pytest.raises(ValueError, match="validation_share"):
        RandomTest(validation_share=1.0)
    frame = log.to_frame()[["user_id", "item_id", "split"]].assign(timestamp=0)
    feature = {"name": "split", "column": "split", "entity": "event", "type": "categorical"}
    unrated = Schema.parse({"name": "unrated", "features": [feature]})
    with pytest.raises(SplitError, match=r"events\.weight"):
        RandomTest()(EventLog.from_frame(frame, unrated))
    timed = log.to_frame().assign(timestamp=np.arange(log.n_events), part=log.to_frame()["split"])
    with pytest.raises(SplitError, match="differ in time"):
        RandomTest()(EventLog.from_frame(timed.rename(columns={"weight": "rating"}), log.schema))


def test_judged_lists_are_those_of_a_loop(log: EventLog) -> None:
    rule = RandomTest()
    split, frame = rule(log), log.to_frame()
    judged = rule.judged(log)
    model = Popularity()
    model.fit(split)
    rng = np.random.default_rng(0)
    model.tensors["popularity"] = torch.from_numpy(rng.permutation(log.n_items + 1).astype(np.float32))  # no ties
    found = evaluate_judged(model, split, judged, ks=KS)
    assert len(judged) == USERS and len(found.users) == USERS - 1  # one has four judged items
    score = dict(zip(log.items.values, model.tensors["popularity"][1:].tolist(), strict=True))
    for row, user in enumerate(found.users):
        shown = frame[(frame["user_id"] == log.users.values[user - 1]) & (frame["split"] == "test_random")]
        ranked = sorted(shown["item_id"], key=lambda item: -score[item])
        relevant = set(shown["item_id"][shown["weight"] >= 4])
        ones = {item: 1.0 for item in score}
        for k in KS:
            expected = loop(ranked, relevant, ones, k)  # type: ignore[arg-type]
            got = [float(found.metrics[f"{name}@{k}"][row]) for name in ("Recall", "NDCG", "MAP")]
            assert got == pytest.approx(expected, rel=1e-5)
        assert log.items.values[found.top[row] - 1].tolist() == ranked[:5]
    assert found.means()["MAP@3"] == pytest.approx(float(found.metrics["MAP@3"].mean()))
    with pytest.raises(ValueError, match="least_items"):
        evaluate_judged(model, split, judged, least_items=99)


def test_histories_are_what_a_user_had_before_the_test(log: EventLog) -> None:
    rule = RandomTest()
    split, frame = rule(log), log.to_frame()
    judged = rule.judged(log)
    asked: dict[int, list[int]] = {}

    class Recorder(Popularity):
        def candidate_scores(self, batch: SequenceBatch, candidates: torch.Tensor) -> torch.Tensor:
            for row, user in enumerate(batch.user_id.tolist()):
                asked[user] = sorted(batch.item_id[batch.offsets[row] : batch.offsets[row + 1]].tolist())
            return super().candidate_scores(batch, candidates)

    model = Recorder()
    model.fit(split)
    few = JudgedItems(judged.users[:9], judged.offsets[:10], judged.items, judged.relevant)
    found = evaluate_judged(model, split, few, ks=KS, max_length=3)
    assert all(len(history) <= 3 for history in asked.values())
    everybody = evaluate_judged(model, split, judged, ks=KS)
    assert np.array_equal(found.metrics["MAP@3"], everybody.metrics["MAP@3"][: len(found.users)])
    chosen = frame[(frame["split"] == "train_mnar") & (frame["weight"] >= 4)]
    for user, history in asked.items():
        raw = log.users.values[user - 1]
        assert [log.items.values[item - 1] for item in history] == sorted(chosen["item_id"][chosen["user_id"] == raw])


def test_ties_are_broken_at_random_and_not_by_the_number_of_the_item(log: EventLog) -> None:
    rule = RandomTest()
    split, judged = rule(log), rule.judged(log)
    model = Popularity()
    model.fit(split)
    model.tensors["popularity"].zero_()
    runs = [evaluate_judged(model, split, judged, tie_seed=seed) for seed in range(300)]
    assert not np.array_equal(runs[0].top, runs[1].top)
    assert np.array_equal(runs[0].top, evaluate_judged(model, split, judged, tie_seed=0).top)
    rows = np.flatnonzero(np.diff(judged.offsets) >= 5)
    share = [judged.relevant[judged.offsets[r] : judged.offsets[r + 1]].mean() for r in rows]
    found = [run.metrics["NDCG@1"].mean() for run in runs]
    assert abs(np.mean(found) - np.mean(share)) < 3 * np.std(found) / len(runs) ** 0.5


@pytest.mark.parametrize("power", [0.0, 1.5])
def test_validation_weighs_by_inverse_popularity(log: EventLog, power: float) -> None:
    split = RandomTest()(log)
    model = Popularity()
    model.fit(split)
    logged: dict[str, float] = {}
    data = SimpleNamespace(split=split, max_length=50)
    trainer = SimpleNamespace(datamodule=data, current_epoch=0, max_epochs=2)
    module = SimpleNamespace(network=model, log=lambda name, value, **_: logged.__setitem__(name, value))
    validation = RankingValidation(k=3, snips_power=power)
    validation.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    users, found = split.validation, {"Recall": 0.0, "NDCG": 0.0, "MAP": 0.0}
    items = np.asarray(split.log.item_id)
    known = np.bincount(items[users.targets()], minlength=log.n_items + 1) + split.train_counts()
    weight = [max(int(n), 1) ** -power for n in known]
    ranked = evaluate(model, split, which="validation", ks=(3,), top=3).ranked
    for row in range(len(users)):
        history = set(items[users.history_start[row] : users.history_end[row]].tolist())
        relevant = set(items[users.target_start[row] : users.target_end[row]].tolist()) - history
        for name, value in zip(found, loop(ranked[row].tolist(), relevant, weight, 3), strict=True):
            found[name] += value / len(users)
    assert {f"val/snips_{name}@3" for name in found} == {name for name in logged if "snips" in name}
    for name, value in found.items():
        assert logged[f"val/snips_{name}@3"] == pytest.approx(value, rel=1e-5)
    plain = dict(logged)
    logged.clear()
    RankingValidation(k=3).on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert logged == {name: value for name, value in plain.items() if "snips" not in name}


def test_a_negative_power_is_refused() -> None:
    with pytest.raises(ValueError, match="snips_power must be at least 0"):
        RankingValidation(snips_power=-1.0)
