"""What users like: the true chance that an item is relevant to a user, on a day."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.simulation.world.seeds import generator


@dataclass(frozen=True)
class Preferences:
    """Relevance is `sigmoid(<user, item> + user bias + item bias)`, and tastes turn over the days.

    The vector of a user on day t is `cos(drift t) own + sin(drift t) other`, where the other one is that of a partner,
    the same for all days. Users of all tastes are then as many as before, whatever the day.

    Attributes:
        users: `[n_users + 1, d]` float32; row 0 stands for nobody.
        items: `[n_items + 1, d]` float32; row 0 is padding.
        user_bias: `[n_users + 1]` float32, logits.
        item_bias: `[n_items + 1]` float32, logits.
        popularity: `[n_items + 1]` float32, how much an item was shown and consumed so far; 0 for padding.
        partner: `[n_users + 1]` int64, the user to whose taste each one turns.
        drift: angle in radians by which tastes turn each day; 0: they stay.
    """

    users: Tensor
    items: Tensor
    user_bias: Tensor
    item_bias: Tensor
    popularity: Tensor
    partner: Tensor
    drift: float = 0.0

    @property
    def n_users(self) -> int:
        """Number of users, nobody excluded."""
        return len(self.users) - 1

    @property
    def n_items(self) -> int:
        """Size of the catalogue, padding excluded."""
        return len(self.items) - 1

    def tastes(self, users: Tensor, day: float = 0.0) -> Tensor:
        """The vectors of users `[n]` int64 on a day, `[n, d]` float32."""
        if not self.drift or not day:
            return self.users[users]
        angle = self.drift * day
        return math.cos(angle) * self.users[users] + math.sin(angle) * self.users[self.partner[users]]

    def relevance(self, users: Tensor, items: Tensor, day: float = 0.0) -> Tensor:
        """True relevance of items to users.

        Args:
            users: `[n]` int64.
            items: `[n, L]` int64; 0 is relevant to nobody.
            day: days since the world began.

        Returns:
            `[n, L]` float32 chances.
        """
        product = torch.bmm(self.items[items], self.tastes(users, day).unsqueeze(2)).squeeze(2)
        chance = torch.sigmoid(product + self.item_bias[items] + self.user_bias[users].unsqueeze(1))
        return chance.masked_fill_(items == 0, 0.0)

    def shifted(self, logit: float) -> Preferences:
        """With another logit added to relevance, of all users and items."""
        return replace(self, user_bias=self.user_bias + logit)

    def as_popular_as(self, popularity: Tensor) -> Preferences:
        """With its items under other ids, so that they are as popular as those of a catalogue, rank by rank.

        Args:
            popularity: `[n_items + 1]` float32 of the catalogue; equals keep the order of their ids.
        """
        rows = torch.zeros(len(popularity), dtype=torch.int64)
        rows[_by_popularity(popularity)] = _by_popularity(self.popularity)
        return replace(self, items=self.items[rows], item_bias=self.item_bias[rows], popularity=popularity)


def _by_popularity(popularity: Tensor) -> Tensor:
    return popularity[1:].argsort(descending=True, stable=True) + 1


def partners(n_users: int, seed: int) -> Tensor:
    """Another user for each, `[n_users + 1]` int64: a random circle through all of them; 0 for 0."""
    order = torch.randperm(n_users, generator=generator(seed, "partners")) + 1
    found = torch.zeros(n_users + 1, dtype=torch.int64)
    found[order] = order.roll(1)
    return found


def planted(
    n_users: int,
    n_items: int,
    *,
    width: int = 16,
    taste: float = 1.5,
    appeal: float = 1.0,
    level: float = -2.0,
    skew: float = 1.0,
    agreement: float = 0.5,
    drift: float = 0.0,
    seed: int = 0,
) -> Preferences:
    """Preferences from normal factors, with items whose popularity falls by a power of their rank.

    Args:
        n_users: number of users.
        n_items: size of the catalogue.
        width: number of factors.
        taste: standard deviation of `<user, item>`, over users and items.
        appeal: standard deviation of the item biases.
        level: mean logit of relevance.
        skew: the popularity of rank r is `r^-skew`; 0: all items are as popular.
        agreement: correlation of the normal scores behind popularity with the item biases: at 1 what is popular is what
            everybody likes, at 0 it has nothing to do with it.
        drift: as in `Preferences`.
        seed: of everything.

    Raises:
        ValueError: a size is not positive, or the agreement lies outside -1..1.

    Example:
        >>> preferences = planted(3, 5, seed=1)
        >>> preferences.relevance(torch.tensor([1, 2]), torch.tensor([[1, 5], [2, 0]])).shape
        torch.Size([2, 2])
    """
    for name, size in (("n_users", n_users), ("n_items", n_items), ("width", width)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
    if not -1 <= agreement <= 1:
        raise ValueError(f"agreement is a correlation between -1 and 1, not {agreement}")
    random = generator(seed, "preferences")
    scale = math.sqrt(taste / math.sqrt(width))
    users = scale * torch.randn(n_users + 1, width, generator=random)
    items = scale * torch.randn(n_items + 1, width, generator=random)
    liked, luck = torch.randn(2, n_items + 1, generator=random)
    fame = agreement * liked + math.sqrt(1 - agreement**2) * luck
    popularity = torch.zeros(n_items + 1)
    popularity[fame[1:].argsort(descending=True) + 1] = torch.arange(1.0, n_items + 1) ** -skew
    users[0], items[0] = 0, 0
    bias = torch.full((n_users + 1,), level)
    return Preferences(users, items, bias, appeal * liked, popularity, partners(n_users, seed), drift)
