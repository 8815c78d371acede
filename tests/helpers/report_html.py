"""Parse a page strictly: every tag is closed in order and attributes are unique."""

from html.parser import HTMLParser

_VOID = {
    "meta",
    "link",
    "br",
    "img",
    "hr",
    "input",
    "area",
    "base",
    "col",
    "embed",
    "source",
    "track",
    "wbr",
}
_LOADING = {
    "src",
    "href",
    "xlink:href",
    "srcset",
    "data",
    "poster",
    "action",
    "formaction",
    "background",
}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tables: id -> rows of cell texts, headings first.
        aria_sort: id of a table -> state of each sortable heading.
        loads: (tag, address) of each resource that is not inline, except `#...` and CSV data.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.aria_sort: dict[str, list[str]] = {}
        self.text = ""
        self._table: list[list[str]] | None = None
        self._cell: str | None = None
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        assert len(named) == len(attributes), f"an attribute twice: {tag} {attributes}"
        self.tags.append(tag)
        if "id" in named:
            self.ids.append(named["id"] or "")
        self.loads += [
            (tag, value)
            for name, value in attributes
            if name in _LOADING and value and not value.startswith(("#", "data:text/csv;"))
        ]
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(named["id"] or "", [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th"):
            self._cell = ""
            if "aria-sort" in named:
                self.aria_sort.setdefault(next(reversed(self.tables)), []).append(
                    named["aria-sort"] or ""
                )

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> at {self.getpos()} inside {self.open}"
        self.open.pop()
        if tag in ("td", "th"):
            assert self._table is not None and self._cell is not None
            self._table[-1].append(" ".join(self._cell.split()))
            self._cell = None
        elif tag == "table":
            self._table = None

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if self._cell is not None:
            # The parts of a cell are separate elements without a space between them.
            self._cell += data + (" " if self.open[-1] in ("span", "small", "button", "a") else "")
