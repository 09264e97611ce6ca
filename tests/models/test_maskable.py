"""Networks whose items can be masked, saved and loaded; and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recsys.features.masking import View
from recsys.models.artefact import load_model, save_model
from recsys.models.embeddings import ItemEncoder
from recsys.models.maskable import MaskableItems, maskable_items
from recsys.models.synergen import SynerGen
from tests.models.test_compositional import catalogue as with_words
from tests.models.test_item_views import ALL, NAMES, catalogue

HIDING = ("maskable", "hide_untrained_ids", "feature_dropout")


def network(**arguments: Any) -> SynerGen:
    torch.manual_seed(0)
    return SynerGen(catalogue(), width=8, heads=1, layers=1, **arguments)


def test_what_masks_needs_items_with_default_vectors() -> None:
    made = network(maskable=True)
    items: MaskableItems = maskable_items(made)
    assert items is made.items and items.feature_names == NAMES
    with pytest.raises(TypeError, match=r"SynerGen has nothing to show.*set `maskable: true` in the arguments"):
        maskable_items(network())
    assert not maskable_items(network(), hiding=False).maskable  # which is no trouble where nothing is hidden
    other = network()
    other.items = nn.Embedding(3, 3)  # type: ignore[assignment]
    for hiding in (True, False):
        with pytest.raises(TypeError, match=r"items of SynerGen .*`Embedding` has no `views`.*`maskable: true`"):
            maskable_items(other, hiding)


def test_a_maskable_network_is_the_plain_one_with_default_vectors() -> None:
    """Also in what is made after the encoder of items."""
    plain, masked = network().state_dict(), network(maskable=True).state_dict()
    assert masked.keys() - plain.keys() == {"items.defaults"}
    assert all(torch.equal(masked[name], weight) for name, weight in plain.items())


def test_views_have_no_words_to_match() -> None:
    """Whatever stands after the vectors of items for the words of queries."""
    torch.manual_seed(0)
    items = ItemEncoder(with_words({}, {}), 8, queries=True, word_width=4, maskable=True)
    assert items(ALL).shape == (len(ALL), 12)
    assert torch.equal(items.views(ALL, [View()])[0], items(ALL)[:, :8])


def test_what_is_hidden_is_saved_and_loaded(tmp_path: Path) -> None:
    made = network(maskable=True, hide_untrained_ids=True, feature_dropout=0.2).eval()
    save_model(made, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, SynerGen)
    assert [loaded.hyperparameters[name] for name in HIDING] == [True, True, 0.2]
    assert loaded.items.feature_dropout == 0.2 and torch.equal(loaded.items.defaults, made.items.defaults)
    assert torch.equal(loaded.item_vectors(), made.item_vectors())
    assert not torch.equal(loaded.item_vectors(), network().eval().item_vectors())


def test_a_model_of_before_is_loaded() -> None:
    made = network().eval()
    config = made.config()
    config["hyperparameters"] = {name: v for name, v in made.hyperparameters.items() if name not in HIDING}
    loaded = SynerGen.from_state(config, made.state())
    assert torch.equal(loaded.item_vectors(), made.item_vectors())
    assert [loaded.hyperparameters[name] for name in HIDING] == [False, False, 0.0]
