"""The README's code blocks. A comment before each names its test, or says why it has none."""

import re
from pathlib import Path
from typing import NamedTuple

README = (Path(__file__).parent.parent / "README.md").read_text()


class Block(NamedTuple):
    """A code block and its name: `<!-- test: name -->`, or None after `<!-- not tested: reason -->`."""

    name: str | None
    language: str
    text: str


def blocks():
    found = []
    for comment, language, text in re.findall(
        r"^(?:<!-- ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
    ):
        kind, _, value = comment.partition(": ")
        assert kind in ("test", "not tested"), f"name the test of this block, or say why it has none:\n{text}"
        found.append(Block(value if kind == "test" else None, language, text))
    return found


def block(name):
    (found,) = (found for found in blocks() if found.name == name)
    return found.text


def commands(name):
    """The lines of a block, each a command."""
    return block(name).splitlines()
