"""Tables on standard output."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from vggish_keras._errors import counted
from vggish_keras._text import printable

if TYPE_CHECKING:
    from vggish_keras.embeddings import Embeddings

_ROWS_SHOWN = 20
_DIMENSIONS_SHOWN = 5


def harmless(name: str) -> str:
    """The name without characters that a terminal would act on, or cannot show."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", printable(name))


def print_embeddings(name: str, embeddings: "Embeddings") -> None:
    from rich.table import Table

    count, size = embeddings.values.shape
    click.echo(f"{harmless(name)}: {counted(count, 'embedding')} of {size} values")
    table = Table("seconds", *(f"[{dimension}]" for dimension in range(_DIMENSIONS_SHOWN)), "...")
    for time, values in list(zip(*embeddings, strict=True))[:_ROWS_SHOWN]:
        table.add_row(f"{time:.2f}", *(f"{value:.3g}" for value in values[:_DIMENSIONS_SHOWN]))
    if count:
        print_table(table)
    if count > _ROWS_SHOWN:
        click.echo(f"and {count - _ROWS_SHOWN} more")


def print_scores(name: str, examples: int, rows: Iterable[tuple[str, float]]) -> None:
    from rich.table import Table

    click.echo(f"{harmless(name)}: mean scores of {counted(examples, 'example')}")
    table = Table("label", "mean score")
    for label, score in rows:
        table.add_row(harmless(label), f"{score:.3g}")
    print_table(table)


def print_table(table: Any) -> None:
    from rich.console import Console

    Console(markup=False, highlight=False, emoji=False).print(table)
