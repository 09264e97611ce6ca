"""A card says what the files of its run say, in HTML and Markdown that data cannot break out of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from recsys.documents.document import LEAST, Document, Facts, Paragraph, Picture, Points, Section, Strong, Table
from recsys.documents.page import to_page
from recsys.evaluation.result import Evaluation, compare_evaluations
from recsys.evaluation.slices import by_history_length, recall_by_group
from recsys.tracking import model_card
from recsys.tracking.cards.markdown import escaped, to_markdown
from recsys.tracking.cards.verdicts import with_verdicts
from recsys.tracking.mlflow_run import SMALL_BYTES
from recsys.tracking.model_card import PAGE, ModelCard, leave_card
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from tests.cli.conftest import make_run, make_search_run
from tests.documents.pages import EVIL, Page, rendered


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_search_run(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def run(plain: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that may be changed."""
    shutil.copytree(plain.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def change(run: RunFolder, **changed) -> RunFolder:
    """The run with another record."""
    content = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(content | changed))
    return RunFolder(run.path)


def verdict(name: str, outcome: str, sentence: str, limit: str = "") -> SimpleNamespace:
    return SimpleNamespace(name=name, outcome=outcome, sentence=sentence, limit=limit)


def table(page: Page, start: str) -> dict[str, list[str]]:
    """Rows of the table whose caption, or first row, begins so, by their first cell."""
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith(start))
    return {row[0]: row[1:] for row in rows}


def loaded(run: RunFolder) -> dict[tuple[str, str | None], Evaluation]:
    found = [Evaluation.load(folder) for folder in (run.path / "evaluation").iterdir()]
    return {(evaluation.model, evaluation.facts["task"]): evaluation for evaluation in found}


@pytest.mark.parametrize("of", ["html", "markdown"])
def test_numbers_are_those_of_the_files(searched: RunFolder, of: str) -> None:
    card = ModelCard.of(searched)
    page = Page(card.html()) if of == "html" else rendered(card.markdown())
    files = loaded(searched)
    assert {task for _, task in files} == {"search", "recommendation"}
    found = {}
    for rows in page.tables.values():
        if rows[0] == ["model", "HR@5", "NDCG@5", "Coverage@5"]:
            found[len(found)] = {row[0]: row[1:] for row in rows[1:]}
    assert len(found) == 2
    for task, rows in zip(("recommendation", "search"), found.values(), strict=True):
        assert list(rows) == ["SynerGen", "SynerGen-ranked", "LexicalBM25"]
        for model, cells in rows.items():
            evaluation = files[model, task]
            means, intervals = evaluation.means(), evaluation.summary()
            half = {name: (intervals[name].high - intervals[name].low) / 2 for name in ("HR@5", "NDCG@5")}
            assert cells == [
                *(f"{means[name]:.4f} ±{half[name]:.4f}" for name in ("HR@5", "NDCG@5")),
                f"{means['Coverage@5']:.4f}",
            ]
        apart = compare_evaluations(files["LexicalBM25", task], files["SynerGen", task])["NDCG@5"].difference
        says = rf"{task}, SynerGen: (\S+) \((\S+) to (\S+)\) against LexicalBM25: (.+)\."
        (line,) = (found for line in page.text.splitlines() if (found := re.fullmatch(says, line)))
        assert line[1] == f"{apart.mean:+.4f}"
        width = apart.high - apart.low  # the bootstrap draws anew where other metrics come along
        assert [float(line[2]), float(line[3])] == pytest.approx([apart.low, apart.high], abs=0.05 * width)
        assert line[4] == ("worse" if apart.high < 0 else "better" if apart.low > 0 else "no difference is shown")


