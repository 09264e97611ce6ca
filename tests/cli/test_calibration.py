"""The calibration of a job: fitted on validation, judged on test, kept with the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit

from recsys.cli import recommend
from recsys.cli.calibration import calibrate
from recsys.evaluation.calibration import expected_calibration_error, fit_platt, sampled_logits
from recsys.tracking.bundle import Bundle
from recsys.tracking.run_folder import RunFolder
from tests.cli.conftest import LENGTH


@pytest.fixture
def negatives_of_a_small_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty items leave no ninety-nine to draw."""
    from functools import partial

    monkeypatch.setattr("recsys.cli.calibration.sampled_logits", partial(sampled_logits, negatives=15))


@pytest.mark.usefixtures("negatives_of_a_small_catalogue")
def test_it_is_fitted_on_validation_and_judged_on_test(search_run: RunFolder) -> None:
    """All tasks together, against the same by hand."""
    bundle, split = Bundle.load(search_run.model), search_run.split(search_run.log())
    found = calibrate(bundle.model, split, LENGTH)
    assert found is not None

    def by_hand(which: str):
        tasks = ("search", "recommendation")
        parts = [
            sampled_logits(bundle.model, split, which=which, task=task, negatives=15, max_length=LENGTH)
            for task in tasks
        ]
        return [np.concatenate([getattr(p, n) for p in parts]) for n in ("logit", "label", "weight")]

    from recsys.evaluation.calibration import WeightedLogits

    platt = fit_platt(WeightedLogits(*by_hand("validation")))
    logit, label, weight = by_hand("test")
    assert (found.platt.scale, found.platt.offset) == pytest.approx((platt.scale, platt.offset))
    assert found.error["before"] == pytest.approx(expected_calibration_error(expit(logit), label, weight))
    assert found.error["after"] == pytest.approx(expected_calibration_error(platt(logit), label, weight))
    assert found.error["after"] < found.error["before"]
    json.dumps(found.as_json())


def test_a_model_that_does_not_rank_has_none(finished: RunFolder) -> None:
    bundle = Bundle.load(finished.model)
    assert calibrate(bundle.model, finished.split(finished.log()), LENGTH) is None


def test_a_catalogue_too_small_costs_no_more_than_a_warning(search_run: RunFolder) -> None:
    """The training that came before must not be lost: forty items leave no ninety-nine to draw."""
    bundle = Bundle.load(search_run.model)
    with pytest.warns(UserWarning, match="the ranking is not calibrated: .*"):
        assert calibrate(bundle.model, search_run.split(search_run.log()), LENGTH) is None


@pytest.mark.usefixtures("negatives_of_a_small_catalogue")
def test_probabilities_come_with_the_model(search_run: RunFolder, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, log = Bundle.load(search_run.model), search_run.log()
    split = search_run.split(log)
    found = calibrate(bundle.model, split, LENGTH)
    run = RunFolder(tmp_path / "run")
    search_run.record.write(run.path)
    Bundle.of(bundle.model, log, split.hash, LENGTH, found.platt).save(run.model)
    words = [str(run.path), "--user", "u3", "--query", "soap", "--k", "3"]
    assert recommend.main([*words, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    for item in answer["recommendations"]:
        assert item["probability"] == pytest.approx(float(found.platt(item["score"])))
    assert recommend.main(words) == 0
    assert "probability" in capsys.readouterr().out
    assert recommend.main([*words, "--retrieve", "0", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert all("probability" not in item for item in answer["recommendations"])
