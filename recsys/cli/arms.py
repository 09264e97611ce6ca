"""The arms of a comparison: saved models and what needs none, as policies of a world."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.candidates.models import ModelFiles, find_model
from recsys.tracking.record import RUN, RunError
from recsys.tracking.run_folder import RunFolder

if TYPE_CHECKING:
    from recsys.features.event_log import EventLog
    from recsys.simulation.comparison.population import Population
    from recsys.simulation.world.policy import Policy
    from recsys.tracking.bundle import Bundle

POPULARITY, ORACLE = "popularity", "oracle"
MADE = {
    POPULARITY: "the items with the most events of the log, the same for everybody",
    ORACLE: "ranks by the truth of the simulated world, which no real model knows: the most that can be gained",
}
"""Arms that are no saved model, and what they are."""


class ArmError(ValueError):
    """Arms that cannot be compared; the message names which and the remedy."""


@dataclass(frozen=True)
class Arm:
    """A policy by name.

    Attributes:
        name: in tables.
        source: as it was given.
        files: of the saved model; None: it needs none.
        bundle: the model; None likewise.
    """

    name: str
    source: str
    files: ModelFiles | None = None
    bundle: Bundle | None = None

    @property
    def described(self) -> str:
        """What it is, for people."""
        if self.files is None or self.bundle is None:
            return MADE[self.source]
        return f"{type(self.bundle.model).__name__} {self.files.version}, of {self.source}"

    def policy(self, population: Population, log: EventLog) -> Policy:
        """Shows the best items that a user has not had."""
        from recsys.models.popularity import Popularity
        from recsys.simulation.world.fitted import popularity_of
        from recsys.simulation.world.latent_model import LatentModel
        from recsys.simulation.world.policy import Policy

        if self.bundle is None:
            if self.source == ORACLE:
                return Policy(LatentModel.of(population.world.preferences))
            return Policy(Popularity.from_state({}, {"popularity": popularity_of(log)}))
        bundle = self.bundle
        ids = population.ids(log, bundle.items, bundle.model.n_items, bundle.users)
        return Policy(bundle.model, ids=ids, max_length=bundle.max_length)


def read_arms(words: Sequence[str]) -> list[Arm]:
    """Loads arms: `popularity`, `oracle`, folders of runs or models, `models:/NAME@ALIAS`; `NAME=ARM` gives it a name.

    Raises:
        ArmError: there is one alone, or two have the same name.
        JobError: there is no such model.
        RunError: a run has saved no model.
    """
    from recsys.tracking.bundle import Bundle

    if len(words) < 2:
        raise ArmError("name two arms at least: the champion, then its challengers")
    arms = []
    with tempfile.TemporaryDirectory() as downloads:
        for word in words:
            given, at, source = word.partition("=")
            if not at:
                given, source = "", word
            if source in MADE:
                arms.append(Arm(given or source, source))
                continue
            files = find_model(source, Path(downloads))
            bundle = Bundle.load(files.folder)
            arms.append(Arm(given or type(bundle.model).__name__, source, files, bundle))
    names = [arm.name for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ArmError(f"two arms are called `{twice[0]}`; give them names, such as `old=RUN new=RUN`")
    return arms


def log_of(arms: Sequence[Arm], folder: str | None) -> EventLog:
    """The log whose users take part: the one that is named, else that of the first arm that is a run.

    Raises:
        ArmError: no arm is a run, and no log is named.
        RunError: the log is gone.
    """
    from recsys.features.event_log import EventLog
    from recsys.features.log_files import MANIFEST

    if folder is not None:
        if not (Path(folder) / MANIFEST).is_file():
            raise RunError(f"{folder}: no prepared log here; `recsys prepare` makes one and prints its folder")
        return EventLog.open(Path(folder))
    for arm in arms:
        if arm.files is not None and (Path(arm.source) / RUN).is_file():
            return RunFolder(Path(arm.source)).log()
    raise ArmError("no arm is the folder of a run, so name the prepared log whose users take part: --log FOLDER")
