"""Masking of item features: pairs of views of the same items that show different features of them.

Source:
    Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021: two views, correlated
    feature masking, dropout of values.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import override

from recsys.features.catalogue import Catalogue
from recsys.features.feature_correlation import FeatureCorrelation, feature_correlation

ITEM_ID = "item_id"
"""The name of the id among the features of an item."""


def item_feature_names(catalogue: Catalogue) -> tuple[str, ...]:
    """The features of an item: `item_id`, and then those of the schema in its order."""
    return (ITEM_ID, *(feature.name for feature in catalogue.schema.of("item")))


@dataclass(frozen=True)
class View:
    """What an encoder of items is not to see.

    Attributes:
        hidden: names of item features (`item_id` among them) that are replaced by their default vector.
        value_dropout: share of the values of lists and texts that is left out; the mean is that of the values kept, and
            where none is kept the default vector stands.
        dim_dropout: share of the dimensions of the vector of each feature that is set to 0, drawn for each item.
    """

    hidden: frozenset[str] = frozenset()
    value_dropout: float = 0.0
    dim_dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_share("value_dropout", self.value_dropout)
        _check_share("dim_dropout", self.dim_dropout)


class FeatureMasking(abc.ABC):
    """Draws pairs of views from its own generator, whose state belongs in the checkpoint.

    A pair is for a whole batch: were each item masked in its own way, items would be told apart by what is visible.

    Attributes:
        names: the features of an item, once `setup` was called.
        correlation: of the features, where the masking goes by it.
        generator: of the pairs; an encoder draws from it what a view leaves to chance.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.correlation: FeatureCorrelation | None = None
        self.generator = torch.Generator()

    def setup(self, catalogue: Catalogue, seed: int = 0, device: torch.device | str = "cpu") -> None:
        """Fits the masking to a catalogue; must be called before `draw`.

        Args:
            catalogue: of the items.
            seed: of the masking's own generator.
            device: where an encoder draws.

        Raises:
            ValueError: items have fewer than two features, the id counted.
        """
        names = item_feature_names(catalogue)
        if len(names) < 2:
            raise ValueError(
                f"{type(self).__name__} masks features of items, and schema `{catalogue.schema.name}` gives them none "
                "but their id: add features of the entity `item` to it"
            )
        self.names = names
        self.generator = torch.Generator(device).manual_seed(seed)

    @abc.abstractmethod
    def draw(self) -> tuple[View, View]:
        """The two views of the next batch."""

    def state_dict(self) -> dict[str, Any]:
        """State of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the draws from `state_dict()`."""
        self.generator.set_state(state["generator"].cpu())

    def _shuffled(self, names: tuple[str, ...]) -> list[str]:
        """The names in random order."""
        if not self.names:
            raise RuntimeError(f"{type(self).__name__}.setup(catalogue, seed) must be called before drawing")
        device = self.generator.device
        return [names[at] for at in torch.randperm(len(names), generator=self.generator, device=device).tolist()]


class RandomMasking(FeatureMasking):
    """Hides a random half of the features, rounded down, in one view.

    Args:
        complementary: hide in the other view what this one shows. False hides another random half there, so that some
            features, the id among them, may be visible in both, which makes them easy to match.
        value_dropout: of both views.
    """

    def __init__(self, complementary: bool = True, value_dropout: float = 0.2) -> None:
        super().__init__()
        self.complementary, self.value_dropout = complementary, _check_share("value_dropout", value_dropout)

    @override
    def draw(self) -> tuple[View, View]:
        order, half = self._shuffled(self.names), len(self.names) // 2
        other = order[half:] if self.complementary else self._shuffled(self.names)[:half]
        return _pair(order[:half], other, self.value_dropout)


class CorrelatedMasking(FeatureMasking):
    """Hides features that tell of each other together, so that neither view can guess the other's.

    Of k features, the id counted, the first view hides floor(k / 2) + 1 and the second one all others:

    - A seed, drawn uniformly from all k features, is always hidden in the first view.
    - So is the id: it goes with the larger side. It tells everything of every feature and so is in no ranking.
    - So are those with the highest normalised mutual information with the seed, until the number is reached. Where the
      id itself is the seed, they are drawn at random.

    With two features the second view would hide nothing: one of the two, drawn at random, is hidden in each.

    Args:
        value_dropout: of both views.
    """

    def __init__(self, value_dropout: float = 0.2) -> None:
        super().__init__()
        self.value_dropout = _check_share("value_dropout", value_dropout)

    @override
    def setup(self, catalogue: Catalogue, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().setup(catalogue, seed, device)
        self.correlation = feature_correlation(catalogue)

    @override
    def draw(self) -> tuple[View, View]:
        seed, *others = self._shuffled(self.names)
        if not others[1:]:
            return _pair([seed], others, self.value_dropout)
        assert self.correlation is not None
        if seed != ITEM_ID:
            others = [ITEM_ID, *self.correlation.ranked(seed)]
        companions = len(self.names) // 2
        return _pair([seed, *others[:companions]], others[companions:], self.value_dropout)


class DimensionMasking(FeatureMasking):
    """Hides no feature, but a random part of the dimensions of each, in both views independently.

    Args:
        rate: share of the dimensions that a view sets to 0.

    Source:
        Ouyang et al., "Contrastive Learning for Conversion Rate Prediction", SIGIR 2023 (embedding masking).
    """

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = _check_share("rate", rate)

    @override
    def draw(self) -> tuple[View, View]:
        return View(dim_dropout=self.rate), View(dim_dropout=self.rate)


def _pair(first: list[str], second: list[str], value_dropout: float) -> tuple[View, View]:
    """Two views that hide the given features."""
    return View(frozenset(first), value_dropout), View(frozenset(second), value_dropout)


def _check_share(name: str, share: float) -> float:
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {share}")
    return share
