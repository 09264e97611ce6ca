"""A gate that errs is a refusal, whatever it throws; files of gates say what is wrong with them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recsys.tracking.gates.coverage import Coverage
from recsys.tracking.gates.gate import Gate, GateError, Verdict
from recsys.tracking.gates.off_policy_bound import Bound, OffPolicyBound, OffPolicyEstimator
from recsys.tracking.gates.rules import DEFAULT, GateRules
from recsys.tracking.gates.run import outcome_of, run_gates
from recsys.tracking.gates.same_evaluation_set import SameEvaluationSet
from tests.tracking.gates.cases import case, evaluation, of_values

HERE = "tests.tracking.gates.test_run_gates"
CASE = of_values([0.0, 1.0], [1.0, 1.0])


class Said(Gate):
    """Does what it is told."""

    def __init__(self, does: Any, decisive: bool = False):
        self.does, self.decisive = does, decisive

    def check(self, case: Any) -> Any:
        return self.does() if callable(self.does) else self.does


class Doubling(OffPolicyEstimator):
    """Promises twice what was logged."""

    def __init__(self, low: float = 2.0):
        self.low = low

    def bound(self, log: Path, contestant: Any, level: float) -> Bound:
        return Bound(self.low, 3.0, float(log.read_text()))


def raising(error: BaseException) -> Any:
    def raises() -> None:
        raise error

    return raises


@pytest.mark.parametrize(
    "does",
    [
        raising(ValueError("broken")), raising(MemoryError()), raising(SystemExit(0)), lambda: sys.exit(0), None, True,
        Verdict("x", True, {"p": math.nan}), Verdict("x", True, {"p": math.inf}), Verdict("x", True, failed=True),
        Verdict("x", "yes"), Verdict("x", 1), Verdict("x", None),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_whatever_goes_wrong_is_a_refusal(does: Any) -> None:
    passing = Said(Verdict("x", True))
    verdicts = run_gates({"first": passing, "wrong": Said(does), "last": passing}, CASE)
    assert [(v.name, v.outcome) for v in verdicts] == [("first", "passed"), ("wrong", "error"), ("last", "passed")]
    assert outcome_of(verdicts) == "error"


def test_an_interrupt_goes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_gates({"gate": Said(raising(KeyboardInterrupt()))}, CASE)


def test_all_must_pass_and_none_is_none() -> None:
    def outcome(*passed: Any) -> str:
        return outcome_of(run_gates({str(n): Said(Verdict("x", p)) for n, p in enumerate(passed)}, CASE))

    assert outcome(True, np.True_) == "passed"
    assert outcome(True, False) == outcome(np.False_) == outcome() == "refused"
    assert outcome_of([Verdict("x", True, ran=False), Verdict("y", True)]) == "passed"


def test_after_a_decisive_refusal_nothing_more_is_asked() -> None:
    never = Said(raising(AssertionError("asked")))
    for refusing in (Said(Verdict("x", False), decisive=True), Said(raising(OSError("x")), decisive=True)):
        verdicts = run_gates({"first": refusing, "second": never}, CASE)
        assert verdicts[1].outcome == "not run" and not verdicts[1].passed
        assert outcome_of(verdicts) != "passed"
    assert run_gates({"first": Said(Verdict("x", False)), "second": never}, CASE)[1].outcome == "error"


def test_verdicts_bear_the_names_of_the_file() -> None:
    assert run_gates({"mine": Said(Verdict("x", True))}, CASE)[0].name == "mine"


def test_the_same_set_or_nothing() -> None:
    gate = SameEvaluationSet()
    assert gate.decisive and gate.check(CASE).passed
    both = evaluation({"m": [1.0]}), evaluation({"m": [1.0]})
    for other, said in ((None, "no evaluation set"), ("e" * 64, "evaluation set eeeeeeeeeeee")):
        verdict = gate.check(case(*both, registered_with=other))
        assert not verdict.passed and said in verdict.sentence
    altered = case(both[0], evaluation({"m": [1.0]}, evaluation_set="e" * 64))
    assert not gate.check(altered).passed
    ruled = gate.check(case(both[0], evaluation({"m": [1.0]}, filter_seen=False)))
    assert not ruled.passed and "filter_seen" in ruled.sentence


def test_coverage_is_judged_in_every_task() -> None:
    def covering(**shares: float) -> dict[str, Any]:
        return {task: evaluation({"m": [1.0]}, exposure={"Coverage@10": share}) for task, share in shares.items()}

    champion = covering(search=0.5, recommendation=0.2)
    assert Coverage(of_champion=0.8).check(case(champion, covering(search=0.4, recommendation=0.3))).passed
    verdict = Coverage(of_champion=0.8).check(case(champion, covering(search=0.39, recommendation=0.3)))
    assert not verdict.passed and verdict.numbers["search/Coverage@10 challenger"] == 0.39
    assert not Coverage(at_least=0.25).check(case(champion, covering(search=0.5, recommendation=0.2))).passed
    assert not Coverage().check(case(covering(a=math.nan), covering(a=0.1))).passed
    with pytest.raises(GateError, match="no Coverage@7"):
        Coverage(k=7).check(case(champion, champion))


def test_without_a_log_the_bound_is_not_asked_for(tmp_path: Path) -> None:
    verdict = OffPolicyBound(Doubling()).check(CASE)
    assert verdict.outcome == "not run" and not verdict.numbers
    (tmp_path / "log").write_text("1.0")
    both = evaluation({"m": [1.0]}), evaluation({"m": [1.0]})
    logged = case(*both, bandit_log=tmp_path / "log")
    assert OffPolicyBound(Doubling(), of_logged=2.0).check(logged).passed
    assert not OffPolicyBound(Doubling(), of_logged=2.1).check(logged).passed
    assert not OffPolicyBound(Doubling(math.nan)).check(logged).passed


def written(folder: Path, content: Any) -> Path:
    (folder / "gates.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder / "gates.yaml"


def test_the_default_gates_are_all_built() -> None:
    gates = GateRules.read().build()
    assert list(gates) == [
        "load_test", "same_evaluation_set", "superiority", "non_inferiority", "slice_guardrail", "coverage",
        "calibration", "size", "latency",
    ]  # fmt: skip
    assert gates["latency"].p99_ms == {1: 500.0, 32: 2000.0}  # type: ignore[attr-defined]
    assert GateRules.read(DEFAULT) == GateRules.read()


def test_gates_of_ones_own_need_no_registration(tmp_path: Path) -> None:
    rules = GateRules.read(
        written(
            tmp_path,
            {
                "gates": [
                    {"class_path": f"{HERE}.Said", "init_args": {"does": 1}},
                    {
                        "class_path": "recsys.tracking.gates.off_policy_bound.OffPolicyBound",
                        "init_args": {"estimator": {"class_path": f"{HERE}.Doubling", "init_args": {"low": 5}}},
                    },
                    {"class_path": f"{HERE}.Said", "init_args": {"does": 2}, "name": "another"},
                ]
            },
        )
    )
    gates = rules.build()
    assert list(gates) == ["said", "off_policy_bound", "another"]
    assert gates["off_policy_bound"].estimator.low == 5  # type: ignore[attr-defined]


COVERAGE = "recsys.tracking.gates.coverage.Coverage"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "no file of gates"),
        ("gates: []", "gates: "),
        ("more: 1", "more: Extra inputs are not permitted"),
        ({"gates": [{"class_path": COVERAGE, "limits": {}}]}, r"gates.0.limits: Extra inputs"),
        ({"gates": [{"class_path": COVERAGE, "name": "No Name"}]}, r"gates.0.name"),
        ({"gates": [{"class_path": COVERAGE, "init_args": {"kk": 3}}]}, "gate coverage: .*kk"),
        ({"gates": [{"class_path": COVERAGE, "init_args": {"k": "ten"}}]}, "gate coverage: .*ten"),
        ({"gates": [{"class_path": COVERAGE, "init_args": {"at_least": 7}}]}, "gate coverage: .*not negative"),
        ({"gates": [{"class_path": "recsys.nowhere.Gate"}]}, "gate gate: .*recsys.nowhere"),
        ({"gates": [{"class_path": "collections.Counter"}]}, "gate counter: .*Counter"),
        ({"gates": [{"class_path": COVERAGE}] * 2}, "two gates are called coverage"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(GateError, match=said):
        GateRules.read(written(tmp_path, content)).build()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="no file of gates"):
        GateRules.read(tmp_path / "gates.yaml")
