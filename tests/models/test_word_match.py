"""Words matched beside the decoder, against a loop over words and the same model without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.queries import Queries
from recsys.features.query_reader import QueryReader
from recsys.features.schema import Schema
from recsys.features.vocabulary import Vocabulary
from recsys.losses.full_softmax import FullSoftmax
from recsys.losses.info_nce import InfoNCE
from recsys.models.artefact import load_model, save_model
from recsys.models.synergen import SynerGen
from recsys.models.tables import tables_on
from recsys.models.tokens import Slots
from recsys.models.word_match import WordMatch
from recsys.training.objective import RetrievalObjective
from recsys.training.optimizers import table_parameters

TITLE = {"name": "title", "column": "title", "type": "text", "table": "words"}
BRAND = {"name": "brand", "column": "brand", "type": "categorical", "table": "words"}
COLOUR = {"name": "colour", "column": "colour", "type": "categorical"}
ASKED = {"name": "asked", "type": "text", "entity": "query", "table": "words"}
N_WORDS, T0, WIDTH, WORD_WIDTH = 9, 1_500_000_000, 16, 6
TITLES = [[1, 2], [], [3, 3, 4], [5], [2, 6, 7], [8, 1]]
BRANDS = [[2], [], [], [5], [4], [1]]
"""Item 2 has no word at all, item 3 one word twice, and item 4 the same word in both features."""
QUERIES = [[1, 2], [], [3], [8, 8, 5]]


def jagged(rows: list[list[int]], first: int = 1) -> tuple[Tensor, Tensor]:
    """A column whose rows begin with `first` empty ones."""
    lengths = torch.tensor([0] * first + [len(row) for row in rows])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64), offsets


def catalogue(*features: dict[str, str], **columns: list[list[int]]) -> Catalogue:
    n_items = len(next(iter(columns.values())))
    events = {"query": "query"} if any(feature.get("entity") == "query" for feature in features) else {}
    return Catalogue(
        schema=Schema.parse({"name": "toy", "events": events, "features": list(features)}), n_items=n_items, n_users=3,
        table_rows={"item_id": n_items + 1, "words": N_WORDS, "colour": 3, "asked": 3},
        counts=torch.arange(n_items + 1), jagged={name: jagged(rows) for name, rows in columns.items()},
        query_dims={"about": 4},
    )  # fmt: skip


@pytest.fixture
def shop() -> Catalogue:
    colours = [[1 + item % 2] for item in range(len(TITLES))]
    return catalogue(COLOUR, TITLE, ASKED, BRAND, colour=colours, title=TITLES, brand=BRANDS)


def looped(match: WordMatch, items: list[list[int]], queries: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Sums of word vectors, one word after the other: of items at length one, of queries times the weight."""
    table = match.words.embedding_bags["match_words"].weight.detach().double()

    def summed(row: list[int]) -> Tensor:
        total = torch.zeros(table.shape[1], dtype=torch.float64)
        for word in row:
            total += table[word]
        return total

    of_items = [total / total.norm() if any(total) else total for total in map(summed, items)]
    return torch.stack(of_items), torch.stack([summed([]), *(match.query_weight * summed(row) for row in queries)])


