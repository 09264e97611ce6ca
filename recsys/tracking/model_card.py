"""The card of a trained model: what it is, what it was judged on and how well it did, and what limits it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.documents.document import Document, Paragraph, Picture, Section
from recsys.documents.page import to_page
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.models.artefact import ArtefactError
from recsys.tracking.cards.judged import Group, groups_of
from recsys.tracking.cards.limits import GateVerdict, limits_section, use_section
from recsys.tracking.cards.markdown import to_markdown
from recsys.tracking.cards.origin import data_section, loading_section, model_section, training_section
from recsys.tracking.cards.results import coverage_section, protocol_section, results_section
from recsys.tracking.cards.saved_model import SavedModel
from recsys.tracking.cards.slices import calibration_section, slices_section
from recsys.tracking.cards.verdicts import gates_section
from recsys.tracking.files import write_whole
from recsys.tracking.mlflow_run import SMALL_BYTES
from recsys.tracking.run_folder import RunFolder

MARKDOWN, PAGE = "model_card.md", "model_card.html"
_NOT_EVALUATED = "Missing: the model was not evaluated; `recsys evaluate RUN --recompute` does it."


@dataclass(frozen=True)
class ModelCard:
    """A model card, to be read as Markdown or as a page.

    Attributes:
        document: what it says.
    """

    document: Document

    @classmethod
    def of(cls, run_folder: RunFolder, verdicts: Sequence[GateVerdict] = (), uri: str | None = None) -> ModelCard:
        """The card of the model of a run.

        All numbers are those of the evaluations, calibration and record in its folder. What is not there is said to be
        missing.

        Args:
            run_folder: of the run.
            verdicts: of the gates that judged the model.
            uri: of the model in MLflow, such as `models:/shop/3`, to say how it is loaded; None: from the folder.

        Raises:
            RunError: the folder holds no run.
            EvaluationError: an evaluation is damaged, or the evaluation set.
        """
        record, saved = run_folder.record, _saved(run_folder)
        groups = groups_of(run_folder.evaluations(of_any=True), record.model)
        pictures = _Pictures(run_folder)
        sections = [
            *([gates_section(verdicts)] if verdicts else []),
            model_section(record, saved),
            data_section(record, saved, _evaluation_set(run_folder)),
            protocol_section(groups, _NOT_EVALUATED),
            *_judgement(run_folder, groups, pictures),
            use_section(record, groups, saved),
            limits_section(record, groups, saved, verdicts),
            loading_section(run_folder, uri),
            training_section(run_folder, pictures.rest()),
        ]
        return cls(Document(f"{record.model} on {record.data['name']}", tuple(sections)))

    def markdown(self) -> str:
        """GitHub Markdown of fewer than 5,000 characters, as the description of a model version."""
        return to_markdown(self.document, PAGE)

    def html(self) -> str:
        """One page that needs no other file, small enough to be logged with the small files of a run."""
        return to_page(self.document, SMALL_BYTES)

    def write(self, folder: Path) -> None:
        """Writes `model_card.md` and `model_card.html`, each under a temporary name first.

        Args:
            folder: where to.
        """
        for name, text in ((MARKDOWN, self.markdown()), (PAGE, self.html())):
            write_whole(folder / name, text)


def leave_card(run_folder: RunFolder) -> None:
    """Writes the card of a run into its folder, in place of the one that is there.

    A card that cannot be made costs a warning, and never the run that it is to describe.

    Args:
        run_folder: of the run.
    """
    run_folder = RunFolder(run_folder.path)  # which has not read an older record
    try:
        ModelCard.of(run_folder).write(run_folder.path)
    except Exception as error:
        warnings.warn(f"{run_folder.path}: no model card could be made: {error}", stacklevel=2)


class _Pictures:
    """The pictures of a run, each of which is taken once."""

    def __init__(self, folder: RunFolder):
        self._left = sorted((folder.path / "plots").glob("*.png"))

    def take(self, prefix: str) -> list[Picture]:
        """Those whose names begin so."""
        found = [path for path in self._left if path.name.startswith(prefix)]
        self._left = [path for path in self._left if path not in found]
        return [Picture(path.stem.replace("_", " ").capitalize(), path) for path in found]

    def rest(self) -> list[Picture]:
        """Those that nobody took."""
        return self.take("")


def _saved(folder: RunFolder) -> SavedModel | str:
    try:
        return SavedModel.read(folder.model)
    except ArtefactError as error:
        return str(error)


def _evaluation_set(folder: RunFolder) -> EvaluationSet | None:
    return EvaluationSet.load(folder.evaluation_set) if folder.evaluation_set.is_dir() else None


def _judgement(folder: RunFolder, groups: Sequence[Group], pictures: _Pictures) -> list[Section]:
    missing = (Paragraph((_NOT_EVALUATED,)),)
    if not groups:
        return [Section("Results", missing), Section("Slices", missing), Section("Coverage", missing)]
    return [
        results_section(groups, pictures.take("scores")),
        slices_section(groups, pictures.take("recall_by_popularity")),
        coverage_section(groups),
        calibration_section(folder, pictures.take("calibration")),
    ]
