"""The joint objective against loops over requests, and its neutral settings against plain retrieval."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.negatives import Uniform
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.losses.hybrid import Hybrid
from recsys.losses.info_nce import InfoNCE
from recsys.losses.pointwise import Pointwise
from recsys.models.synergen import SynerGen
from recsys.models.tokens import Slots
from recsys.training.joint_objective import JointObjective
from recsys.training.objective import RetrievalObjective
from recsys.training.slot_negatives import SlotNegatives
from recsys.unbiased.position_weights import PositionWeights

CPU = torch.device("cpu")
WORDS = np.array(["red", "blue", "soap", "cream", "brush", "oil"])


def data(queries: bool, order: bool = True) -> tuple[Catalogue, SequenceBatch]:
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(10), 8)
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, 30, len(user))})
    events["timestamp"] = 1_000_000 + 3600 * (np.arange(len(user)) // 2)  # pairs of equal times
    events["rank"] = np.arange(len(user))
    events["action"] = np.where(random.random(len(user)) < 0.5, "view", "buy")
    asked = random.random(len(user)) < 0.3
    events["query"] = pd.Series(WORDS[random.integers(0, 6, len(user))]).where(asked)
    items = pd.DataFrame({"item_id": range(30)})
    items["title"] = [" ".join(WORDS[random.integers(0, 6, 3)]) for _ in range(30)]
    schema = {"name": "toy", "events": {"order": "rank"} if order else {}, "features": []}
    if queries:
        schema["events"] |= {"query": "query", "action": "action"}
        schema["features"] = [
            {"name": "title", "column": "title", "type": "text", "table": "words"},
            {"name": "asked", "type": "text", "entity": "query", "table": "words"},
        ]
    with pytest.warns(UserWarning, match="leave_last_out"):
        split = LeaveLastOut()(EventLog.from_frame(events, Schema.parse(schema), items if queries else None))
    return Catalogue.from_split(split), TrainingBatches(split, 16, 50).batch(np.arange(10))


def network(catalogue: Catalogue, **arguments) -> SynerGen:
    torch.manual_seed(0)
    return SynerGen(catalogue, **({"width": 16, "layers": 1, "dropout": 0.0} | arguments))


def objective(catalogue: Catalogue, **arguments) -> JointObjective:
    made = JointObjective(InfoNCE(temperature=0.1), Uniform(20), **arguments)
    made.setup(catalogue, 3, CPU)
    return made


def test_alone_it_is_plain_retrieval_bit_for_bit():
    """No queries, no ranking, every event a request of its own: loss and gradients of `RetrievalObjective`."""
    catalogue, batch = data(queries=False)
    plain = RetrievalObjective(InfoNCE(temperature=0.1), Uniform(20))
    plain.setup(catalogue, 3, CPU)
    losses = []
    for made in (plain, objective(catalogue)):
        model = network(catalogue)
        loss = made(model, batch).loss
        loss.backward()
        losses.append((loss, [w.grad.to_dense() for w in model.parameters() if w.grad is not None]))
    assert torch.equal(losses[0][0], losses[1][0])
    assert len(losses[0][1]) == len(losses[1][1])
    assert all(torch.equal(a, b) for a, b in zip(losses[0][1], losses[1][1], strict=True))


def expected_tasks(model: SynerGen, batch: SequenceBatch, made: JointObjective) -> dict[str, float]:
    """Mean InfoNCE of each task, one request after the other, each asked of a context of its own."""
    drawn = made.negatives.sample(batch.target)
    rows: dict[str, list[float]] = {"recommendation": [], "search": []}
    with torch.no_grad():
        items = model.match(model.items(torch.arange(model.n_items + 1)))
        context, _ = model.encode(batch, drawn.ids)
        user = torch.repeat_interleave(batch.lengths.long())
        for at in range(len(batch.target)):
            for task, query in (("recommendation", 0), ("search", int(batch.target_query[at]))):
                if (task == "search" and query == 0) or (task == "recommendation" and batch.cutoff[at] == 0):
                    continue
                one = [user[at], batch.cutoff[at], batch.target_timestamp[at], torch.tensor(query)]
                state = model.match(model.ask(context, Slots(*(value.view(1) for value in one))))[0]
                target = int(batch.target[at])
                negatives = [item for item in drawn.ids.tolist() if item != target]
                z = [(state @ items[item]).item() / 0.1 for item in [target, *negatives]]
                rows[task].append(math.log(sum(math.exp(value) for value in z)) - z[0])
    return {task: sum(values) / len(values) for task, values in rows.items()}


@pytest.mark.parametrize("word_width", [0, 8])
@pytest.mark.parametrize("order", [True, False], ids=["ordered", "requests of equal time"])
def test_retrieval_is_a_mean_for_each_task(order, word_width):
    catalogue, batch = data(queries=True, order=order)
    model = network(catalogue, word_width=word_width)
    loss, parts = objective(catalogue, recommendation=0.5, search=2.0)(model, batch)
    expected = expected_tasks(model, batch, objective(catalogue))
    assert parts["recommendation"].item() == pytest.approx(expected["recommendation"], rel=1e-4)
    assert parts["search"].item() == pytest.approx(expected["search"], rel=1e-4)
    assert loss.item() == pytest.approx(0.5 * expected["recommendation"] + 2 * expected["search"], rel=1e-4)


def test_events_of_one_request_do_not_explain_each_other():
    """The second event of an equal pair is asked for from before the pair."""
    _, batch = data(queries=True, order=False)
    user = torch.repeat_interleave(batch.lengths.long())
    for at in range(len(batch.target)):
        mine = batch.timestamp[user == user[at]]
        assert batch.cutoff[at] == (mine < batch.target_timestamp[at]).sum()


def test_searched_events_may_be_left_to_search():
    catalogue, batch = data(queries=True)
    model = network(catalogue)
    requests = objective(catalogue, recommend_searched=False)._requests(batch, searches=True)
    assert (batch.target_query[requests.at[~requests.search]] == 0).all()
    assert int(requests.search.sum()) == int((batch.target_query > 0).sum())
    both = objective(catalogue)._requests(batch, searches=True)
    assert int((~both.search).sum()) == len(batch.target)
    assert objective(catalogue)(model, batch).loss.isfinite()


@pytest.mark.parametrize("task", ["recommendation", "search"])
def test_a_task_without_weight_is_left_out(task):
    catalogue, batch = data(queries=True)
    made = objective(catalogue, ranking_loss=Pointwise(), **{task: 0.0})
    requests = made._requests(batch, searches=True)
    assert len(requests.target) > 0
    assert bool((requests.search == (task == "recommendation")).all())
    _, parts = made(network(catalogue, ranking=True), batch)
    assert task not in parts and parts["ranking_loss"].isfinite()


@pytest.mark.parametrize("word_width", [0, 8])
def test_ranking_is_that_of_the_chosen_slots(word_width):
    """The ranking loss is recomputed candidate by candidate from what the generators draw."""
    catalogue, batch = data(queries=True)
    model = network(catalogue, ranking=True, word_width=word_width)
    with torch.no_grad():
        for weight in model.head.parameters():
            weight.normal_()
    arguments = {"ranking_loss": Pointwise(), "ranking_negatives": SlotNegatives(n=4, hard=0.5), "ranking_slots": 12}
    loss, parts = objective(catalogue, **arguments)(model, batch)
    assert loss.item() == pytest.approx(sum(parts[n].item() for n in ("recommendation", "search", "ranking_loss")))

    again = objective(catalogue, **arguments)
    seen: list[torch.Tensor] = []
    choose = again.ranking_negatives.choose
    again.ranking_negatives.choose = lambda *given: seen.extend([choice := choose(*given), *given]) or choice
    again(model, batch)
    choice, _, _, wanted, pool = seen
    once_more = objective(catalogue, **arguments)
    requests = once_more._requests(batch, searches=True)
    chosen = once_more._chosen(requests.search)
    assert int(requests.search[chosen].sum()) == 6
    terms: dict[bool, list[float]] = {True: [], False: []}
    with torch.no_grad():
        for place, request in enumerate(chosen.tolist()):
            slot, at = requests.slots.where(torch.tensor([request])), int(requests.at[request])
            negatives = pool[choice.column[place]][choice.valid[place]]
            user = int(slot.row)
            events = slice(int(batch.offsets[user]), int(batch.offsets[user + 1]))
            own = {*batch.item_id[events].tolist(), *batch.target[events].tolist()}
            assert not own & set(negatives.tolist())
            assert set(wanted[place].tolist()) - {0} == own
            candidates = torch.cat([batch.target[at].view(1), negatives])
            context, vectors = model.encode(batch, candidates)
            logits = model.rank(context, slot, model.ask(context, slot), vectors.unsqueeze(0))[0]
            label = torch.zeros_like(logits)
            label[0, batch.target_action[at] - 1] = 1
            bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
            terms[bool(requests.search[request])].append(bce.item())
    expected = sum(sum(of) / len(of) for of in terms.values()) / 2
    assert parts["ranking_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_losses_start_where_they_should():
    """Retrieval near log(1 + negatives), each ranking part near log 2: anything else is a bug of scale."""
    catalogue, batch = data(queries=True)
    made = objective(catalogue, ranking_loss=Hybrid())
    made.loss.temperature = 1.0
    _, parts = made(network(catalogue, ranking=True), batch)
    assert parts["recommendation"].item() == pytest.approx(math.log(21), abs=0.6)
    assert parts["ranking_pointwise"].item() == pytest.approx(math.log(2), abs=0.1)
    assert parts["ranking_pairwise"].item() == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("word_width", [0, 8])
def test_ranking_sends_no_gradient_through_the_retrieval_score(word_width):
    """With nothing but the score in the head, ranking changes no gradient of what retrieval learns."""
    catalogue, batch = data(queries=True)
    gradients = []
    for weight in (0.0, 1.0):
        model = network(catalogue, ranking=True, word_width=word_width)
        with torch.no_grad():
            model.head.hidden.weight.zero_()
            model.head.hidden.bias.zero_()
        objective(catalogue, ranking_loss=Pointwise(), ranking=weight)(model, batch).loss.backward()
        gradients.append({name: w.grad.to_dense() for name, w in model.items.named_parameters()})
        assert bool(model.head.retrieval_weight.grad.any()) == (weight > 0)
    for name, without in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], without, msg=name)


def test_every_draw_goes_on_from_the_checkpoint():
    catalogue, batch = data(queries=True)
    model = network(catalogue, ranking=True)
    arguments = {"ranking_loss": Hybrid(), "ranking_slots": 10}
    first = objective(catalogue, **arguments)
    first(model, batch)
    state = first.random_state()
    expected = first(model, batch).loss
    other = objective(catalogue, **arguments)
    other.load_random_state(state)
    assert torch.equal(other(model, batch).loss, expected)


def test_negatives_for_every_position_are_refused():
    with pytest.raises(ValueError, match="per_position"):
        JointObjective(negatives=Uniform(8, per_position=True))


class Kept(Pointwise):
    """Keeps what it is given."""

    def forward(self, scores):
        self.scores = scores
        return super().forward(scores)


def test_slots_count_by_the_position_of_their_click_within_each_task():
    catalogue, batch = data(queries=True)
    position = torch.arange(len(batch.target)) % 3 + 1
    made = objective(
        catalogue, ranking_loss=Kept(), ranking_slots=20, position_weights=PositionWeights([1.0, 0.5, 0.1])
    )
    _, parts = made(network(catalogue, ranking=True), replace(batch, target_position=position))
    other = objective(catalogue, ranking_loss=Pointwise(), ranking_slots=20)
    chosen = other._chosen((requests := other._requests(batch, searches=True)).search)
    rows = made.ranking_loss.rows(made.ranking_loss.scores)
    means = []
    for search in (False, True):
        mine = requests.search[chosen] == search
        weight = torch.tensor([{1: 1.0, 2: 2.0, 3: 10.0}[int(p)] for p in position[requests.at[chosen]][mine]])
        assert len(weight.unique()) > 1
        means.append((rows[mine] * weight).sum() / weight.sum())
    torch.testing.assert_close(parts["ranking_loss"], torch.stack(means).mean().detach())


def test_equal_positions_weigh_as_none_do_and_missing_ones_are_refused():
    catalogue, batch = data(queries=True)
    losses = []
    for weights in (None, PositionWeights([0.7, 0.7])):
        made = objective(catalogue, ranking_loss=Pointwise(), position_weights=weights)
        losses.append(
            made(network(catalogue, ranking=True), replace(batch, target_position=torch.ones_like(batch.target))).loss
        )
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"events\.position"):
        made(network(catalogue, ranking=True), batch)