def test_details_and_slices_are_those_of_the_files(searched: RunFolder) -> None:
    page, files = Page(ModelCard.of(searched).html()), loaded(searched)
    overview = table(page, "SynerGen, with 95 % intervals")
    for column, task in enumerate(("recommendation", "search")):
        own, best = files["SynerGen", task], files["LexicalBM25", task]
        metrics = table(page, f"{task.capitalize()}: every metric of SynerGen;")
        assert {name: cells[0] for name, cells in metrics.items()} == {"metric": "value"} | {
            name: f"{value:.4f}" for name, value in own.means().items()
        }
        for name, interval in own.summary().items():
            assert metrics[name][1:] == [f"{interval.low:.4f}", f"{interval.high:.4f}"]
        compared = table(page, f"{task.capitalize()}: differences to LexicalBM25")
        every = compare_evaluations(best, own)
        names = [name for name in every if name.startswith(("HR", "NDCG", "MRR", "Recall"))]
        assert len(names) == 8 and [row for row in compared if row.startswith("SynerGen,")] == [
            f"SynerGen, {name}" for name in names
        ]
        for name in names:
            apart, cells = every[name], compared[f"SynerGen, {name}"]
            difference = apart.difference
            assert cells[:3] == [f"{apart.second:.4f}", f"{apart.first:.4f}", f"{difference.mean:+.4f}"]
            assert [float(cell) for cell in cells[3:5]] == pytest.approx(
                [difference.low, difference.high], abs=0.05 * (difference.high - difference.low)
            )
            assert float(cells[5]) == pytest.approx(apart.p_value, abs=0.02)
        for frame, title in (
            (recall_by_group(own, 5), "{} items, Recall@5"),
            (by_history_length(own, "NDCG@5"), "{} events, NDCG@5"),
        ):
            for name, number, value, low, high in frame.itertuples(index=False):
                cell = overview[title.format(name)][column]
                assert cell == ("fewer than 20" if number < 20 else f"{value:.3f} ({low:.3f}-{high:.3f})")
                says = f"{task}, {title.partition(',')[0].format(name)} ({number})"
                assert (says in page.text) == (number < 20)


def test_facts_of_the_model(plain: RunFolder) -> None:
    page, record = Page(ModelCard.of(plain).html()), plain.record
    size = sum(path.stat().st_size for path in plain.model.iterdir())
    assert f"{size / 2**20:,.1f} MiB" in page.text
    from recsys.models.artefact import load_model

    assert f"{sum(tensor.numel() for tensor in load_model(plain.model).state().values()):,} numbers" in page.text
    for said in (
        "recsys.models.synergen.SynerGen",
        record.data["fingerprint"],
        record.split["hash"],
        "evaluation setmissing",
        f"{record.split['facts']['train_events']:,} events",
        record.started,
        record.versions["torch"],
        "everything 0",
        "no gate has judged this model",
        "leakage: leave_last_out_strict cuts at no moment in time",
        "items are known by their ids alone",
        "one training: intervals cover the draw of users",
        "calibration\nnot measured",
    ):
        assert said.lower() in page.text.lower(), said


def test_one_page_without_anything_from_outside(searched: RunFolder) -> None:
    card = ModelCard.of(searched)
    page = card.html()
    parsed = Page(page)
    sources = [value for name, value in parsed.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe", "a", "base"} & set(parsed.elements)
    assert not re.search(r"url\(|@import|https?:", page)
    assert parsed.elements.count("h1") == 1 and parsed.elements.count("h2") == len(card.document.sections)
    assert parsed.elements.count("caption") == parsed.elements.count("table")
    assert "prefers-color-scheme: dark" in page
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]


@pytest.mark.parametrize("of", ["html", "markdown"])
def test_data_stay_data(run: RunFolder, of: str) -> None:
    record = run.record
    run = change(
        run, name=EVIL, data=record.data | {"name": EVIL}, command=["recsys", EVIL], status="finished",
        split=record.split | {"rule": EVIL}, seeds={EVIL: 1}, mlflow=None,
    )  # fmt: skip
    card = ModelCard.of(run, [verdict(EVIL, "refused", EVIL, EVIL)])
    page = Page(card.html()) if of == "html" else rendered(card.markdown())
    shown = " ".join(EVIL.split())
    assert page.text.count(shown) >= 5
    assert shown in page.text.splitlines()[0 if of == "markdown" else -1] or f"SynerGen on {shown}" in page.text
    assert not {"script", "a", "em", "s"} & set(page.elements)
    (rows,) = (rows for rows in page.tables.values() if rows[0] == ["gate", "verdict", "finding"])
    assert rows[1] == [shown, "refused", shown]


def test_every_part_of_a_document_is_escaped() -> None:
    blocks = (
        Paragraph((EVIL, Strong(EVIL))),
        Points(((EVIL,),)),
        Facts(((EVIL, (EVIL,)),)),
        Table(EVIL, ("a", EVIL), ((EVIL, Strong(EVIL)),)),
    )
    document = Document(EVIL, (Section(EVIL, blocks),))
    for page in (Page(to_page(document, SMALL_BYTES)), rendered(to_markdown(document, "page.html"))):
        assert page.text.count(EVIL) >= 10
        assert not {"script", "a", "em", "s"} & set(page.elements)
        (rows,) = page.tables.values()
        assert rows == [["a", EVIL], [EVIL, EVIL]]
    assert escaped("# not a heading\n\nnor a paragraph") == "&#35; not a heading nor a paragraph"
    assert escaped("leave_last_out") == "leave_last_out"


