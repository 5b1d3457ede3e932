"""The code blocks of the README and the pages. A comment before each names its test, or says why it has none."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A code block and its name: `<!-- test: name -->`, or None after `<!-- not tested: reason -->`."""

    name: str | None
    language: str
    text: str


def read(page):
    return (ROOT / page).read_text()


def blocks(page):
    found = []
    for comment, language, text in re.findall(
        r"^(?:<!-- ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE
    ):
        kind, _, value = comment.partition(": ")
        assert kind in ("test", "not tested"), f"{page}: name the test of this block, or say why it has none:\n{text}"
        found.append(Block(value if kind == "test" else None, language, text))
    return found


def block(page, name):
    (found,) = (found for found in blocks(page) if found.name == name)
    return found.text


def commands(page, name):
    """The lines of a block, each a command."""
    return block(page, name).splitlines()
