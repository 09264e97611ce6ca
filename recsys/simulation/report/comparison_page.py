"""The page of a comparison: the verdict first, then what it rests on, and what could be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.documents.document import (
    Answer,
    Block,
    Document,
    Facts,
    Line,
    Paragraph,
    Points,
    Section,
    Table,
)
from recsys.simulation.comparison.compare import Comparison
from recsys.simulation.report.lift_charts import lift_over_days, lifts
from recsys.simulation.report.verdict import answer_of, figures_of, guardrails
from recsys.simulation.report.words import chance, days, number, percent, span
from recsys.simulation.statistics.sample_ratio import SUSPICIOUS


@dataclass(frozen=True)
class Context:
    """What a page says beside the results.

    Attributes:
        log: name of the log of the users.
        assumptions: of the world, a sentence each.
        facts: how it was made.
    """

    log: str
    assumptions: Sequence[str]
    facts: Mapping[str, Line]


def comparison_document(comparison: Comparison, context: Context) -> Document:
    """The document of a comparison.

    Args:
        comparison: what was found.
        context: what it was made of.
    """
    control, challengers = comparison.control, comparison.challengers
    lead: list[Block] = []
    for name in challengers:
        lead += [answer_of(comparison, name), figures_of(comparison, name)]
    lead.append(
        Paragraph(
            (
                f"A simulated experiment on {sum(comparison.users.values()):,} users with the tastes of the log "
                f"{context.log}: {comparison.days} days, lists of {comparison.length}, nobody real was shown anything.",
            )
        )
    )
    sections = [_lift_section(comparison, name) for name in challengers]
    sections += [_metrics_section(comparison, name) for name in challengers]
    sections += [_slices_section(comparison, name) for name in challengers]
    sections += [_next_section(comparison, name) for name in challengers]
    sections += [
        _trust_section(comparison),
        Section("What could be wrong", (Points(tuple((assumption,) for assumption in context.assumptions)),)),
        Section("How this was made", (Facts(tuple(context.facts.items())),)),
    ]
    return Document(f"{', '.join(challengers)} against {control}", tuple(sections), tuple(lead))


def _title(comparison: Comparison, name: str, title: str) -> str:
    return title if len(comparison.challengers) == 1 else f"{title}: {name}"


def _lift_section(comparison: Comparison, name: str) -> Section:
    result = comparison.challengers[name]
    drawn = lift_over_days(result.looks, comparison.goal)
    equal = comparison.equal
    blocks: list[Block] = [] if drawn is None else [drawn]
    safe = (
        f"who may look every day could have said so from day {result.conclusive_day} on"
        if result.conclusive_day
        else f"who may look every day could not have said anything within {days(comparison.days)}"
    )
    naive = f"a naive daily look would have from day {result.naive_day} on" if result.naive_day else "nor a naive look"
    blocks.append(
        Paragraph(
            (
                f"The band holds on all days at once: {safe}; {naive}. Looking naively is not safe: with no difference "
                f"at all it raised a false alarm in {percent(equal.naive.share)} of {equal.assignments:,} experiments, "
                f"the band in {percent(equal.anytime.share)}, one look at the end in {percent(equal.at_end.share)} "
                f"(planned: at most {percent(equal.level)}).",
            )
        )
    )
    table = Table(
        f"Lift in {comparison.goal} per visit at the end of each day",
        ("day", f"users, {comparison.control}", f"users, {name}", "lift", "safe range", "naive range"),
        tuple(
            (
                str(look.day),
                f"{look.users[0]:,}",
                f"{look.users[1]:,}",
                percent(look.fixed.value, signed=True),
                span(look.anytime),
                span(look.fixed),
            )
            for look in result.looks
        ),
    )
    return Section(_title(comparison, name, "Lift over time"), tuple(blocks), (table,))


def _metrics_section(comparison: Comparison, name: str) -> Section:
    result = comparison.challengers[name]
    rows = []
    for metric, found in result.metrics.items():
        if found.margin is None:
            judged = "better" if found.lift.low > 0 else "worse" if found.lift.high < 0 else "not shown"
            allowed = "the goal"
        else:
            holds = found.p_better <= comparison.level
            judged = "holds" if holds else "broken" if found.lift.high < -found.margin else "not shown to hold"
            allowed = f"a loss below {percent(found.margin)}"
        rows.append(
            (
                f"{metric} per visit",
                number(found.control),
                number(found.treatment),
                percent(found.lift.value, signed=True),
                span(found.lift),
                allowed,
                judged,
            )
        )
    table = Table(
        "Metrics per visit, adjusted by what users did before the experiment",
        ("metric", comparison.control, name, "lift", "range", "allowed", "verdict"),
        tuple(rows),
    )
    blocks: list[Block] = [table]
    for guardrail in guardrails(result):
        found = result.metrics[guardrail]
        assert found.margin is not None
        blocks.append(
            lifts(
                f"Lift in {guardrail} per visit, which may fall by less than {percent(found.margin)}",
                {f"{guardrail} per visit": found.lift},
                -found.margin,
                "limit",
            )
        )
    if guardrails(result):
        sure = percent(1 - comparison.level)
        blocks.append(
            Paragraph(
                (
                    f"What is allowed to fall a little holds where a loss beyond the limit is ruled out with {sure} "
                    "certainty. Only losses count for that, so that a range, which counts gains as well, may reach a "
                    "little beyond the limit.",
                )
            )
        )
    return Section(_title(comparison, name, "Goal and guardrails"), tuple(blocks))


def _slices_section(comparison: Comparison, name: str) -> Section:
    result = comparison.challengers[name]
    known = {group: found.lift for group, found in result.slices.items() if found.lift is not None}
    blocks: list[Block] = []
    if known:
        blocks.append(lifts(f"Lift in {comparison.goal} per visit, by users", known))
    few = [group for group in result.slices if group not in known]
    said = "Ranges are wider than above, because several groups are looked at."
    if few:
        said += f" Too few users to say anything: {', '.join(few)}."
    blocks.append(Paragraph((said,)))
    table = Table(
        "Users who came, by group",
        ("group", comparison.control, name),
        tuple((group, f"{found.users[0]:,}", f"{found.users[1]:,}") for group, found in result.slices.items()),
    )
    return Section(_title(comparison, name, "For whom"), tuple(blocks), (table,))


def _next_section(comparison: Comparison, name: str) -> Section:
    result = comparison.challengers[name]
    blocks: list[Block] = [Points(tuple((step,) for step in next_steps(comparison, name)))]
    if result.live is not None:
        rows = tuple(
            (percent(test.lift, signed=True), f"{test.users:,}", days(test.days)) for test in result.live.tests
        )
        blocks.append(
            Table(
                f"How long a live test takes at {number(result.live.visitors)} visitors a day",
                ("lift to show", "users", "time"),
                rows,
            )
        )
    return Section(_title(comparison, name, "What to do next"), tuple(blocks))


def next_steps(comparison: Comparison, name: str) -> list[str]:
    """What the results recommend, a sentence each."""
    result = comparison.challengers[name]
    answer: Answer = answer_of(comparison, name)
    steps = []
    if answer.tone == "good":
        steps.append(
            f"Ship {name} to a live test: the simulator says that it is better, and only real users can prove it."
        )
    elif answer.tone == "bad":
        steps.append(f"Do not spend traffic on {name} as it is; look first at where it loses.")
    else:
        steps.append(f"Do not decide yet: repeat this with more users a day or more days, or test {name} live.")
    if result.live is not None:
        first, half = result.live.tests[:2]
        steps.append(
            f"Plan a live test of {days(first.days)} for a lift of {percent(first.lift, signed=True)}; real lifts are "
            f"often smaller, and half of it needs {days(half.days)}."
        )
        steps.append(
            f"Expect to miss what is smaller than {percent(result.live.smallest)} in a test as large as this one."
        )
    hurt = [group for group, found in result.slices.items() if found.lift is not None and found.lift.high < 0]
    if hurt:
        steps.append(f"Look at {', '.join(hurt)} first: they lose.")
    return steps


def _trust_section(comparison: Comparison) -> Section:
    split = "as planned" if comparison.split_p >= SUSPICIOUS else "not as planned: nothing here may be read"
    equal = comparison.equal
    ok = equal.at_end.low <= equal.level <= equal.at_end.high
    rows = [
        ("users in equal shares", chance(comparison.split_p), split),
        (
            "false alarms, one look at the end",
            percent(equal.at_end.share),
            "as planned"
            if ok
            else f"not the planned {percent(equal.level)}: ranges are too {_off(equal.at_end.share, equal.level)}",
        ),
        (
            "false alarms, safe daily looks",
            percent(equal.anytime.share),
            "as planned" if equal.anytime.low <= equal.level else "too many: daily ranges are too narrow",
        ),
        ("false alarms, naive daily looks", percent(equal.naive.share), "why nobody should look that way"),
    ]
    for name, result in comparison.challengers.items():
        rows.append(
            (f"spread taken out by the weeks before, {name}", percent(result.variance_reduction), "more is better")
        )
        if result.true_lift is not None:
            found = result.metrics[comparison.goal].lift
            inside = "inside the range" if found.low <= result.true_lift <= found.high else "outside the range"
            rows.append((f"lift of {name}, had all users had both", percent(result.true_lift, signed=True), inside))
    return Section(
        "Can the numbers be trusted",
        (Table("Checks of the experiment itself", ("check", "found", "meaning"), tuple(rows), text=True),),
    )


def _off(share: float, level: float) -> str:
    return "narrow" if share > level else "wide"


def verdict_lines(comparison: Comparison) -> list[str]:
    """A line for each challenger, for a terminal."""
    return [answer_of(comparison, name).text for name in comparison.challengers]
