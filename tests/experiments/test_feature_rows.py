"""The study of self-supervised terms: its rows as jobs, what is gathered of them, and how it is shown."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report
import yaml
from _comparisons import Finished, with_comparisons
from _feature_results import recall_by_row, with_groups
from _report_ssl import draw
from _results import gather, over_runs, write
from _row import FEATURE_DATASETS, FRACTIONS, STRICT, Row
from _rows import selected
from _rows_ssl import EPOCHS, METHODS, MODELS
from _runs import Run

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.exposure import GROUPS, group_of_events
from recsys.features.fraction import Fraction
from recsys.features.masking import CorrelatedMasking, DimensionMasking, RandomMasking
from recsys.features.prepare import prepare
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.als import ALS
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.usage import Work
from tests.experiments.test_report import cells, shown

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2)


@pytest.mark.parametrize("dataset", FEATURE_DATASETS)
def test_every_method_stands_beside_the_base_of_its_model_at_each_share(dataset: str) -> None:
    recipe = yaml.safe_load((ROOT / "experiments" / f"{dataset}.yaml").read_text())
    assert recipe["data"]["dataset"] == dataset
    assert (recipe["trainer"]["max_epochs"], recipe["job"]["patience"]) == EPOCHS[dataset]
    for protocol, share in {STRICT: 1.0, **FRACTIONS}.items():
        table = selected(dataset, protocol)
        assert [row.model for row in table] == [f"{model}_{method}" for model in MODELS for method in METHODS]
        for row in table:
            model = next(model for model in MODELS if row.model.startswith(model))
            assert row.against == (() if row.model == f"{model}_base" else (f"{model}_base",))
            epochs = row.settings.get("trainer.max_epochs", EPOCHS[dataset][0])
            assert epochs * share == EPOCHS[dataset][0], "as many steps, whatever the share"
            rarer = round(1 / share) * recipe.get("validation", {}).get("every_n_epochs", 1)
            for group in ("validation", "diagnostics"):
                assert row.settings.get(f"{group}.every_n_epochs", rarer) == rarer


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a tiny `amazon_beauty`."""
    folder = tmp_path_factory.mktemp("shop")
    random, words = np.random.default_rng(0), np.array(["red", "soap", "oil", "balm"])
    (folder / "amazon_beauty").mkdir()
    events = pd.DataFrame({"user_id": np.repeat(np.arange(40), 6), "item_id": random.integers(0, 60, 240)})
    events["timestamp"] = events["position"] = np.arange(240)
    events.to_parquet(folder / "amazon_beauty/interactions.parquet")
    items = pd.DataFrame({"item_id": range(60), "attributes": random.integers(0, 9, (60, 4)).tolist()})
    items["text_id"] = [" ".join(random.choice(words, 2)) for _ in range(60)]
    items.to_parquet(folder / "amazon_beauty/items.parquet")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_jobs_that_add_what_they_say(
    model: str, method: str, shop: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from recsys.cli.fit_job import FitCLI

    monkeypatch.chdir(shop)
    monkeypatch.setenv("RECSYS_DATA", str(shop))
    (row,) = selected("amazon_beauty_features", "leave_last_out_tenth", f"{model}_{method}")
    words = Run(row, 1, tmp_path).command(resume=False)
    words = words[words.index("fit") + 1 :]
    words[1] = str(ROOT / words[1])
    cli = FitCLI(args=words)
    rule = cli.datamodule.rule
    assert isinstance(rule, Fraction) and isinstance(rule.rule, LeaveLastOut) and rule.share == 0.1
    network, objective = cli.model.make_network(cli.datamodule.catalogue), cli.model.objective
    assert type(network).__name__ == {"two_tower": "TwoTower", "synergen": "SynerGen"}[model]
    hiding = {"maskable": True, "hide_untrained_ids": True}
    hiding["feature_dropout"] = 0.2 if method == "feature_dropout" else 0.0
    assert {name: network.hyperparameters[name] for name in hiding} == hiding
    main = objective
    if method in ("base", "feature_dropout"):
        assert not isinstance(objective, WithAuxiliary)
    else:
        assert isinstance(objective, WithAuxiliary)
        main, (term,) = objective.main, objective.active
        assert (term.weight, term.items.n) == (0.3, 1024)
        assert term.name == ("spread_out" if method == "spread_out" else "feature_masking")
        masking = {"rfm": RandomMasking, "cfm": CorrelatedMasking, "cfm_later": DimensionMasking}
        if method in masking:
            assert type(term.masking) is masking[method]
            assert term.eliminate_overlap == (0.8 if method == "cfm_later" else None)
    assert (main.loss.temperature, main.negatives.n, main.negatives.corrected) == (0.07, 1024, True)
    assert cli.config_init.diagnostics.every_n_epochs == cli.config_init.validation.every_n_epochs == 10
    assert (cli.trainer.max_epochs, cli.config_init.job.patience) == (120, 30)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Finished runs of a base and of two methods, on a log of which some items are never trained on."""
    root = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    weight = 1 / np.arange(1, 91)
    frame = pd.DataFrame({"user_id": np.repeat(np.arange(150), 6)})
    frame["item_id"] = random.choice(90, 900, p=weight / weight.sum())
    frame.loc[frame.index % 30 == 29, "item_id"] += 1000  # the last events of every fifth user
    frame["timestamp"] = np.arange(900)
    log = prepare(Schema(name="toy"), frame, cache_dir=root / "cache")
    rule = LeaveLastOut()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = rule(log)
    done, runs, evaluations = {}, {}, {}
    for factors, name in ((2, "base"), (6, "rfm"), (8, "cfm")):
        against = () if name == "base" else ("two_tower_base",)
        row = Row("amazon_beauty_features", STRICT, f"two_tower_{name}", seeds=SEEDS, against=against)
        runs[row.model] = [Run(row, seed, root) for seed in SEEDS]
        evaluations[row.model] = []
        for run in runs[row.model]:
            model = ALS(factors, seed=run.seed)
            model.fit(split)
            evaluations[row.model].append(evaluate(model, split, name="TwoTower"))
            record = RunRecord.of("toy", "TwoTower", {}, split, rule, root / "cache" / log.fingerprint, {"all": 0})
            record.measure(Work())
            record.status = "finished"
            record.write(run.folder)
            folder = RunFolder(run.folder)
            folder.save_evaluation(evaluations[row.model][-1])
            epochs = [
                {"epoch": epoch, "item_effective_rank": 9.0 + run.seed + epoch, "user_effective_rank": 5.0}
                for epoch in range(3 + run.seed)  # some were stopped later than others
            ]
            folder.save_history(validation=[], diagnostics=epochs)
        judgements = over_runs(runs[row.model])
        done[row.model] = Finished(row, gather(row, runs[row.model], judgements), judgements)
    contents = with_groups(with_comparisons(done), runs)
    return {
        "contents": {content["model"]: content for content in contents},
        "evaluations": evaluations,
        "counts": split.train_counts(),
    }


def recall_by_loop(evaluation: Any, counts: np.ndarray, group: str) -> dict[int, float]:
    """Row -> whether its one target, of the group, was found."""
    groups, targets = group_of_events(counts), evaluation.targets
    found = zip(targets.row.tolist(), targets.item.tolist(), targets.rank.tolist(), strict=True)
    return {row: float(0 < rank <= 10) for row, item, rank in found if GROUPS[groups[item]] == group}


def test_groups_are_those_of_a_loop(table: dict[str, Any]) -> None:
    counts = table["counts"]
    for model, evaluations in table["evaluations"].items():
        groups = table["contents"][model]["groups"]
        assert {"head", "torso", "tail", "cold"} == set(groups)
        assert sum(group["targets"] for group in groups.values()) == evaluations[0].facts["targets"]
        for name, group in groups.items():
            means = [np.mean(list(recall_by_loop(e, counts, name).values())) for e in evaluations]
            assert group["values"] == pytest.approx(means) and group["mean"] == pytest.approx(np.mean(means))
            assert group["targets"] == len(recall_by_loop(evaluations[0], counts, name))
    assert table["contents"]["two_tower_base"]["groups"]["cold"]["targets"] >= 30


def test_differences_are_paired_with_the_base(table: dict[str, Any]) -> None:
    base, content = table["contents"]["two_tower_base"], table["contents"]["two_tower_cfm"]
    assert "group_comparisons" not in base
    for name, found in content["group_comparisons"]["two_tower_base"].items():
        difference = content["groups"][name]["mean"] - base["groups"][name]["mean"]
        assert found["difference"]["mean"] == pytest.approx(difference)
        assert found["difference"]["low"] <= difference <= found["difference"]["high"]
    assert content["group_comparisons"]["two_tower_base"]["head"]["difference"]["mean"] != 0


def test_requests_without_a_target_of_a_group_have_no_value(table: dict[str, Any]) -> None:
    evaluation, counts = table["evaluations"]["two_tower_cfm"][0], table["counts"]
    for name, values in recall_by_row(evaluation, counts).items():
        expected = recall_by_loop(evaluation, counts, name)
        assert {row: values[row] for row in np.flatnonzero(~np.isnan(values))} == expected


def test_ranks_are_kept_as_far_as_all_seeds_go(table: dict[str, Any]) -> None:
    ranks = table["contents"]["two_tower_cfm"]["effective_rank"]
    assert ranks["epochs"] == [1, 2, 3]
    assert ranks["items"] == [[9.0, 10.0, 11.0], [10.0, 11.0, 12.0], [11.0, 12.0, 13.0]]


def test_the_page_has_a_table_and_differences_and_two_pictures(table: dict[str, Any], tmp_path: Path) -> None:
    contents = table["contents"]
    for content in contents.values():
        write(content, tmp_path)
    page = report.report(tmp_path)
    own = page.partition("#### amazon_beauty_features: two_tower")[2]
    values, differences = own.split("Less `base`")
    groups = contents["two_tower_base"]["groups"]
    enough = [group for group in ("head", "torso", "tail", "cold") if groups[group]["targets"] >= 20]
    assert {"head", "cold"} < set(enough)
    for name in ("base", "rfm", "cfm"):
        row = contents[f"two_tower_{name}"]
        wanted = [row["metrics"][metric] for metric in ("NDCG@10", "HR@10")]
        wanted += [row["groups"][group] for group in enough]
        assert cells(values, name)[: len(wanted)] == [shown(metric) for metric in wanted]
    found = contents["two_tower_cfm"]["group_comparisons"]["two_tower_base"]["cold"]["difference"]
    assert (
        cells(differences, "cfm")[2 + enough.index("cold")]
        == f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    )
    assert "| base |" not in differences and f"cold ({groups['cold']['targets']})" in values
    pictures = draw(report.read(tmp_path), tmp_path / "images")
    assert [path.name for path in pictures] == ["ssl_recall_by_popularity.png", "ssl_effective_rank.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert draw([], tmp_path / "none") == [] and not (tmp_path / "none").exists()


def test_groups_of_few_targets_are_left_out(table: dict[str, Any], tmp_path: Path) -> None:
    content = dict(table["contents"]["two_tower_base"])
    content["groups"] = content["groups"] | {"cold": content["groups"]["cold"] | {"targets": 19}}
    write(content, tmp_path)
    page = report.report(tmp_path)
    assert "Recall@10, head" in page and "Recall@10, cold" not in page
