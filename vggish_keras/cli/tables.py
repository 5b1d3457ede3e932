"""Tables on standard output."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from vggish_keras._errors import counted

if TYPE_CHECKING:
    from vggish_keras.embeddings import Embeddings

_ROWS_SHOWN = 20
_DIMENSIONS_SHOWN = 5


def print_embeddings(name: str, embeddings: "Embeddings") -> None:
    from rich.table import Table

    count, size = embeddings.values.shape
    click.echo(f"{name}: {counted(count, 'embedding')} of {size} values")
    table = Table("seconds", *(f"[{dimension}]" for dimension in range(_DIMENSIONS_SHOWN)), "...")
    for time, values in list(zip(*embeddings, strict=True))[:_ROWS_SHOWN]:
        table.add_row(f"{time:.2f}", *(f"{value:.3g}" for value in values[:_DIMENSIONS_SHOWN]))
    if count:
        print_table(table)
    if count > _ROWS_SHOWN:
        click.echo(f"and {count - _ROWS_SHOWN} more")


def print_scores(name: str, examples: int, rows: Iterable[tuple[str, float]]) -> None:
    from rich.table import Table

    click.echo(f"{name}: mean scores of {counted(examples, 'example')}")
    table = Table("label", "mean score")
    for label, score in rows:
        table.add_row(label, f"{score:.3g}")
    print_table(table)


def print_table(table: Any) -> None:
    from rich.console import Console

    Console(markup=False, highlight=False, emoji=False).print(table)