ROWS = st.lists(st.integers(1, N_WORDS - 1), max_size=5)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(ROWS, ROWS), min_size=1, max_size=6),
    queries=st.none() | st.lists(ROWS, max_size=4),
    data=st.data(),
)
def test_vectors_are_those_of_a_loop_over_words(rows, queries, data):
    titles, brands = (list(column) for column in zip(*rows, strict=True))
    match = WordMatch(catalogue(TITLE, BRAND, ASKED, title=titles, brand=brands), WORD_WIDTH)
    ids = data.draw(st.lists(st.integers(0, len(rows)), min_size=1, max_size=8))
    with torch.no_grad():
        match.query_weight.fill_(0.7)
        given_queries = None if queries is None else Queries({"asked": jagged(queries)})
        items, asked = match(torch.tensor(ids), given_queries)
    of_items = [[]] + [title + brand for title, brand in rows]
    expected, expected_asked = looped(match, [of_items[item] for item in ids], queries or [])
    torch.testing.assert_close(items.double(), expected, atol=1e-5, rtol=1e-5)
    if queries is None:
        assert asked.shape == (0, WORD_WIDTH)
        return
    torch.testing.assert_close(asked.double(), expected_asked, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((asked @ items.T).double(), expected_asked @ expected.T, atol=1e-4, rtol=1e-4)


def test_untrained_it_counts_the_words_that_both_have():
    """Random vectors of this many dimensions are nearly orthogonal: shared words over the root of the text's length."""
    torch.manual_seed(0)
    match = WordMatch(catalogue(TITLE, ASKED, title=[[1, 2, 3, 4], [5, 6], [7]]), 4096)
    with torch.no_grad():
        items, asked = match(torch.arange(1, 4), Queries({"asked": jagged([[1, 2, 5], [7], [8]])}))
    expected = torch.tensor([[2 / 2, 1 / 2**0.5, 0], [0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(asked[1:] @ items.T, expected, atol=0.1, rtol=0)


def test_what_has_no_word_is_zero_and_stops_no_training(shop):
    match = WordMatch(shop, WORD_WIDTH)
    items, asked = match(torch.tensor([0, 2, 1]), Queries({"asked": jagged(QUERIES)}))
    assert not items[:2].any() and items[2].norm().item() == pytest.approx(1, abs=1e-5)
    assert not asked[0].any() and not asked[2].any() and asked[[1, 3, 4]].any(1).all()
    (items @ asked.T).exp().sum().backward()
    for name, weight in match.named_parameters():
        grad = weight.grad.to_dense()
        assert torch.isfinite(grad).all() and grad.any(), name


def test_gradients_touch_the_rows_of_the_looked_up_words(shop):
    torch.manual_seed(0)
    model = SynerGen(shop, width=WIDTH, word_width=WORD_WIDTH)
    table = model.items.word_match.words.embedding_bags["match_words"].weight
    assert any(weight is table for weight in table_parameters(model))
    items, asked = model.items.word_match(torch.tensor([1, 4]), Queries({"asked": jagged([[3], [8, 8]])}))
    (items.sum() * asked.sum()).backward()
    assert table.grad.is_sparse and set(table.grad._indices()[0].tolist()) == {1, 2, 5} | {3, 8}


def test_its_table_waits_for_sharding_as_others_do(shop):
    with tables_on("meta"):
        match = WordMatch(shop, WORD_WIDTH)
    assert all(weight.is_meta for weight in table_parameters(match)) and not match.query_weight.is_meta


def batch(request_query: tuple[int, ...] | None = (3, 0, 4)) -> SequenceBatch:
    """A user who searches, one who does not, and a stranger who searches."""
    request = None if request_query is None else torch.tensor(request_query)
    return SequenceBatch.build(
        torch.arange(1, 4), torch.tensor([3, 2, 0]), torch.tensor([1, 2, 3, 6, 4]),
        T0 + 3600 * torch.tensor([0, 10, 20, 5, 9]), queries=Queries({"asked": jagged(QUERIES)}),
        query=torch.tensor([0, 1, 0, 3, 2]), request_query=request,
    )  # fmt: skip


def pair(shop: Catalogue, **arguments) -> tuple[SynerGen, SynerGen]:
    """A model that matches words, and the same one without: all weights that both have are equal."""
    torch.manual_seed(0)
    settings = {"width": WIDTH, "layers": 2, "heads": 2, "dropout": 0.0, "ranking": True} | arguments
    wide = SynerGen(shop, word_width=WORD_WIDTH, **settings).eval()
    with torch.no_grad():
        for name, weight in wide.named_parameters():
            if "embedding" in name or name.startswith("head"):
                weight.normal_(std=0.5)
    plain = SynerGen(shop, **settings).eval()
    plain.load_state_dict({name: w for name, w in wide.state_dict().items() if "word_match" not in name})
    return wide, plain


SLOTS = Slots(
    row=torch.tensor([0, 0, 1, 2, 1]), cutoff=torch.tensor([3, 1, 2, 0, 0]),
    timestamp=T0 + 3600 * torch.tensor([30, 5, 20, 9, 1]), query=torch.tensor([3, 0, 4, 1, 2]),
)  # fmt: skip
"""The second asks no query, and the last one without any word."""


@torch.no_grad()
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_answers_and_items_are_those_of_the_model_without_and_the_words_after_them(shop, similarity):
    wide, plain = pair(shop, similarity=similarity)
    every = torch.arange(shop.n_items + 1)
    texts = [[], *(title + brand for title, brand in zip(TITLES, BRANDS, strict=True))]
    words, asked = (part.float() for part in looped(wide.items.word_match, texts, QUERIES))
    (context, vectors), (other, narrow) = wide.encode(batch(), every), plain.encode(batch(), every)
    torch.testing.assert_close(wide.match(vectors), torch.cat([plain.match(narrow), words], 1), atol=1e-5, rtol=1e-5)
    answers, before = wide.ask(context, SLOTS), plain.ask(other, SLOTS)
    expected = torch.cat([plain.match(before), asked[SLOTS.query]], 1)
    torch.testing.assert_close(wide.match(answers), expected, atol=1e-5, rtol=1e-5)
    assert not answers[1, WIDTH:].any() and not answers[4, WIDTH:].any() and answers[[0, 2, 3], WIDTH:].any(1).all()

    candidates = torch.tensor([[1, 2, 3], [6, 5, 4], [2, 6, 1], [3, 3, 2], [4, 5, 6]])
    logits = wide.rank(context, SLOTS, answers, vectors[candidates])
    product = (asked[SLOTS.query].unsqueeze(1) * words[candidates]).sum(-1, keepdim=True)
    added = wide.head.scale * wide.head.retrieval_weight * product
    expected = plain.rank(other, SLOTS, before, narrow[candidates]) + added
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_scores_are_those_of_the_model_without_plus_the_product_of_the_words(shop):
    wide, plain = pair(shop)
    texts = [[], *(title + brand for title, brand in zip(TITLES, BRANDS, strict=True))]
    words, asked = looped(wide.items.word_match, texts, QUERIES)
    added = (asked @ words.T).float()
    found, without = wide.scores(batch()), plain.scores(batch())
    torch.testing.assert_close(found[:, 1:], (without + added[torch.tensor([3, 0, 4])])[:, 1:], atol=1e-5, rtol=1e-5)
    assert added[[3, 4], 1:].abs().max(1).values.gt(0.1).all()


@pytest.mark.parametrize("request_query", [(3, 0, 4), (0, 0, 0), None], ids=["beside a search", "alone", "no requests"])
def test_word_vectors_are_nothing_to_a_request_without_query(shop, request_query):
    wide, plain = pair(shop)
    events = batch(request_query)
    vectors, scores = wide.user_vectors(events), wide.scores(events)
    assert not vectors[1, WIDTH:].any() and vectors[1, :WIDTH].any()
    with torch.no_grad():
        wide.items.word_match.words.embedding_bags["match_words"].weight.normal_(std=3)
    torch.testing.assert_close(wide.scores(events)[1], scores[1], atol=0, rtol=0)
    torch.testing.assert_close(plain.scores(events)[1], scores[1], atol=1e-5, rtol=1e-5)
    if request_query and request_query[0]:
        assert not torch.equal(wide.scores(events)[0], scores[0])


def test_a_stranger_is_answered_by_popularity_or_by_the_query(shop):
    wide, _ = pair(shop)
    empty = SequenceBatch.build(
        torch.arange(2), torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64), queries=Queries({"asked": jagged(QUERIES)}),
        query=torch.zeros(0, dtype=torch.int64), request_query=torch.tensor([0, 3]),
    )  # fmt: skip
    for events, last in ((empty, 0.0), (replace(empty, request_query=None), 1.0)):
        vectors = wide.user_vectors(events)
        assert vectors.shape == (2, WIDTH + WORD_WIDTH + 1)
        assert vectors[0].tolist() == [0.0] * (WIDTH + WORD_WIDTH) + [1.0] and vectors[1, -1] == last
    assert torch.equal(wide.scores(empty)[0, 1:], wide.popularity[1:])


@torch.no_grad()
def test_events_that_were_looked_up_before_are_encoded_the_same(shop):
    wide, _ = pair(shop)
    events = replace(batch(None), queries=None, query=None)
    states, items = wide(events, None)
    assert states.shape[1] == items.shape[1] == WIDTH + WORD_WIDTH
    torch.testing.assert_close(wide.encode_vectors(events, wide.items(events.item_id)), states)


@pytest.mark.parametrize("loss", [FullSoftmax(0.1), InfoNCE(0.1)], ids=lambda loss: type(loss).__name__)
def test_next_item_retrieval_learns_as_without(shop, loss):
    """`RetrievalObjective` asks no query: the loss is the same, and no word vector moves."""
    losses = []
    for model in pair(shop):
        objective = RetrievalObjective(loss)
        objective.setup(shop, 3, torch.device("cpu"))
        found = objective(model, replace(batch(), target=torch.tensor([2, 3, 5, 4, 1]))).loss
        found.backward()
        losses.append(found.detach())
        if model.word_width:
            assert not any(w.grad is not None and w.grad.to_dense().any() for w in model.items.word_match.parameters())
    torch.testing.assert_close(*losses)


def test_words_that_no_log_has_seen_say_nothing(shop):
    wide, _ = pair(shop)
    reader = QueryReader(
        shop.schema.of("query"), {"words": Vocabulary.of(["red", "hat", "tea", "pot", "oil", "cup", "jar", "lid"])}
    )
    queries, rows = reader.read(["zzz", "red hat", "red zzz hat", "  "])
    events = replace(batch(None), queries=queries, query=torch.zeros(5, dtype=torch.int64))
    answers = [
        wide.user_vectors(replace(events, request_query=torch.full((3,), int(row))))[:, WIDTH:-1] for row in rows
    ]
    assert not answers[0].any() and not answers[3].any() and answers[1].any(1).all()
    torch.testing.assert_close(answers[2], answers[1])


@pytest.mark.parametrize(
    ("settings", "word_width"),
    [({}, 0), ({"queries": False}, WORD_WIDTH), ({"side_features": False}, WORD_WIDTH)],
    ids=["no width", "no queries", "no item texts"],
)
def test_switched_off_it_changes_no_bit(shop, settings, word_width):
    """The same weights of the same seed, and the same numbers, as if no width were given."""
    models = []
    for arguments in ({}, {"word_width": word_width}):
        torch.manual_seed(0)
        models.append(SynerGen(shop, width=WIDTH, ranking=True, **settings, **arguments).eval())
    plain, off = models
    assert list(plain.state_dict()) == list(off.state_dict())
    assert all(torch.equal(weight, off.state_dict()[name]) for name, weight in plain.state_dict().items())
    assert torch.equal(plain.scores(batch()), off.scores(batch()))
    candidates = torch.tensor([[1, 2], [3, 4], [5, 6]])
    assert torch.equal(plain.candidate_scores(batch(), candidates), off.candidate_scores(batch(), candidates))


@pytest.mark.parametrize(
    "features",
    [
        (TITLE,),
        (TITLE, ASKED | {"table": "asked"}),
        (TITLE, {"name": "about", "type": "sentence", "entity": "query"}),
        (COLOUR, ASKED),
    ],
    ids=["no queries", "other tables", "a sentence", "no item text"],
)
def test_queries_that_share_no_table_with_items_are_refused(features):
    columns = {"title": TITLES} if TITLE in features else {"colour": [[1]] * 6}
    with pytest.raises(ValueError, match=r"schema `toy` .* give a text of the queries .* or set `word_width: 0`"):
        SynerGen(catalogue(*features, **columns), width=WIDTH, word_width=WORD_WIDTH)


def test_a_saved_model_answers_the_same(shop, tmp_path: Path):
    wide, _ = pair(shop)
    save_model(wide, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert torch.equal(again.scores(batch()), wide.scores(batch()))


def test_a_model_that_was_saved_before_is_read(shop):
    """Its configuration names no `word_width`."""
    _, plain = pair(shop)
    config = plain.config()
    older = {name: value for name, value in config["hyperparameters"].items() if name != "word_width"}
    again = SynerGen.from_state(config | {"hyperparameters": older}, plain.state())
    assert torch.equal(again.scores(batch()), plain.scores(batch()))
