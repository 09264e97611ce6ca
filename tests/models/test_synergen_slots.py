"""SynerGen's searches and ranking slots: nothing leaks, nothing depends on neighbours, a cache changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.queries import Queries
from recsys.features.schema import Schema
from recsys.models.rotary import IndexRotary, RoTE, SplitByDim, TimeRotary
from recsys.models.synergen import SynerGen
from recsys.models.tokens import Slots

SCHEMA = Schema.parse({
    "name": "toy",
    "events": {"action": "action", "query": "query"},
    "features": [
        {"name": "title", "column": "title", "type": "text", "table": "words"},
        {"name": "asked", "type": "text", "entity": "query", "table": "words"},
    ],
})  # fmt: skip
N_ITEMS, T0, WIDTH = 12, 1_500_000_000, 16


@pytest.fixture
def catalogue() -> Catalogue:
    words = torch.randint(1, 8, (2 * N_ITEMS,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat([torch.zeros(2, dtype=torch.int64), 2 * torch.arange(1, N_ITEMS + 1)])
    return Catalogue(
        schema=SCHEMA, n_items=N_ITEMS, n_users=4, table_rows={"item_id": N_ITEMS + 1, "words": 8, "action": 3},
        counts=torch.arange(N_ITEMS + 1), actions=("buy", "view"), jagged={"title": (words, offsets)},
    )  # fmt: skip


QUERIES = Queries({"asked": (torch.tensor([1, 2, 5, 7, 3]), torch.tensor([0, 0, 2, 3, 5]))})
"""Three queries, of two, one and two words."""


def batch(
    items=((1, 2, 3, 4, 5), (6, 7)),
    times=((0, 10, 10, 50, 60), (5, 90)),
    actions=((1, 2, 2, 1, 2), (1, 1)),
    query=((0, 1, 0, 2, 0), (3, 0)),
    request_query=(2, 0),
) -> SequenceBatch:
    flat = [
        torch.tensor([value for row in rows for value in row], dtype=torch.int64)
        for rows in (items, times, actions, query)
    ]
    return SequenceBatch.build(
        torch.arange(1, len(items) + 1), torch.tensor([len(row) for row in items]), flat[0], T0 + 3600 * flat[1],
        extra={"action": flat[2]}, queries=QUERIES, query=flat[3], request_query=torch.tensor(request_query),
    )  # fmt: skip


@pytest.fixture(params=[0, 6], ids=["decoder alone", "word match"])
def network(request: pytest.FixtureRequest, catalogue: Catalogue) -> Callable[..., SynerGen]:
    """Makes a model from its arguments."""

    def make(**arguments) -> SynerGen:
        torch.manual_seed(0)
        given = {"width": WIDTH, "layers": 2, "heads": 2, "dropout": 0.0, "ranking": True, "word_width": request.param}
        model = SynerGen(catalogue, **(given | arguments)).eval()
        with torch.no_grad():  # weights of a size at which a leak would show
            for name, weight in model.named_parameters():
                if "tokens." in name or "embedding" in name or name.startswith("head"):
                    weight.normal_(std=0.5)
            if model.head is not None:
                model.head.retrieval_weight.fill_(0.05)
        return model

    return make


SLOTS = Slots(
    row=torch.tensor([0, 0, 0, 1, 1, 0]),
    cutoff=torch.tensor([1, 1, 3, 2, 0, 5]),
    timestamp=T0 + 3600 * torch.tensor([10, 10, 50, 100, 5, 70]),
    query=torch.tensor([0, 1, 2, 3, 1, 0]),
)
CANDIDATES = torch.tensor([[8, 9, 1], [3, 3, 2], [1, 2, 3], [11, 12, 10], [4, 5, 6], [7, 8, 9]])


@torch.no_grad()
def answers(model: SynerGen, events: SequenceBatch, slots: Slots = SLOTS, candidates: torch.Tensor = CANDIDATES):
    """States after events, answers to the slots, logits of the candidates."""
    context, vectors = model.encode(events, candidates.flatten())
    asked = model.ask(context, slots)
    logits = model.rank(context, slots, asked, vectors.view(*candidates.shape, -1))
    return context.states, asked, logits


@pytest.mark.parametrize(
    "change",
    [
        {"items": ((1, 2, 3, 9, 5), (6, 7))},
        {"actions": ((1, 2, 2, 2, 2), (1, 1))},
        {"query": ((0, 1, 0, 3, 0), (3, 0))},
        {"times": ((0, 10, 10, 55, 60), (5, 90))},
    ],
    ids=["item", "action", "query", "time"],
)
def test_an_event_changes_nothing_that_was_asked_before_it(network, change):
    """Event 3 of user 0 changes: bitwise the same for everything whose cut-off does not reach it."""
    model = network()
    states, asked, logits = answers(model, batch())
    other_states, other_asked, other_logits = answers(model, batch(**change))
    assert torch.equal(states[:3], other_states[:3]) and torch.equal(states[5:], other_states[5:])
    assert not torch.equal(states[3], other_states[3])
    assert torch.equal(asked[:5], other_asked[:5]) and torch.equal(logits[:5], other_logits[:5])
    assert not torch.equal(asked[5], other_asked[5]) and not torch.equal(logits[5], other_logits[5])


def test_candidates_do_not_depend_on_each_other(network):
    model = network()
    _, _, logits = answers(model, batch())
    order = torch.tensor([2, 0, 1])
    _, _, permuted = answers(model, batch(), candidates=CANDIDATES[:, order])
    torch.testing.assert_close(permuted, logits[:, order], atol=1e-5, rtol=0)
    _, _, alone = answers(model, batch(), candidates=CANDIDATES[:, 1:2])
    torch.testing.assert_close(alone, logits[:, 1:2], atol=1e-5, rtol=0)


def test_slots_do_not_depend_on_each_other(network):
    """Order and company of slots are nothing to a slot, so that the order of slots needs no choice."""
    model = network()
    _, asked, logits = answers(model, batch())
    keep = torch.tensor([5, 2, 3])
    _, few, few_logits = answers(model, batch(), SLOTS.where(keep), CANDIDATES[keep])
    torch.testing.assert_close(few, asked[keep], atol=1e-5, rtol=0)
    torch.testing.assert_close(few_logits, logits[keep], atol=1e-5, rtol=0)


def test_a_search_and_a_candidate_know_the_query_and_the_time(network):
    model = network()
    _, asked, logits = answers(model, batch())
    _, other, other_logits = answers(model, batch(), SLOTS._replace(query=torch.tensor([0, 2, 2, 3, 1, 3])))
    same = torch.tensor([0, 2, 3, 4])
    torch.testing.assert_close(asked[same], other[same], atol=1e-5, rtol=0)
    for slot in (1, 5):
        assert (asked[slot] - other[slot]).abs().max() > 1e-3 < (logits[slot] - other_logits[slot]).abs().max()
    _, later, _ = answers(model, batch(), SLOTS._replace(timestamp=SLOTS.timestamp + 30 * 86_400))
    assert (asked[1] - later[1]).abs().max() > 1e-4


def test_the_same_words_are_the_same_query(network):
    """A query is its text: rows of the batch's table can be shuffled."""
    model = network()
    turned = Queries({"asked": (torch.tensor([7, 3, 1, 2, 5]), torch.tensor([0, 0, 2, 4, 5]))})  # 3, 1, 2
    row = torch.tensor([0, 2, 3, 1])
    events = batch()
    other = replace(events, queries=turned, query=row[events.query], request_query=row[events.request_query])
    expected = answers(model, events)
    for ours, theirs in zip(answers(model, other, SLOTS._replace(query=row[SLOTS.query])), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rotary", [IndexRotary(), TimeRotary(), SplitByDim()])
def test_ten_years_later_nothing_changes(network, rotary):
    model, decade = network(rotary=rotary), 315_576_000
    later = replace(batch(), timestamp=batch().timestamp + decade)
    now = answers(model, batch())
    then = answers(model, later, SLOTS._replace(timestamp=SLOTS.timestamp + decade))
    for ours, theirs in zip(now, then, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_rote_does_depend_on_the_clock(network):
    model, decade = network(rotary=RoTE()), 315_576_000
    later = replace(batch(), timestamp=batch().timestamp + decade)
    then = answers(model, later, SLOTS._replace(timestamp=SLOTS.timestamp + decade))
    assert (answers(model, batch())[2] - then[2]).abs().max() > 1e-4


def test_padding_does_not_change_a_slot(network):
    model = network()
    _, asked, logits = answers(model, batch())
    alone = batch(items=((6, 7),), times=((5, 90),), actions=((1, 1),), query=((3, 0),), request_query=(0,))
    second = torch.tensor([3, 4])
    slots = SLOTS.where(second)._replace(row=torch.zeros(2, dtype=torch.int64))
    _, few, few_logits = answers(model, alone, slots, CANDIDATES[second])
    torch.testing.assert_close(few, asked[second], atol=1e-5, rtol=0)
    torch.testing.assert_close(few_logits, logits[second], atol=1e-5, rtol=0)


@pytest.mark.parametrize("word_width", [0, 6])
def test_candidates_begin_in_the_order_of_retrieval(catalogue, word_width):
    """An untrained head adds nothing: ranking is never worse than retrieval before it has learned anything."""
    torch.manual_seed(0)
    model = SynerGen(catalogue, width=16, layers=2, heads=2, ranking=True, word_width=word_width).eval()
    everything = torch.arange(1, N_ITEMS + 1).expand(2, -1)
    retrieval = model.scores(batch())[:, 1:].argsort(dim=1, stable=True)
    assert torch.equal(model.candidate_scores(batch(), everything).argsort(dim=1, stable=True), retrieval)


def test_a_user_vector_answers_the_request_of_the_batch(network):
    model = network()
    events = replace(batch(), request_timestamp=T0 + 3600 * torch.tensor([70, 95]))
    slots = Slots(torch.arange(2), torch.tensor([5, 2]), events.request_timestamp, events.request_query)
    _, asked, _ = answers(model, events, slots, CANDIDATES[:2])
    vectors = model.user_vectors(events)
    torch.testing.assert_close(vectors[:, :-1], model.match(asked), atol=1e-5, rtol=0)
    assert torch.equal(vectors[:, -1], torch.zeros(2))
    nobody_asks = replace(events, request_query=torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(model.user_vectors(nobody_asks)[1], vectors[1], atol=1e-5, rtol=0)
    assert (model.user_vectors(nobody_asks)[0] - vectors[0]).abs().max() > 1e-3


def test_a_stranger_may_search(network):
    """Nothing is known of either user; the one with a query is answered by it, the other by popularity."""
    model = network()
    empty = batch(items=((), ()), times=((), ()), actions=((), ()), query=((), ()), request_query=(2, 0))
    vectors = model.user_vectors(empty)
    assert vectors[0, :WIDTH].norm().item() == pytest.approx(1, abs=1e-5) and vectors[0, -1] == 0
    assert not vectors[1, :-1].any() and vectors[1, -1] == 1


def test_candidates_of_a_stranger_go_by_popularity(network):
    model = network()
    empty = batch(items=((), ()), times=((), ()), actions=((), ()), query=((), ()), request_query=(2, 0))
    candidates = torch.tensor([[1, 8, 9, 0], [11, 3, 8, 0]])
    scores = model.candidate_scores(empty, candidates)
    assert torch.equal(scores[1, :3], model.popularity[candidates[1, :3]])
    assert not torch.equal(scores[0, :3], model.popularity[candidates[0, :3]])
    assert torch.equal(scores[:, 3], torch.full((2,), -torch.inf))


def test_candidate_scores_equal_the_logits_whatever_the_block(network, monkeypatch):
    model = network()
    events = replace(batch(), request_timestamp=T0 + 3600 * torch.tensor([70, 95]))
    candidates = torch.tensor([[1, 8, 9, 0, 12], [11, 3, 8, 2, 2]])
    slots = Slots(torch.arange(2), torch.tensor([5, 2]), events.request_timestamp, events.request_query)
    _, _, logits = answers(model, events, slots, candidates)
    expected = torch.logsumexp(logits, -1).masked_fill(candidates == 0, -torch.inf)
    torch.testing.assert_close(model.candidate_scores(events, candidates), expected, atol=1e-5, rtol=0)
    monkeypatch.setattr("recsys.models.synergen.SLOT_BLOCK", 4)
    torch.testing.assert_close(model.candidate_scores(events, candidates), expected, atol=1e-5, rtol=0)


def test_action_values_weigh_the_odds(network):
    plain, valued = network(), network(action_values={"buy": 10.0})
    events, candidates = batch(), torch.tensor([[1, 8, 9], [11, 3, 8]])
    slots = plain.requests(events, plain.encode(events, candidates.flatten())[0])
    _, _, logits = answers(plain, events, slots, candidates)
    expected = (10 * logits[..., 0].exp() + logits[..., 1].exp()).log()
    torch.testing.assert_close(valued.candidate_scores(events, candidates), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("values", "message"), [({"sell": 1.0}, "no action"), ({"buy": 0.0}, "above 0")])
def test_action_values_that_make_no_sense_are_refused(network, values, message):
    with pytest.raises(ValueError, match=message):
        network(action_values=values)


def test_saving_keeps_every_answer(network):
    model = network(action_values={"buy": 2.0})
    again = SynerGen.from_state(model.config(), model.state())
    candidates = torch.tensor([[1, 8, 9], [11, 3, 8]])
    assert torch.equal(model.user_vectors(batch()), again.user_vectors(batch()))
    assert torch.equal(model.candidate_scores(batch(), candidates), again.candidate_scores(batch(), candidates))


def test_a_model_without_queries_ignores_them(network):
    model = network(queries=False, ranking=False)
    plain = replace(batch(), queries=None, query=None, request_query=None)
    assert torch.equal(model.user_vectors(batch()), model.user_vectors(plain))


def test_what_is_switched_off_draws_no_weight(catalogue):
    """Heads come last: the decoder of the joint model starts as that of the plain one."""
    torch.manual_seed(0)
    plain = SynerGen(catalogue, width=16, queries=False)
    torch.manual_seed(0)
    ranking = SynerGen(catalogue, width=16, queries=False, ranking=True)
    assert all(
        torch.equal(w, ranking.state_dict()[name]) for name, w in plain.decoder.state_dict(prefix="decoder.").items()
    )
    assert not [name for name in plain.state_dict() if name.startswith(("head", "tokens.kind", "tokens.masked"))]
