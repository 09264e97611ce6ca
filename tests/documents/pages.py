"""Pages as a reader meets them, and text that tries to break out of one."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

from recsys.tracking.cards.markdown import GAP

EVIL = "<script>alert('x')</script> a|b **c** _d_ `e` [f](http://evil.example) http://evil.example &amp; \\| ~~g~~ <!--"
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Elements, attributes and tables of a page whose every element is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._caption, self._rows = "", []
        self.feed(page)
        self.close()
        assert self.open == [], "elements that are never closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            # Markdown has no captions: the heads tell its tables apart there.
            self.tables[self._caption or " ".join(map(" ".join, self._rows))] = self._rows

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if "caption" in self.open:
            self._caption += data
        elif "th" in self.open or "td" in self.open:
            self._rows[-1][-1] += data.removesuffix(GAP)


def rendered(markdown: str) -> Page:
    """The Markdown as a reader sees it; HTML in it would be let through."""
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))