def test_what_is_missing_is_said_to_be_missing(run: RunFolder) -> None:
    for part in ("evaluation", "model"):
        shutil.rmtree(run.path / part)
    content = json.loads((run.path / "run.json").read_text())
    run = change(run, git=None, usage={}, versions={}, status="failed", data=content["data"] | {"facts": {}})
    card = ModelCard.of(run)
    for page in (Page(card.html()), rendered(card.markdown())):
        for said in (
            "the model was not evaluated",
            "no complete model here",
            "not made in a checkout",
            "events missing",
            "The run is failed",
            "revision of the code is not known",
        ):
            assert said in page.text, said
    assert "s of training: missing" in Page(card.html()).text


def test_a_damaged_model_is_said_to_be_damaged(run: RunFolder) -> None:
    (run.model / "weights.safetensors").write_bytes(b"w")
    assert "model: damaged" in ModelCard.of(run).markdown()


def test_limits_follow_the_facts(run: RunFolder) -> None:
    split = json.loads((run.path / "run.json").read_text())["split"]
    assert "Leakage" in ModelCard.of(run).markdown()
    run = change(run, split=split | {"facts": split["facts"] | {"first_cut": 1, "second_cut": 2}})
    assert "Leakage" not in ModelCard.of(run).markdown()
    shutil.rmtree(run.evaluation("Popularity"))
    text = ModelCard.of(run).markdown()
    assert "No baseline stands beside the model: all requests." in text
    assert "there is no baseline to compare with" in text


def test_models_that_cannot_be_compared_stand_side_by_side(run: RunFolder) -> None:
    place = run.evaluation("Popularity") / "evaluation.json"
    content = json.loads(place.read_text())
    place.write_text(json.dumps(content | {"facts": content["facts"] | {"top": 7}}))
    page = Page(ModelCard.of(run).html())
    assert "SynerGen: Popularity and SynerGen cannot be compared: top is 7 and 20." in page.text.replace("`", "")
    assert table(page, "All requests: ±").keys() == {"model", "SynerGen", "Popularity"}
    assert not [caption for caption in page.tables if "differences" in caption]


def test_gates_and_the_way_to_load_it(plain: RunFolder) -> None:
    given = [
        verdict("superiority", "passed", "NDCG@10 +0.0100", "at least +0.0020"),
        verdict("size", "refused", "9 MiB", "5 MiB"),
        verdict("off_policy", "not run", "no log of bandits is given"),
    ]
    card = ModelCard.of(plain, given, uri="models:/shop/3")
    text = card.markdown()
    rows = table(rendered(text), "gate verdict")
    assert rows["superiority"] == ["passed", "NDCG@10 +0.0100"]
    assert rows["size"] == ["refused", "9 MiB"]
    assert table(Page(card.html()), "What the gates demand")["superiority"] == ["at least +0.0020"]
    assert "Gates that were not run, or found nothing out: off_policy." in text
    assert "No gate" not in text
    assert 'mlflow.pyfunc.load_model("models:/shop/3")' in text
    assert 'Bundle.load("run/model")' in ModelCard.of(plain).markdown()


def test_verdicts_are_put_into_a_card_that_is_there(searched: RunFolder) -> None:
    """The same comes of it as if they had been known when it was made."""
    given = [verdict("size", "refused", "9 | 5 MiB", "5 MiB"), verdict("off_policy", "not run", "no log")]
    older = [verdict("load_test", "error", "it died", "")]

    def card(*verdicts: list[SimpleNamespace], limit: int = 100_000) -> str:
        return to_markdown(ModelCard.of(searched, *verdicts).document, PAGE, limit)

    assert with_verdicts(card(), given, PAGE, 100_000) == card(given)
    assert with_verdicts(card(older), given, PAGE, 100_000) == card(given)
    assert with_verdicts(card(given), older[:0], PAGE, 100_000).count("No gate has judged this model.") == 1

    long = [verdict(f"gate_{number}", "passed", "x" * 300) for number in range(9)]
    short = ModelCard.of(searched).markdown()
    text = with_verdicts(short, long, PAGE)
    assert len(text) <= 5000 and len(table(rendered(text), "gate verdict")) == 10
    assert "\n## Results\n" in text and "\n## Limits\n" in text and "No gate" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("Left out for length"))
    titles = [section.title for section in ModelCard.of(searched).document.sections]
    gone = {title for title in titles if f"\n## {title}\n" not in text}
    assert gone and set(line.partition(": ")[2].rstrip(".").split(", ")) == gone
    assert with_verdicts(text, long, PAGE) == text
    assert with_verdicts("mine", given, PAGE).startswith("mine\n\n## Gates\n\nVerdicts:\n\n| gate")
    assert "## Gates" not in with_verdicts("mine", long * 9, PAGE)


