"""Items with features hidden, against sums made item by item and value by value."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.masking import View
from recsys.features.schema import Schema
from recsys.models.embeddings import ItemEncoder

N_ITEMS, N_VALUES, WIDTH = 12, 9, 8
FEATURES = [
    {"name": "brand", "column": "brand", "type": "categorical"},
    {"name": "tags", "column": "tags", "type": "categorical_list"},
    {"name": "kinds", "column": "kinds", "type": "categorical_list", "pooling": "sum"},
    {"name": "price", "column": "price", "type": "numeric"},
    {"name": "text.v2", "column": "text", "type": "vector"},
    {"name": "size", "column": "size", "type": "numeric"},
]
NAMES = ("item_id", *(str(feature["name"]) for feature in FEATURES))
LISTS = ("brand", "tags", "kinds")
ALL = torch.arange(1, N_ITEMS + 1)


def lists(seed: int, fewest: int, most: int) -> list[list[int]]:
    """Values of each item; row 0 has none."""
    random = np.random.default_rng(seed)
    return [[], *(random.choice(np.arange(1, N_VALUES + 1), n, replace=False).tolist()
                  for n in random.integers(fewest, most + 1, N_ITEMS))]  # fmt: skip


def jagged(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    offsets = np.append(0, np.cumsum([len(row) for row in rows]))
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64), torch.tensor(offsets)


def catalogue(values: dict[str, list[list[int]]] | None = None, **schema: Any) -> Catalogue:
    values = values or {"brand": lists(1, 1, 1), "tags": lists(2, 0, 4), "kinds": lists(3, 0, 4)}
    random = torch.Generator().manual_seed(0)
    return Catalogue(
        schema=Schema.parse({"name": "toy", "features": FEATURES, "tables": {"tags": {"dim": 4}}} | schema),
        n_items=N_ITEMS,
        n_users=2,
        table_rows={"item_id": N_ITEMS + 1} | dict.fromkeys(LISTS, N_VALUES + 1),
        counts=torch.tensor([0, 3, 0, 1, 2, 0, 1, 1, 5, 1, 1, 0, 2]),
        jagged={name: jagged(rows) for name, rows in values.items()},
        numeric={name: torch.randn(N_ITEMS + 1, generator=random) for name in ("price", "size")},
        vectors={"text.v2": torch.randn(N_ITEMS + 1, 3, generator=random)},
    )


def encoder(of: Catalogue | None = None, maskable: bool = True, **arguments: Any) -> ItemEncoder:
    torch.manual_seed(0)
    return ItemEncoder(of or catalogue(), WIDTH, maskable=maskable, **arguments)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(items: ItemEncoder, of: Catalogue, item: int) -> dict[str, Tensor]:
    """What each feature adds to the vector of an item, one value after the other; lists that are empty add nothing."""
    found = {"item_id": items.ids.embeddings["item_id"].weight[item]}
    for name in LISTS:
        found[name] = pooled(items, of, name, values_of(of, name, item))
    for at, name in enumerate(("price", "size")):
        found[name] = of.numeric[name][item] * items.numeric_map.weight[:, at]
    found["text.v2"] = items.frozen[0].project.weight @ of.vectors["text.v2"][item]
    return found


def values_of(of: Catalogue, name: str, item: int) -> list[int]:
    values, offsets = of.jagged[name]
    return values[offsets[item] : offsets[item + 1]].tolist()


def pooled(items: ItemEncoder, of: Catalogue, name: str, values: Sequence[int], whole: int | None = None) -> Tensor:
    """The mean of vectors at the model width; times how many there are in a list that is summed up."""
    if not values:
        return torch.zeros(WIDTH)
    table = items.bags.embedding_bags[name].weight
    mean = torch.stack([table[value] for value in values]).sum(0) / len(values)
    mean = mean * (whole or len(values)) if name == "kinds" else mean
    return items.project[name](mean) if name in items.project else mean


def default(items: ItemEncoder, name: str) -> Tensor:
    return items.defaults[items.feature_names.index(name)]


def expected(items: ItemEncoder, of: Catalogue, item: int, hidden: Sequence[str]) -> Tensor:
    shown = parts(items, of, item)
    return torch.stack([default(items, name) if name in hidden else shown[name] for name in NAMES]).sum(0)


@pytest.mark.parametrize("maskable", [True, False])
def test_a_view_that_hides_nothing_is_the_plain_vector(maskable: bool) -> None:
    items, ids = encoder(maskable=maskable), torch.tensor([5, 1, 5, 12])
    for view in items.views(ids, [View(), View()]):  # both in one product: its kernel may add in another order
        torch.testing.assert_close(view, items(ids), rtol=1e-6, atol=1e-6)


def test_default_vectors_change_nothing_else() -> None:
    """Every other weight and all that is drawn next."""
    plain = encoder(maskable=False)
    drawn = torch.rand(3)
    masked = encoder()
    assert torch.equal(drawn, torch.rand(3))
    weights, more = plain.state_dict(), masked.state_dict()
    assert more.keys() - weights.keys() == {"defaults"} and all(torch.equal(more[n], w) for n, w in weights.items())
    assert torch.equal(plain(ALL), masked(ALL))
    assert plain.defaults is None and not plain.maskable and masked.maskable


def test_default_vectors_are_drawn_like_tables_and_by_the_seed() -> None:
    wide = [ItemEncoder(catalogue(), 512, maskable=True, init_std=0.1) for _ in map(torch.manual_seed, (0, 1))]
    first, second = (items.defaults.detach() for items in wide)
    assert first.shape == (len(NAMES), 512)
    torch.testing.assert_close(first.std(), torch.tensor(0.1), atol=0.01, rtol=0)
    table = wide[0].ids.embeddings["item_id"].weight.detach()
    torch.manual_seed(0)
    for other in (second[0], first[1], table[1], table[0], torch.randn(512)):  # neither equal nor alike
        assert abs(float(torch.corrcoef(torch.stack([first[0], other]))[0, 1])) < 0.2


@settings(max_examples=30, deadline=None)
@given(
    st.fixed_dictionaries(
        {name: st.lists(st.lists(st.integers(1, N_VALUES), max_size=most), min_size=N_ITEMS, max_size=N_ITEMS)
         for name, most in (("brand", 1), ("tags", 4), ("kinds", 5))}
    ),
    st.lists(st.frozensets(st.sampled_from(NAMES)), min_size=1, max_size=3),
    st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=6),
)  # fmt: skip
def test_hidden_features_show_their_default_vectors(
    values: dict[str, list[list[int]]], hidden: list[frozenset[str]], ids: list[int]
) -> None:
    of = catalogue({name: [[], *rows] for name, rows in values.items()})
    items = encoder(of)
    with torch.no_grad():
        found = items.views(torch.tensor(ids), [View(names) for names in hidden])
        for vectors, names in zip(found, hidden, strict=True):
            by_hand = torch.stack([expected(items, of, item, sorted(names)) for item in ids])
            torch.testing.assert_close(vectors, by_hand, atol=1e-6, rtol=1e-5)


def test_a_hidden_list_shows_its_default_vector_for_items_without_values_too() -> None:
    of = catalogue()
    empty = next(item for item in range(1, N_ITEMS + 1) if not values_of(of, "tags", item))
    items, ids = encoder(of), torch.tensor([empty])
    plain, hidden = items.views(ids, [View(), View(frozenset({"tags"}))])
    torch.testing.assert_close(hidden - plain, default(items, "tags")[None])
    only = frozenset(NAMES) - {"tags"}
    kept = items.views(ids, [View(only, value_dropout=0.9)] * 20, generator())
    background = torch.stack([default(items, name) for name in sorted(only)]).sum(0)
    assert all(float((vectors - background).detach().abs().max()) < 1e-6 for vectors in kept)  # none to be left out


def subsets(values: Sequence[int]) -> list[tuple[int, ...]]:
    return [some for n in range(len(values) + 1) for some in itertools.combinations(values, n)]


def test_value_dropout_keeps_the_mean_of_the_values_kept() -> None:
    """Every list is that of some of its values, by all subsets, and each value is kept equally often."""
    of = catalogue()
    items, views, rate = encoder(of), 300, 0.4
    others = frozenset(NAMES) - {"tags"}
    with torch.no_grad():
        for name in ("tags", "kinds"):
            others = frozenset(NAMES) - {name}
            background = torch.stack([default(items, other) for other in NAMES if other != name]).sum(0)
            found = items.views(ALL, [View(others, value_dropout=rate)] * views, generator(3))
            kept = listed = none = 0
            for item in range(1, N_ITEMS + 1):
                values = values_of(of, name, item)
                whole = len(values)
                options = subsets(values)
                choices = torch.stack([pooled(items, of, name, some, whole) for some in options])
                if values:
                    choices[0] = default(items, name)
                rows = torch.stack([vectors[item - 1] - background for vectors in found])
                distance = (rows[:, None] - choices).abs().amax(-1)
                assert float(distance.amin(1).max()) < 1e-6
                chosen = [options[place] for place in distance.argmin(1).tolist()]
                kept += sum(len(some) for some in chosen)
                listed += views * whole
                none += sum(not some for some in chosen) if values else 0
            assert abs(kept / listed - (1 - rate)) < 5 * (rate * (1 - rate) / listed) ** 0.5 and none > 0


def test_each_view_has_its_own_shares() -> None:
    """A view without dropout stays as it is, beside one that leaves out as much as it would alone."""
    items, ids = encoder(), ALL.repeat(50)
    only = frozenset(NAMES) - {"tags"}
    plain, half, most = items.views(ids, [View(only), View(only, 0.5, 0.2), View(only, 0.9, 0.8)], generator())
    torch.testing.assert_close(plain, items.views(ids, [View(only)])[0])
    distances = [float((view - plain).detach().square().mean()) for view in (half, most)]
    alone = [float((items.views(ids, [View(only, *shares)], generator(1))[0] - plain).detach().square().mean())
             for shares in ((0.5, 0.2), (0.9, 0.8))]  # fmt: skip
    assert distances == pytest.approx(alone, rel=0.15) and distances[1] > 1.3 * distances[0]


def test_value_dropout_leaves_what_has_one_value_alone() -> None:
    of = catalogue()
    items = encoder(of)
    hidden = frozenset({"tags", "kinds"})
    for vectors in items.views(ALL, [View(hidden, value_dropout=0.9)] * 5, generator()):
        torch.testing.assert_close(vectors, items.views(ALL, [View(hidden)])[0])


def test_dropped_dimensions_are_zero_and_the_others_as_they_were() -> None:
    """Of a feature as wide as the model, dimension by dimension; each item and view has its own."""
    of = catalogue()
    items, rate, others = encoder(of), 0.3, frozenset(NAMES) - {"item_id"}
    whole = items.views(ALL, [View(others)])[0]
    background = torch.stack([default(items, name) for name in sorted(others)]).sum(0)
    found = torch.stack(items.views(ALL, [View(others, dim_dropout=rate)] * 50, generator(1))) - background
    zero, kept = found.abs() < 1e-6, (found - (whole - background)).abs() < 1e-6
    assert bool((zero | kept).all())
    dropped = zero.float()
    assert abs(float(dropped.mean()) - rate) < 5 * (rate * (1 - rate) / dropped.numel()) ** 0.5
    assert dropped.mean((0, 1)).min() > 0 and dropped[0].mean(0).max() < 1  # neither columns nor rows go together
    assert not torch.equal(zero[0], zero[1])


def test_dimensions_are_dropped_before_the_projection() -> None:
    of = catalogue()
    items, others = encoder(of), frozenset(NAMES) - {"tags"}
    background = torch.stack([default(items, name) for name in sorted(others)]).sum(0)
    table, weight = items.bags.embedding_bags["tags"].weight, items.project["tags"].weight
    item = next(item for item in range(1, N_ITEMS + 1) if values_of(of, "tags", item))
    mean = table[torch.tensor(values_of(of, "tags", item))].mean(0)
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    choices = (masks * mean) @ weight.T
    for vectors in items.views(torch.tensor([item]), [View(others, dim_dropout=0.5)] * 10, generator()):
        assert float((choices - (vectors[0] - background)).detach().abs().amax(1).min()) < 1e-6


def test_draws_come_from_the_generator_given() -> None:
    items, views = encoder(), [View(frozenset({"brand"}), 0.5, 0.5), View(frozenset({"item_id"}), 0.2)]
    state = torch.get_rng_state()
    first, again, other = (torch.cat(items.views(ALL, views, generator(seed))) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def gradients(items: ItemEncoder) -> dict[str, Tensor | None]:
    return {name: weight.grad for name, weight in items.named_parameters()}


def rows(gradient: Tensor | None) -> set[int]:
    """The rows that a gradient is stored for; they need not differ from 0."""
    return set() if gradient is None else set(gradient.coalesce().indices()[0].tolist())


def test_hidden_features_are_not_looked_up() -> None:
    of = catalogue()
    items, ids = encoder(of), torch.tensor([3, 4, 8])
    hidden = ("item_id", "tags", "text.v2", "price")
    items.views(ids, [View(frozenset(hidden))])[0].square().sum().backward()
    found = gradients(items)
    assert rows(found["ids.embeddings.item_id.weight"]) == rows(found["bags.embedding_bags.tags.weight"]) == set()
    for name in ("brand", "kinds"):
        seen = {value for item in ids.tolist() for value in values_of(of, name, item)}
        assert rows(found[f"bags.embedding_bags.{name}.weight"]) == seen
        assert all(bool(row.any()) for row in found[f"bags.embedding_bags.{name}.weight"].to_dense()[list(seen)])
    assert not found["frozen.0.project.weight"].any() and not found["project.tags.weight"].any()
    assert not found["numeric_map.weight"][:, 0].any() and found["numeric_map.weight"][:, 1].any()
    learns = [name for name, row in zip(NAMES, found["defaults"], strict=True) if row.any()]
    assert sorted(learns) == sorted(hidden)


def test_two_views_make_one_lookup_of_each_table() -> None:
    items, calls = encoder(), []
    for part in (items.ids, items.bags):
        part.register_forward_hook(lambda *_: calls.append(1))
    items.views(ALL, [View(frozenset({"item_id", "tags"}), 0.2), View(frozenset({"brand", "kinds"}), 0.2)])
    assert len(calls) == 2
    items.views(ALL, [View(frozenset({"item_id", *LISTS}))])
    assert len(calls) == 2  # nothing is left to be looked up


@pytest.mark.parametrize("method", ["quotient_remainder", "double_hash"])
def test_tables_in_parts_are_hidden_as_a_whole(method: str) -> None:
    compression = {"compression": {"method": method, "rows": 3}}
    of = catalogue(item_table=compression | {"dim": 4}, tables={"tags": compression})
    items = encoder(of)
    assert torch.equal(items.views(ALL, [View()])[0], items(ALL))
    one, two = items.views(ALL, [View(frozenset({"tags"})), View(frozenset({"item_id"}))])
    torch.testing.assert_close(one - default(items, "tags") + two - default(items, "item_id"), items(ALL) + (
        items.views(ALL, [View(frozenset({"tags", "item_id"}))])[0] - default(items, "tags") - default(items, "item_id")
    ))  # fmt: skip
    items.zero_grad()
    items.views(ALL, [View(frozenset({"tags"}))])[0].sum().backward()
    for name, gradient in gradients(items).items():
        if "tags" in name:
            assert rows(gradient) == set() if "embedding_bags" in name else not gradient.any()
        elif "embeddings.item_id" in name:
            assert rows(gradient)


@pytest.mark.parametrize("maskable", [True, False])
def test_ids_of_items_without_training_events_are_hidden(maskable: bool) -> None:
    of = catalogue()
    plain, items = encoder(of), encoder(of, maskable, hide_untrained_ids=True)
    unseen = of.counts[ALL] == 0
    in_place = default(plain, "item_id") if maskable else torch.zeros(WIDTH)
    table = plain.ids.embeddings["item_id"].weight
    by_hand = torch.stack([parts(plain, of, item)["item_id"] for item in ALL.tolist()])
    assert torch.equal(by_hand, table[ALL])
    torch.testing.assert_close(items(ALL), torch.where(unseen[:, None], plain(ALL) - table[ALL] + in_place, plain(ALL)))
    assert torch.equal(items(ALL)[~unseen], plain(ALL)[~unseen])
    items(ALL).sum().backward()
    assert not items.ids.embeddings["item_id"].weight.grad.to_dense()[ALL[unseen]].any()
    if maskable:
        shown, hidden = items.views(ALL, [View(), View(frozenset({"item_id"}))])
        torch.testing.assert_close(shown, items(ALL))
        torch.testing.assert_close(hidden, plain.views(ALL, [View(frozenset({"item_id"}))])[0])


def test_where_training_knows_all_items_no_id_is_hidden() -> None:
    of = replace(catalogue(), counts=torch.ones(N_ITEMS + 1, dtype=torch.int64))
    for maskable in (True, False):
        assert torch.equal(encoder(of, maskable)(ALL), encoder(of, maskable, hide_untrained_ids=True)(ALL))


@pytest.mark.parametrize("maskable", [True, False])
def test_feature_dropout_hides_each_feature_of_each_item_on_its_own(maskable: bool) -> None:
    of, share, ids = catalogue(), 0.3, ALL.repeat(100)
    items = encoder(of, maskable, feature_dropout=share)
    filled = [item for item in range(1, N_ITEMS + 1) if all(values_of(of, name, item) for name in LISTS)][:2]
    with torch.no_grad():
        found = items(ids)
        for item in filled:
            shown = parts(items, of, item)
            masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(NAMES))))
            here = torch.stack([shown[name] for name in NAMES])
            instead = items.defaults if maskable else torch.zeros(len(NAMES), WIDTH)
            choices = (1 - masks) @ here + masks @ instead
            distance = (found[ids == item][:, None] - choices).abs().amax(-1)
            assert float(distance.amin(1).max()) < 1e-6
            hidden = masks[distance.argmin(1)]
            assert abs(float(hidden.mean()) - share) < 5 * (share * (1 - share) / hidden.numel()) ** 0.5
            assert float(hidden.mean(0).min()) > 0.1 and float(hidden.mean(0).max()) < 0.5
        items.eval()
        state = torch.get_rng_state()
        assert torch.equal(items(ALL), encoder(of, maskable)(ALL))
    torch.set_rng_state(state)
    plain = encoder(of, maskable).train()
    state = torch.get_rng_state()
    plain(ALL)
    assert torch.equal(state, torch.get_rng_state())  # nothing is drawn without it


def test_dropped_features_are_not_trained() -> None:
    items = encoder(feature_dropout=0.5)
    items(ALL).sum().backward()
    brands = rows(gradients(items)["bags.embedding_bags.brand.weight"])
    assert brands < {value for item in ALL.tolist() for value in values_of(catalogue(), "brand", item)} and brands


def test_what_cannot_be_hidden_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hides \['colour'\], and the network encodes only \['item_id', 'brand'"):
        encoder().views(ALL, [View(), View(frozenset({"colour", "tags"}))])
    with pytest.raises(ValueError, match=r"hides \['item_id'\].*`ids: true`"):
        encoder(ids=False).views(ALL, [View(frozenset({"item_id"}))])
    for view in (View(frozenset({"tags"})), View(value_dropout=0.1)):
        with pytest.raises(ValueError, match="set `maskable: true`"):
            encoder(maskable=False).views(ALL, [View(), view])
    with pytest.raises(ValueError, match=r"hide_untrained_ids.*features of items in the schema"):
        encoder(side_features=False, hide_untrained_ids=True)
    with pytest.raises(ValueError, match=r"feature_dropout must be at least 0 and below 1, not 1.0"):
        encoder(feature_dropout=1.0)


def test_dimensions_are_dropped_without_default_vectors_too() -> None:
    """Zeros need none."""
    items = encoder(maskable=False)
    (found,) = items.views(ALL, [View(dim_dropout=0.5)], generator())
    (same,) = encoder().views(ALL, [View(dim_dropout=0.5)], generator())
    assert torch.equal(found, same) and not torch.equal(found, items(ALL))
