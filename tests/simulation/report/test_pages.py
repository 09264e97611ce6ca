"""The pages say what their numbers say, need nothing else, and cannot be broken out of; a browser shows them whole."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.documents.page import to_page
from recsys.simulation.comparison.compare import ChallengerResult, Comparison, MetricResult, SliceResult
from recsys.simulation.comparison.equal_arms import Alarms, EqualArms
from recsys.simulation.comparison.live_test import LivePlan, LiveTest
from recsys.simulation.comparison.looks import Lift, Look
from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.evaluate import OffPolicyReport, evaluate_policies
from recsys.simulation.off_policy.policies import TablePolicy
from recsys.simulation.report.comparison_page import Context, comparison_document, next_steps
from recsys.simulation.report.off_policy_page import off_policy_answer, off_policy_document, signed
from recsys.simulation.report.verdict import answer_of
from recsys.simulation.report.words import days, number, percent, span
from tests.documents.pages import EVIL, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def comparison(name: str = "new", control: str = "old") -> Comparison:
    alarms = Alarms(0.0512, 0.03, 0.07)
    known = [
        Look(
            day,
            (100 * day, 99 * day),
            Lift(0.2, 0.2 - 0.3 / day, 0.2 + 0.3 / day),
            Lift(0.2, 0.2 - 0.6 / day, 0.9),
            1.0,
        )
        for day in range(2, 8)
    ]
    unknown = Lift(float("nan"), -np.inf, np.inf)
    result = ChallengerResult(
        verdict="ship",
        sentence="ship",
        metrics={
            "clicks": MetricResult(0.5123, 0.6147, Lift(0.1998, 0.0631, 0.3377), None, 1e-4),
            "conversions": MetricResult(0.0312, 0.0345, Lift(0.1057, -0.0301, 0.2541), 0.05, 0.01),
        },
        looks=[Look(1, (90, 90), unknown, unknown, float("nan")), *known],
        conclusive_day=4,
        naive_day=2,
        variance_reduction=0.173,
        slices={
            "new users": SliceResult((12, 11), None),
            "light users": SliceResult((300, 310), Lift(-0.12, -0.2, -0.04)),
        },
        true_lift=0.2222,
        live=LivePlan(
            217.4, 0.8, 0.0876, [LiveTest(0.1998, 1234, 9), LiveTest(0.0999, 4936, 44), LiveTest(0.05, 19744, None)]
        ),
    )
    equal = EqualArms(1000, 0.05, alarms, Alarms(0.0089, 0.004, 0.02), Alarms(0.1931, 0.16, 0.22))
    counts = {control: 700, name: 693}
    return Comparison(control, "clicks", 0.05, 7, 3, 10, counts, counts, 217.4, 0.62, equal, {name: result})


def page_of(found: Comparison, log: str = "a log") -> str:
    context = Context(log, [f"assumed of {log}"], {"log": (log,)})
    return to_page(comparison_document(found, context), 2**20)


def test_numbers_are_those_of_the_json() -> None:
    found = comparison()
    content, page = found.as_json(), Page(page_of(found))
    result = content["challengers"]["new"]
    tables = {caption.split()[0]: {row[0]: row[1:] for row in rows} for caption, rows in page.tables.items()}
    for name, metric in result["metrics"].items():
        lift = Lift(**metric["lift"])
        row = tables["Metrics"][f"{name} per visit"]
        assert row[:4] == [
            number(metric["control"]),
            number(metric["treatment"]),
            percent(lift.value, True),
            span(lift),
        ]
    assert [*tables["Lift"]][1:] == [str(look["day"]) for look in result["looks"]]
    assert tables["Lift"]["1"][2:] == ["unknown", "any loss to any gain", "any loss to any gain"]
    assert tables["Lift"]["4"][3] == span(Lift(**result["looks"][3]["anytime"]))
    rows = [[percent(t["lift"], True), f"{t['users']:,}", days(t["days"])] for t in result["live"]["tests"]]
    assert [[name, *cells] for name, cells in tables["How"].items()][1:] == rows
    checks = tables["Checks"]
    assert checks["false alarms, naive daily looks"][0] == percent(content["equal"]["naive"]["share"]) == "19 %"
    assert checks["lift of new, had all users had both"] == ["+22 %", "inside the range"]
    assert "new users" in page.text and "Too few users to say anything: new users" in page.text


def test_the_answer_stands_first_in_plain_words() -> None:
    page = Page(page_of(comparison()))
    first = page.text[: page.text.index("Lift over time")]
    assert "Ship it: new gets 20 % more clicks per visit than old." in first
    assert "between +6.3 % and +34 %" in first and "9 days" in first
    for jargon in ("p-value", "p =", "CUPED", "Welch", "alpha", "significan", "null hypothesis", "confidence sequence"):
        assert jargon not in first


@pytest.mark.parametrize(
    ("clicks", "conversions", "verdict", "tone", "words"),
    [
        (Lift(0.2, 0.1, 0.3), Lift(0.1, 0.01, 0.2), "ship", "good", "Ship it"),
        (Lift(0.2, 0.1, 0.3), Lift(0.0, -0.2, 0.2), "do not ship", "open", "conversions might have fallen"),
        (Lift(0.2, 0.1, 0.3), Lift(-0.3, -0.4, -0.2), "do not ship", "bad", "conversions fell by more than allowed"),
        (Lift(-0.2, -0.3, -0.1), Lift(0.1, 0.01, 0.2), "do not ship", "bad", "20 % fewer clicks"),
        (Lift(0.02, -0.1, 0.1), Lift(0.1, 0.01, 0.2), "do not ship", "open", "no difference in clicks"),
    ],
)
def test_each_outcome_has_its_words(clicks: Lift, conversions: Lift, verdict: str, tone: str, words: str) -> None:
    found = comparison()
    old = found.challengers["new"]
    p = 0.01 if conversions.low > -0.05 else 0.4
    metrics = {
        "clicks": replace(old.metrics["clicks"], lift=clicks),
        "conversions": replace(old.metrics["conversions"], lift=conversions, p_better=p),
    }
    found = replace(found, challengers={"new": replace(old, metrics=metrics, verdict=verdict)})
    answer = answer_of(found, "new")
    assert answer.tone == tone and words in answer.text
    assert any("light users" in step for step in next_steps(found, "new"))
    assert page_of(found).count(words) >= 1


@pytest.mark.parametrize("p", [1e-6, float("nan")])
def test_nothing_is_read_where_users_did_not_come_as_planned(p: float) -> None:
    answer = answer_of(replace(comparison(), split_p=p), "new")
    assert answer.tone == "bad" and answer.text.startswith("Nothing can be read of new")


@pytest.mark.parametrize("of", ["comparison", "off_policy"])
def test_names_cannot_break_out_and_nothing_is_loaded(of: str) -> None:
    text = page_of(comparison(EVIL, EVIL), EVIL) if of == "comparison" else off_policy_page({EVIL: 0.5, "b": 0.5})[1]
    page = Page(text)
    assert "script" not in page.elements and "link" not in page.elements and "iframe" not in page.elements
    assert not any(name in ("href", "src", "onload", "xlink:href") for name, _ in page.attributes)
    assert "http" not in text.replace(EVIL.replace("<", "&lt;"), "").replace("http-equiv", "").replace(
        "http://evil.example", ""
    )
    assert "alert('x')" in page.text


def test_drawings_and_tables_are_named() -> None:
    page = Page(page_of(comparison()))
    drawings = page.elements.count("svg")
    assert drawings >= 3
    assert page.elements.count("desc") == drawings and page.elements.count("title") == drawings + 1
    labelled = [value.split() for name, value in page.attributes if name == "aria-labelledby"]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(labelled) == drawings and sorted(name for names in labelled for name in names) == sorted(set(ids))
    assert page.elements.count("caption") == page.elements.count("table")
    assert page.elements.count("h1") == 1


def off_policy_page(chances: dict[str, float], rounds: int = 4000) -> tuple[OffPolicyReport, str]:
    """A log of two actions, of which the second earns more, and policies that take it with some chance."""
    random = np.random.default_rng(0)
    action = random.integers(0, 2, rounds)
    reward = (random.random(rounds) < np.array([0.2, 0.6])[action]) * 1.0
    frame = pd.DataFrame({"action": action, "reward": reward, "propensity": 0.5, "user_id": np.arange(rounds) // 2})
    log = BanditLog.from_frame(frame, actions=[0, 1, 2])
    policies = {
        name: TablePolicy(np.array([[1 - chance, chance, 0.0]]), np.zeros(rounds, np.int64))
        for name, chance in chances.items()
    }
    policies["never"] = TablePolicy(np.array([[0.2, 0.2, 0.6]]), np.zeros(rounds, np.int64))
    report = evaluate_policies(log, policies)
    return report, to_page(off_policy_document(report, "a log", {"log": ("a log",)}), 2**20)


def test_off_policy_estimates_and_refusals_are_said() -> None:
    report, text = off_policy_page({"better": 0.9, "worse": 0.1, "same": 0.5})
    page = Page(text)
    assert [off_policy_answer(report, name).tone for name in ("better", "worse", "never")] == ["good", "bad", "open"]
    assert off_policy_answer(report, "same").tone == "open"
    assert "The log cannot judge never." in page.text and "60 %" in page.text
    tables = [rows for caption, rows in page.tables.items() if caption.startswith("Mean reward")]
    assert len(tables) == 1  # captions are the same for all policies: the last one stands
    found = report.policies["same"].estimates["DR"]
    (row,) = (row for row in tables[0] if "(DR)" in row[0])
    assert row[1:5] == [
        number(found.value),
        f"{number(found.low)} to {number(found.high)}",
        signed(found.gain),
        f"{signed(found.gain_low)} to {signed(found.gain_high)}",
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to show the page")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("of", ["comparison", "off_policy"])
def test_a_browser_shows_the_page_whole(tmp_path: Path, of: str, scheme: str) -> None:
    text = (
        page_of(comparison("a challenger with a rather long name of its own"))
        if of == "comparison"
        else off_policy_page({"better": 0.9})[1]
    )
    # What is wider than its place (tables may be, and are moved then), or lies outside a drawing, is told by the title
    # of the page. The script of the test needs a policy that lets it run.
    probe = """<script>addEventListener("load", () => {
      const wide = [...document.querySelectorAll("main *:not(svg *):not(.wide *):not(.wide)")].filter(
        e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && getComputedStyle(e).display != "inline");
      const out = [...document.querySelectorAll("svg text")].filter(e => { const box = e.getBBox();
        return box.x < -1 || box.x + box.width > e.ownerSVGElement.viewBox.baseVal.width + 1; });
      const ink = getComputedStyle(document.body).backgroundColor;
      document.title = JSON.stringify({wide: wide.map(e => e.tagName), out: out.map(e => e.textContent), ink,
        high: document.body.scrollHeight});
    });</script>"""
    page = tmp_path / "page.html"
    page.write_text(text.replace("default-src 'none'", "script-src 'unsafe-inline'") + probe, encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=10000", "--window-size=1200,2400", "--enable-logging=stderr", "--dump-dom"),
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    told = done.stdout[done.stdout.index("<title>") + 7 : done.stdout.index("</title>")].replace("&amp;", "&")
    assert '"wide":[]' in told and '"out":[]' in told, told
    assert ("18, 24, 31" in told) is (scheme == "dark"), told