def test_calibration(run: RunFolder) -> None:
    error = {"before": 0.5, "after": 0.00025, "base_rate": 0.001}
    run.save_calibration({"platt": {"scale": 2.5, "offset": -1.5}, "expected_calibration_error": error})
    text = Page(ModelCard.of(run).html()).text
    assert "5.00e-01 as learned, 2.50e-04 calibrated (base rate 1.00e-03)" in text
    assert "scale 2.5000, offset -1.5000" in text


@pytest.mark.parametrize(("gates", "length"), [(0, 0), (12, 120), (60, 290)])
def test_markdown_is_what_mlflow_keeps(searched: RunFolder, gates: int, length: int) -> None:
    given = [verdict(f"gate {number}", "passed", "x" * length) for number in range(gates)]
    text = ModelCard.of(searched, given).markdown()
    assert len(text) <= 5000
    parsed = rendered(text)
    left_out = {
        line for line in text.splitlines() if line.startswith("Left out for length, and found in `model_card.h")
    }
    names = [section.title for section in ModelCard.of(searched, given).document.sections]
    shown = [name for name in names if f"\n## {name}\n" in text]
    assert bool(left_out) == (shown != names)
    assert {"Results", "Limits"} <= set(shown)
    assert ("Gates" in shown) == (gates == 12), "60 long ones have no room"
    if gates == 12:
        assert len(table(parsed, "gate verdict")) == gates + 1


def test_long_tables_are_cut_before_sections_are(searched: RunFolder) -> None:
    rows = tuple((f"model {number}", "0.1234 ±0.0123") for number in range(40))
    needed = Section("Results", (Table("all", ("model", "HR"), rows),))
    more = (Section("Further", (Paragraph(("y" * 300,)),), rank=LEAST), Section("Limits", (Paragraph(("few",)),)))
    document = Document("title", (needed, *more))
    whole = to_markdown(document, "page.html", 900)
    assert "28 more in `page.html`." in whole and "## Further" in whole and "## Limits" in whole
    short = to_markdown(document, "page.html", 500)
    assert "## Limits" in short and "Left out for length, and found in `page.html`: Further." in short
    assert len(whole) <= 900 and len(short) <= 500


def test_pictures_are_shown_as_long_as_there_is_room(run: RunFolder) -> None:
    plots = run.path / "plots"
    plots.mkdir()
    sizes = {"scores.png": 300_000, "recall_by_popularity.png": 600_000, "learning_curves.png": 300_000}
    for name, size in sizes.items():
        (plots / name).write_bytes(b"\x89PNG" + b"\0" * size)
    page = ModelCard.of(run).html()
    parsed = Page(page)
    assert len(page.encode()) <= SMALL_BYTES
    shown = [value for name, value in parsed.attributes if name == "alt"]
    assert shown == ["Scores", "Learning curves"]
    assert "Recall by popularity: left out for size, see plots/recall_by_popularity.png" in parsed.text


def test_a_picture_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0")
    document = Document("t", (Section("s", (), (Picture('"><script>', tmp_path / "a.png"),)),))
    page = Page(to_page(document, SMALL_BYTES))
    assert ("src", "data:image/png;base64,iVBORwA=") in page.attributes
    assert ("alt", '"><script>') in page.attributes and "script" not in page.elements


def test_it_is_left_in_the_folder_and_never_costs_the_run(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.record.status == "finished"
    change(run, status="interrupted")
    leave_card(run)  # which had read the record before
    card = ModelCard.of(RunFolder(run.path))
    assert "interrupted" in card.markdown()
    assert (run.path / "model_card.md").read_text() == card.markdown()
    assert (run.path / "model_card.html").read_text() == card.html()
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]

    def fails(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(model_card.ModelCard, "of", fails)
    with pytest.warns(UserWarning, match="no model card could be made: no room"):
        leave_card(run)


def test_records_of_other_jobs_need_no_monitor(run: RunFolder) -> None:
    run.save_history(validation=[{"epoch": 0, "NDCG@10": 0.1}, {"epoch": 1, "NDCG@10": 0.3}])
    assert "2 validated" in Page(ModelCard.of(run).html()).text
    record = RunRecord.read(run.path)
    run = change(run, config=record.config | {"job": {"monitor": "val/NDCG@10"}})
    assert "2 validated, the best one the 2. by NDCG@10 (0.3000)" in Page(ModelCard.of(run).html()).text
