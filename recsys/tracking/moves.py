"""Moves of the alias `champion`, as the registry remembers them: who, when, why, and what stood before.

A move is written before the aliases are, and marked as done after them. Where a process dies in between, whoever comes
next finds the move and settles it: it is completed if the champion has changed already, else the aliases are put back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from recsys.tracking.registry_calls import RegistryError

PREFIX = "recsys.move."
"""Tags of a registered model that hold its moves."""


@dataclass(frozen=True)
class Move:
    """One move.

    Attributes:
        number: from 1.
        kind: what it is.
        champion: the version that becomes the champion.
        replaced: the champion before; None: there was none.
        previous_before: what `previous` pointed to before.
        previous: what it points to afterwards; None: to nothing, so there is no such alias.
        by: who.
        at: UTC, ISO 8601.
        because: why.
        state: whether the aliases follow it: `begun` until they do, `undone` where they never will.
    """

    number: int
    kind: Literal["promotion", "rollback"]
    champion: str
    replaced: str | None
    previous_before: str | None
    previous: str | None
    by: str
    at: str
    because: str | None = None
    state: Literal["begun", "done", "undone"] = "begun"

    @property
    def key(self) -> str:
        """Name of its tag; names sort by number."""
        return f"{PREFIX}{self.number:08d}"

    def text(self) -> str:
        """Value of its tag."""
        # A reason in any script takes as many characters as it has: MLflow keeps 5,000 of a tag.
        return json.dumps({key: value for key, value in asdict(self).items() if key != "number"}, ensure_ascii=False)


def moves_of(tags: Mapping[str, str]) -> list[Move]:
    """The moves among the tags of a registered model, oldest first.

    Raises:
        RegistryError: such a tag holds something else.
    """
    moves = []
    for key in sorted(key for key in tags if key.startswith(PREFIX)):
        try:
            moves.append(Move(number=int(key.removeprefix(PREFIX)), **json.loads(tags[key])))
        except (ValueError, TypeError) as error:
            raise RegistryError(
                f"tag `{key}` of the registered model is no move ({error}); delete it in MLflow"
            ) from None
    return moves


def below(moves: Sequence[Move], champion: str, living: Collection[str]) -> str | None:
    """What was the champion before `champion` last became it by a promotion that stands; None: nothing.

    Promotions pile champions up, a rollback takes the topmost off. Versions that were deleted are passed over.

    Args:
        moves: oldest first.
        champion: a version.
        living: versions that exist.

    Example:
        >>> def promoted(number, new, old):
        ...     return Move(number, "promotion", new, old, None, old, "me", "now", state="done")
        >>> below([promoted(1, "1", None), promoted(2, "2", "1"), promoted(3, "3", "2")], "2", {"1", "2"})
        '1'
    """
    pile: list[str] = []
    for move in moves:
        if move.state != "done":
            continue
        if move.kind == "rollback":
            while pile and pile[-1] != move.champion:
                pile.pop()
        else:
            if move.replaced is not None and (not pile or pile[-1] != move.replaced):
                pile.append(move.replaced)  # made champion by other means than these moves
            pile.append(move.champion)
    while pile and pile[-1] != champion:
        pile.pop()
    return next((version for version in reversed(pile[:-1]) if version in living), None)
