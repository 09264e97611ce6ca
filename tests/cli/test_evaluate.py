"""`recsys evaluate`: prints, recomputes, compares, and says what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.cli.evaluate import difference, main
from recsys.evaluation.result import EvaluationError
from recsys.models.artefact import ArtefactError
from recsys.tracking.record import RunError, RunRecord
from recsys.tracking.run_folder import RunFolder
from tests.cli.conftest import make_run


def test_table_of_a_run(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished.path)]) == 0
    text = capsys.readouterr().out
    own, baseline = finished.evaluations()
    assert (own.model, baseline.model) == ("SynerGen", "Popularity")
    assert text.index("SynerGen") < text.index("Popularity")
    for evaluation in (own, baseline):
        interval = evaluation.summary()["NDCG@5"]
        assert f"{interval.mean:.4f} ±{(interval.high - interval.low) / 2:.4f}" in text


def test_json_of_a_run(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished.path), "--json", "--metrics", "NDCG@10", "Coverage@5"]) == 0
    own, _ = json.loads(capsys.readouterr().out)
    evaluation = finished.evaluations()[0]
    assert own["metrics"]["NDCG@10"]["mean"] == pytest.approx(np.nanmean(evaluation.metrics["NDCG@10"]))
    assert own["metrics"]["Coverage@5"] == {"mean": evaluation.exposure["Coverage@5"]}
    assert own["facts"]["split_hash"] == finished.record.split["hash"]


def test_recompute_gives_the_same_lists_and_mends_a_wrong_evaluation(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run.evaluations()[0]
    assert main([str(run.path), "--recompute"]) == 0
    assert "every list is the same" in capsys.readouterr().err
    wrong = {name: values * 0 for name, values in before.metrics.items()}
    replace(before, ranked=before.ranked[:, ::-1].copy(), metrics=wrong).save(run.evaluation("SynerGen"))
    assert main([str(run.path), "--recompute"]) == 0
    assert "lists differ" in capsys.readouterr().err
    after = run.evaluations()[0]
    assert np.array_equal(after.ranked, before.ranked)
    assert after.facts["max_length"] == before.facts["max_length"]
    shutil.rmtree(run.evaluation("SynerGen"))
    assert main([str(run.path), "--recompute"]) == 0
    assert run.evaluations()[0].facts["ks"] == [10, 50]


def test_size_of_a_difference(finished: RunFolder) -> None:
    before = finished.evaluations()[0]
    ranked = before.ranked.copy()
    ranked[0, :2] = ranked[0, 1::-1]
    moved = before.metrics | {"MRR@5": before.metrics["MRR@5"] + np.float32(0.25)}
    text = difference(before, replace(before, ranked=ranked, metrics=moved))
    assert f"{1 / len(ranked):.2%} of the lists" in text and "MRR@5 moved most, by 0.25" in text


def test_comparison_is_paired(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = str(finished.evaluation("Popularity"))
    assert main(["--compare", baseline, str(finished.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["NDCG@10"]
    own, other = finished.evaluations()
    expected = own.metrics["NDCG@10"].astype(float) - other.metrics["NDCG@10"]
    expected = expected[~np.isnan(expected)]
    assert found["difference"]["mean"] == pytest.approx(expected.mean())
    half = 1.96 * expected.std() / np.sqrt(len(expected))
    assert found["difference"]["high"] - expected.mean() == pytest.approx(half, rel=0.15)
    assert main(["--compare", baseline, str(finished.path)]) == 0
    text = capsys.readouterr().out
    expected = own.metrics["NDCG@5"].astype(float) - other.metrics["NDCG@5"]
    line = next(line for line in text.splitlines() if "NDCG@5" in line)
    assert f"{np.nanmean(expected):+.4f}" in line
    assert main(["--compare", str(finished.path), str(finished.path), "--metrics", "HR@5"]) == 0
    assert "+0.0000" in capsys.readouterr().out


def test_comparison_refuses_another_split(finished: RunFolder, tmp_path: Path) -> None:
    other = make_run(tmp_path, refit=True)
    with pytest.raises(RunError, match=r"different splits \(leave_last_out_strict \w+ and leave_last_out_refit \w+\)"):
        main(["--compare", str(finished.path), str(other.path)])


def test_comparison_refuses_other_rules_and_unknown_metrics(run: RunFolder) -> None:
    with pytest.raises(RunError, match="no HR@7 in both runs; there are HR@5"):
        main(["--compare", str(run.path), str(run.path), "--metrics", "HR@7"])
    baseline = run.evaluations()[1]
    replace(baseline, facts=baseline.facts | {"filter_seen": False}).save(run.evaluation("Popularity"))
    with pytest.raises(EvaluationError, match="filter_seen"):
        main(["--compare", str(run.path), str(run.evaluation("Popularity"))])


@pytest.mark.parametrize(
    "words", [[], ["a", "--compare", "b", "c"], ["--recompute", "--compare", "b", "c"], ["a", "--no"]]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "error" in capsys.readouterr().err


def test_what_is_missing_is_named(run: RunFolder, finished: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run here \(run.json is missing\)"):
        main([str(tmp_path / "nothing")])
    with pytest.raises(RunError, match=r"the prepared log of .* is not there.*recsys prepare.*--log FOLDER"):
        main([str(run.path), "--recompute", "--log", str(tmp_path)])
    weights = run.model / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError, match=r"weights.safetensors: altered"):
        main([str(run.path), "--recompute"])
    shutil.rmtree(run.model)
    with pytest.raises(RunError, match="no saved model"):
        main([str(run.path), "--recompute"])
    shutil.rmtree(run.evaluation("SynerGen"))
    with pytest.raises(RunError, match="SynerGen is not evaluated"):
        main([str(run.path)])


def test_another_log_or_rule_is_refused(run: RunFolder, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other")
    log = Path(other.record.data["folder"])
    record = RunRecord.read(run.path)
    record.data["fingerprint"] = "f" * 32
    record.write(run.path)
    with pytest.raises(RunError, match="another log than the run's"):
        main([str(run.path), "--recompute", "--log", str(log)])
    record.data["fingerprint"] = log.name
    record.split["init_args"] = {"refit": True}
    record.write(run.path)
    with pytest.raises(RunError, match="splits in another way"):
        main([str(run.path), "--recompute"])
    record.split["class_path"] = "no_such_package.Rule"
    record.write(run.path)
    with pytest.raises(RunError, match=r"no_such_package.Rule cannot be imported"):
        main([str(run.path), "--recompute"])
