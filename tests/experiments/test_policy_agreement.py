"""The study of agreement between judges: its tau, and that the truth's friends agree where logged NDCG is misled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import policy_agreement
import pytest
import simulator_throughput
import torch
from scipy.stats import kendalltau


def test_tau_of_resampled_policies_is_that_of_their_list() -> None:
    random = np.random.default_rng(0)
    truth, judged = random.normal(size=8), random.integers(0, 4, size=8).astype(float)
    counts = random.multinomial(8, np.full(8, 1 / 8), size=20)
    found = policy_agreement.kendall(truth, judged, counts)
    for row, tau in zip(counts, found, strict=True):
        assert tau == pytest.approx(kendalltau(np.repeat(truth, row), np.repeat(judged, row)).statistic)


def test_a_small_study_orders_policies_by_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["policy_agreement.py", "--smoke", "--out", str(tmp_path)])
    policy_agreement.main()
    content = json.loads((tmp_path / "policy_agreement.json").read_text())
    (study,) = content["studies"]
    assert len(study["policies"]) == 10 and study["pairs"] == 45
    taus = study["taus"]
    for judge in ("ab", "snipw", "dr"):
        assert taus[judge]["tau"] > 0.7 > taus["ndcg"]["tau"]
        assert taus[judge]["low"] <= taus[judge]["tau"] <= taus[judge]["high"]
    assert study["of_these_right"] == study["pairs_the_test_decides"] > 10
    assert study["widest_of_them"]["difference"] > 0.05
    assert (tmp_path / "policy_agreement.png").stat().st_size > 10_000
    assert not list(tmp_path.glob("*.tmp"))


def test_throughput_is_measured_and_nothing_is_written_in_a_smoke_run() -> None:
    found = simulator_throughput.measure("stochastic", users=500, items=120, days=2, threads=torch.get_num_threads())
    assert found["sessions"] > 300 and found["clicks"] > 0
    assert found["sessions_per_minute"] == pytest.approx(60 * found["sessions"] / found["seconds"], rel=0.02)
