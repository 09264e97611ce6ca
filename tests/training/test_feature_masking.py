"""What feature masking teaches, and what goes wrong where it is done carelessly."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.masking import CorrelatedMasking, DimensionMasking, FeatureMasking, RandomMasking, View
from recsys.features.schema import Schema
from recsys.losses.base import LossOutput
from recsys.models.synergen import SynerGen
from recsys.training.auxiliary import Auxiliary
from recsys.training.feature_masking import FeatureMaskingSSL

CPU = torch.device("cpu")
N_ITEMS, WIDTH = 60, 16
TABLES = {"brand": 12, "shelf": 6, "tags": 20, "words": 40}
NAMES = ("item_id", "brand", "shelf", "tags", "words", "price")


def jagged(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    offsets = np.append(0, np.cumsum([len(row) for row in rows]))
    return torch.tensor([value for row in rows for value in row]), torch.tensor(offsets)


def catalogue(n_items: int = N_ITEMS, **schema: Any) -> Catalogue:
    """Two categories, a list, a text that is projected, and a number; a few items have nearly all events."""
    random = np.random.default_rng(0)
    brands = random.integers(1, TABLES["brand"], n_items).tolist()
    values = {"brand": [[brand] for brand in brands], "shelf": [[1 + brand // 3] for brand in brands]}
    for name, most in (("tags", 4), ("words", 6)):
        values[name] = [random.integers(1, TABLES[name], random.integers(1, most)).tolist() for _ in brands]
    features = [
        {"name": "brand", "column": "brand", "type": "categorical"},
        {"name": "shelf", "column": "shelf", "type": "categorical"},
        {"name": "tags", "column": "tags", "type": "categorical_list"},
        {"name": "words", "column": "words", "type": "text"},
        {"name": "price", "column": "price", "type": "numeric"},
    ]
    counts = torch.ones(n_items + 1, dtype=torch.int64)
    counts[1:4] = 1000
    return Catalogue(
        schema=Schema.parse({"name": "toy", "features": features, "tables": {"words": {"dim": 8}}} | schema),
        n_items=n_items,
        n_users=2,
        table_rows={"item_id": n_items + 1} | TABLES,
        counts=counts,
        jagged={name: jagged([[], *rows]) for name, rows in values.items()},
        numeric={"price": torch.randn(n_items + 1, generator=torch.Generator().manual_seed(0))},
    )


def network(of: Catalogue, **arguments: Any) -> SynerGen:
    torch.manual_seed(0)
    return SynerGen(of, **{"width": WIDTH, "layers": 1, "maskable": True} | arguments)


def ssl(of: Catalogue, masking: FeatureMasking | None = None, seed: int = 5, **arguments: Any) -> FeatureMaskingSSL:
    made = FeatureMaskingSSL(masking, **{"n": 24} | arguments)
    made.setup(of, seed, CPU)
    return made


class Fixed(FeatureMasking):
    """Always the same pair of views."""

    def __init__(self, *views: View):
        super().__init__()
        self.pair = views

    def draw(self) -> tuple[View, View]:
        return self.pair  # type: ignore[return-value]


class Watch:
    """Remembers what the items of a network were asked for."""

    def __init__(self, made: SynerGen):
        self.ids: list[Tensor] = []
        self.pairs: list[tuple[View, ...]] = []
        self.found: list[list[Tensor]] = []
        views = made.items.views

        def watched(ids: Tensor, pair: tuple[View, ...], generator: torch.Generator | None = None) -> list[Tensor]:
            self.ids.append(ids)
            self.pairs.append(pair)
            self.found.append(views(ids, pair, generator))
            return self.found[-1]

        made.items.views = watched  # type: ignore[method-assign, assignment]


def backward(term: Auxiliary, made: SynerGen) -> LossOutput:
    made.zero_grad()
    output: LossOutput = term(made)
    output.loss.backward()
    return output


def dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def test_the_gradient_is_that_of_the_items_of_the_batch_alone() -> None:
    """In the tables and projections that the task trains, too; nothing of the decoder has any."""
    of = catalogue()
    made = network(of)
    watch, term = Watch(made), ssl(of, RandomMasking(value_dropout=0.0))
    backward(term, made)
    ids, hidden = watch.ids[0], watch.pairs[0][0].hidden | watch.pairs[0][1].hidden
    assert hidden == set(NAMES)
    found = {name: weight.grad for name, weight in made.named_parameters() if weight.grad is not None}
    assert all(name.startswith("items.") for name in found)
    assert {id(weight) for name, weight in made.named_parameters() if name in found} == {
        id(weight) for weight in made.items.parameters()
    }  # all of them, and the very ones that the task has
    assert all(bool(dense(gradient).any()) for gradient in found.values())
    assert rows(found["items.ids.embeddings.item_id.weight"]) == set(ids.tolist())
    for name in TABLES:
        values, offsets = of.jagged[name]
        seen = {value for item in ids.tolist() for value in values[offsets[item] : offsets[item + 1]].tolist()}
        assert rows(found[f"items.bags.embedding_bags.{name}.weight"]) == seen


def rows(gradient: Tensor) -> set[int]:
    """The rows that are not 0."""
    return set(dense(gradient).abs().sum(1).nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("hidden", ["item_id", "brand", "tags", "words"])
def test_what_both_views_hide_is_not_trained(hidden: str) -> None:
    of = catalogue()
    made = network(of)
    other = next(name for name in NAMES if name != hidden)
    backward(ssl(of, Fixed(View(frozenset({hidden})), View(frozenset({hidden, other})))), made)
    kind = "ids.embeddings" if hidden == "item_id" else "bags.embedding_bags"
    gradient = dict(made.items.named_parameters())[f"{kind}.{hidden}.weight"].grad
    assert gradient is None or not dense(gradient).any()
    assert made.items.defaults.grad[NAMES.index(hidden)].any()  # what stands in its place is learned, and is not 0
    assert bool(made.items.defaults[NAMES.index(hidden)].any())


@pytest.mark.parametrize("masking", [RandomMasking(value_dropout=0.0), CorrelatedMasking(value_dropout=0.0)])
def test_no_feature_is_visible_in_both_views(masking: FeatureMasking) -> None:
    """Each is seen by exactly one of them: the other stays as it is, whatever the feature becomes."""
    of = catalogue()
    made, hidden_first = network(of), set()
    watch, term = Watch(made), ssl(of, masking)
    weights = dict(made.items.named_parameters())
    table = {"item_id": "ids.embeddings.item_id.weight", "price": "numeric_map.weight"} | {
        name: f"bags.embedding_bags.{name}.weight" for name in TABLES
    }
    for _ in range(8):
        state = term.random_state()
        term(made)
        before = watch.found[-1]
        hidden_first.add(watch.pairs[-1][0].hidden)
        for name in NAMES:
            with torch.no_grad():
                weights[table[name]].add_(1.0)
                term.load_random_state(state)
                term(made)
                weights[table[name]].sub_(1.0)
            moved = [not torch.allclose(a, b, atol=1e-3) for a, b in zip(before, watch.found[-1], strict=True)]
            assert sorted(moved) == [False, True]
    assert len(hidden_first) > 1  # another mask for another step, and one for all items of a step


def test_independent_masks_leave_features_in_common() -> None:
    """What the complementary ones prevent."""
    of = catalogue()
    term = ssl(of, RandomMasking(complementary=False))
    pairs = [term.masking.draw() for _ in range(20)]
    assert any(set(NAMES) - one.hidden - other.hidden for one, other in pairs)


@pytest.mark.parametrize("batch", ["head", "tail"])
def test_items_are_uniform_over_the_catalogue_whatever_the_task_trains_on(batch: str) -> None:
    """No item twice in a step, and each as often as any other, though three have nearly all events."""
    of = catalogue()
    if batch == "tail":
        of = replace(of, counts=of.counts.flip(0))
    made = network(of)
    watch, term = Watch(made), ssl(of)
    with torch.no_grad():
        for _ in range(100):
            term(made)
    assert all(len(ids) == 24 == len(ids.unique()) for ids in watch.ids)
    drawn = torch.bincount(torch.cat(watch.ids), minlength=N_ITEMS + 1)
    assert drawn[0] == 0 and torch.equal(torch.cat(watch.ids), torch.cat(draws(of, 100)))
    mean = 100 * 24 / N_ITEMS  # two of three batches of a pass leave 12 of 60 out: the spread of a count is below this
    assert float((drawn[1:] - mean).abs().max()) < 5 * math.sqrt(mean)


def draws(of: Catalogue, steps: int) -> list[Tensor]:
    """The items that the seed alone decides on."""
    term = ssl(replace(of, counts=torch.ones_like(of.counts)))
    return [term.items.draw() for _ in range(steps)]


def test_a_small_catalogue_is_used_whole() -> None:
    of = catalogue()
    made = network(of)
    watch = Watch(made)
    ssl(of, n=1024)(made)
    assert sorted(watch.ids[0].tolist()) == list(range(1, N_ITEMS + 1))


@pytest.mark.parametrize("masking", [RandomMasking(), CorrelatedMasking()])
def test_starts_near_the_log_of_the_items(masking: FeatureMasking) -> None:
    """Views that share no feature cannot know each other before training; those that share the id do at once."""
    of, start = catalogue(1500), math.log(1024)
    made = network(of, width=64)
    with torch.no_grad():
        term = ssl(of, masking, n=1024, temperature=1.0)
        for _ in range(5):
            assert float(term(made).loss) == pytest.approx(start, abs=0.03)
        one, other = frozenset({"brand", "shelf", "price"}), frozenset({"words", "tags", "price"})
        assert float(ssl(of, Fixed(View(one), View(other)), n=1024, temperature=1.0)(made).loss) < start - 0.15


def test_the_loss_is_the_contrast_of_the_two_views() -> None:
    of = catalogue()
    made, masking = network(of), RandomMasking()
    term = ssl(of, masking, temperature=0.2)
    state = term.random_state()
    loss = term(made).loss
    term.load_random_state(state)
    ids, pair = term.items.draw(), masking.draw()
    one, other = made.items.views(ids, pair, masking.generator)
    cosines = F.cosine_similarity(one[:, None], other[None], dim=-1) / 0.2
    torch.testing.assert_close(loss, F.cross_entropy(cosines, torch.arange(24)))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.8])
def test_items_that_share_most_values_are_no_negatives(threshold: float) -> None:
    """By sets of values and loops over pairs."""
    of = catalogue()
    made, masking = network(of), RandomMasking()
    term = ssl(of, masking, n=N_ITEMS, temperature=0.2, eliminate_overlap=threshold)
    state = term.random_state()
    loss = term(made).loss.item()
    term.load_random_state(state)
    ids = term.items.draw()
    one, other = (
        F.normalize(view, dim=-1).tolist() for view in made.items.views(ids, masking.draw(), masking.generator)
    )
    held = []
    for item in ids.tolist():
        offsets = {name: of.jagged[name][1] for name in TABLES}
        values = {name: of.jagged[name][0][o[item] : o[item + 1]].tolist() for name, o in offsets.items()}
        held.append({(name, value) for name, found in values.items() for value in found})
    total, left_out = 0.0, 0
    for i in range(N_ITEMS):
        terms = []
        for j in range(N_ITEMS):
            alike = len(held[i] & held[j]) / len(held[i] | held[j]) > threshold
            left_out += alike and i != j
            if i == j or not alike:
                terms.append(math.exp(sum(a * b for a, b in zip(one[i], other[j], strict=True)) / 0.2))
            if i == j:
                positive = math.log(terms[-1])
        total += math.log(sum(terms)) - positive
    assert loss == pytest.approx(total / N_ITEMS, rel=1e-5)
    assert (left_out > 0) == (threshold < 0.8)


def test_dimensions_are_masked_in_both_views_on_their_own() -> None:
    of = catalogue()
    made = network(of)
    watch = Watch(made)
    backward(ssl(of, DimensionMasking(0.5)), made)
    one, other = watch.found[0]
    assert not torch.equal(one, other)
    assert not made.items.defaults.grad.any()  # no feature is hidden as a whole


def test_draws_are_continued() -> None:
    """Items, masks and values left out, over the end of a pass through the catalogue."""
    of = catalogue()
    made = network(of)

    def losses(term: FeatureMaskingSSL, n: int) -> list[float]:
        with torch.no_grad():
            return [float(term(made).loss) for _ in range(n)]

    term = ssl(of, CorrelatedMasking(value_dropout=0.4))
    losses(term, 3)
    state = term.random_state()
    rest = losses(term, 6)
    assert len(set(rest)) == 6
    again = ssl(of, CorrelatedMasking(value_dropout=0.4), seed=8)
    again.load_random_state(state)
    assert losses(again, 6) == rest


def test_what_it_needs_is_said() -> None:
    of = catalogue()
    with pytest.raises(TypeError, match=r"SynerGen.*set `maskable: true`"):
        ssl(of)(network(of, maskable=False))
    with pytest.raises(ValueError, match=r"network encodes only \['item_id'\].*`side_features: true`"):
        ssl(of)(network(of, side_features=False))
    with pytest.raises(ValueError, match=r"features of the entity `item`"):
        ssl(replace(of, schema=Schema(name="bare"), jagged={}, numeric={}))
    with pytest.raises(ValueError, match=r"eliminate_overlap must lie between 0 and 1, not at 2"):
        FeatureMaskingSSL(eliminate_overlap=2)
    numbers = Schema.parse({"name": "bare", "features": [{"name": "price", "column": "p", "type": "numeric"}]})
    with pytest.raises(ValueError, match=r"no categories, lists or texts.*leave `eliminate_overlap` out"):
        ssl(replace(of, schema=numbers, jagged={}), RandomMasking(), eliminate_overlap=0.5)
