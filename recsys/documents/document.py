"""The parts of a document that people read, as a page of HTML or as Markdown.

Text is plain here: what comes from data is escaped where it is written, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MOST_CHARACTERS = 300
"""Length at which a text that comes from data is cut."""

LEAST = 2
"""Rank of the sections that the page alone may have."""


@dataclass(frozen=True)
class Code:
    """A name, hash or command, set as code."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that stand out."""

    text: str


Words = str | Code | Strong
Line = tuple[Words, ...]
"""Words that follow each other without a break."""


@dataclass(frozen=True)
class Paragraph:
    """One line of text."""

    line: Line


@dataclass(frozen=True)
class Points:
    """A list, one line a point."""

    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Facts:
    """Names and what each of them is."""

    rows: tuple[tuple[str, Line], ...]


@dataclass(frozen=True)
class Table:
    """Rows under a caption. The first column names the row.

    Attributes:
        caption: what the rows are.
        columns: their heads.
        rows: as many cells each.
        text: whether the cells are text; numbers stand to the right.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Words, ...], ...]
    text: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG file that a page shows.

    Attributes:
        title: what it shows, also for those who cannot see it.
        path: of the file.
    """

    title: str
    path: Path


@dataclass(frozen=True)
class Drawing:
    """A chart that is part of a page, drawn in its colours.

    Attributes:
        title: what it shows.
        svg: an `svg` element, whose maker has escaped what comes from data.
    """

    title: str
    svg: str


@dataclass(frozen=True)
class Figures:
    """A few numbers that stand out.

    Attributes:
        entries: name, number and explanation of each.
    """

    entries: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Answer:
    """What a document comes to, said first.

    Attributes:
        tone: what it means for the reader.
        text: a sentence.
        more: what it rests on.
    """

    tone: Literal["good", "bad", "open"]
    text: str
    more: str = ""


@dataclass(frozen=True)
class Listing:
    """Lines of code.

    Attributes:
        text: the lines.
        language: of the code.
    """

    text: str
    language: str


Block = Paragraph | Points | Facts | Table | Picture | Drawing | Figures | Answer | Listing


@dataclass(frozen=True)
class Section:
    """A part of a document under a heading of its own.

    Attributes:
        title: the heading.
        blocks: what everybody reads.
        details: what the page alone has, where there is room for it.
        rank: of its importance, 0 the highest: where Markdown has no room for all, sections of lower rank go first.
    """

    title: str
    blocks: tuple[Block, ...]
    details: tuple[Block, ...] = field(default=())
    rank: int = 1


@dataclass(frozen=True)
class Document:
    """A title and its sections.

    Attributes:
        title: of the whole.
        sections: in their order.
        lead: what stands between them.
    """

    title: str
    sections: tuple[Section, ...]
    lead: tuple[Block, ...] = ()


def clipped(text: str, most: int = MOST_CHARACTERS) -> str:
    """Text on one line, cut at `most` characters.

    Example:
        >>> clipped("one  two", most=5)
        'one …'
    """
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= most else one_line[: most - 1] + "…"
