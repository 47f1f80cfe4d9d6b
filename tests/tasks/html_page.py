"""An HTML page as the tests read it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = ("meta",)


class Page(HTMLParser):
    """A page whose elements all close in order and which loads no other file.

    Attributes:
        tags: of every element, in order.
        attributes: of every element likewise.
        texts: between the tags.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def given(self, name: str) -> list[str | None]:
        """The values of an attribute, in order."""
        return [attributes[name] for attributes in self.attributes if name in attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)
        assert "src" not in dict(attrs), "the page needs no other file"

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
