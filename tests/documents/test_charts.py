"""Charts show what they are given, and escape it."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from recsys.documents.charts import Band, Interval, band_chart, interval_chart, ticks
from recsys.documents.document import Answer, Document, Drawing, Figures
from recsys.documents.page import to_page
from recsys.tracking.cards.markdown import to_markdown

EVIL = "<script>alert('x')</script> & \"quoted\""


@pytest.mark.parametrize(("low", "high"), [(-0.03, 0.21), (0.0, 1.0), (-7.0, 1e-3), (1e-6, 3e-6), (-40.0, 950.0)])
def test_ticks_are_round_few_and_around_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 3 <= len(found) <= 8
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert steps == {1.0}


def test_rows_stand_where_their_values_are() -> None:
    rows = [Interval("a", 0.1, 0.0, 0.2, "a"), Interval(EVIL, -0.1, -math.inf, math.inf, "<b>", "other")]
    svg = ElementTree.fromstring(interval_chart("t", EVIL, rows, x_name="x", number="{:g}".format, limit=-0.2))
    texts = {text.text: float(text.get("x", 0)) for text in svg.iter("text")}
    circles = [float(circle.get("cx", 0)) for circle in svg.iter("circle")]
    zero, mark = texts["0"], texts["0.2"]
    assert circles[0] == pytest.approx((zero + mark) / 2, abs=0.2)
    assert circles[1] == pytest.approx(zero - (mark - zero) / 2, abs=0.2)
    assert svg.find("desc").text == EVIL and svg.get("role") == "img"  # type: ignore[union-attr]


def test_bands_go_through_their_values_and_are_cut_at_the_edge() -> None:
    band = Band("b", [0.5, 0.2, 0.1], [-math.inf, 0.0, 0.0], [math.inf, 0.4, 0.2])
    svg = ElementTree.fromstring(band_chart("t", "d", [1, 2, 3], [band], x_name="x", y_name="y", number="{:g}".format))
    marks = {text.text: float(text.get("y", 0)) - 4 for text in svg.iter("text")}
    line = next(each for each in svg.iter("polyline"))
    last = line.get("points", "").split()[-1].split(",")
    assert float(last[1]) == pytest.approx((marks["0"] + marks["0.2"]) / 2, abs=0.2)
    corners = [float(y) for y in re.findall(r",([\d.]+)", next(iter(svg.iter("polygon"))).get("points", ""))]
    assert min(corners) >= 36 - 0.1 and max(corners) <= 330 - 46 + 0.1


def test_what_is_said_first_stands_in_both_forms_and_is_escaped() -> None:
    lead = (Answer("good", f"Ship {EVIL}", "because"), Figures(((EVIL, "1", "one"),)), Drawing("t", "<svg></svg>"))
    document = Document("t", (), lead)
    page = to_page(document, 2**20)
    assert "<script>" not in page and page.count("&lt;script&gt;") == 2
    assert page.index("Ship") < page.index("because") < page.index("<svg>")
    assert "Ship" in to_markdown(document, "p") and "<script>" not in to_markdown(document, "p")
