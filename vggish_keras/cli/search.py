"""The command `search`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vggish_keras._atomic import atomic_write
from vggish_keras._errors import counted
from vggish_keras._text import csv_lines
from vggish_keras.cli.options import (
    channels_option,
    check_csv_output,
    check_not_input,
    dtype_option,
    open_embedder,
    pca_option,
    weights_option,
)
from vggish_keras.cli.streams import DASH
from vggish_keras.cli.tables import harmless, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vggish_keras.embedder import Embedder
    from vggish_keras.similarity import Match


@click.command(short_help="Find the recordings most similar to a sound.")
@click.argument("query", type=click.Path())
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option(
    "-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="Number of recordings to find."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="A .csv file for the result, which is replaced if it exists, or - for standard output.  [default: print a "
    "table]",
)
@click.option(
    "--index",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .usearch file that makes searches in millions of embeddings fast; made if it does not exist. It may miss "
    "some recordings.",
)
@weights_option
@dtype_option
@channels_option
@pca_option
def search(query: str, embeddings: Path, number: int, output: str | None, index: Path | None, **options: Any) -> None:
    """Find the recordings in EMBEDDINGS that are most similar to QUERY, a recording.

    EMBEDDINGS are a folder, or an .npz, .csv or .parquet file, written by vggish embed with the same weights. The query
    is embedded with the same hop, padding and post-processing; repeat --pca and --channels if the corpus was embedded
    with them. Each recording is represented by its most similar example: the result holds its start in seconds, and the
    cosine of the angle between its embedding and the mean embedding of the query.
    """
    from vggish_keras import corpus, embedding_files
    from vggish_keras.similarity import search as find

    check_csv_output(output)
    check_not_input(output, query, embeddings)
    if not Path(query).is_file():
        raise click.ClickException(f"no audio file at {query}")
    embedding_files.check_path(corpus.saved_files(embeddings)[0])
    saved = (corpus.read_folder_options(embeddings) or {}) if embeddings.is_dir() else None
    saved = embedding_files.read_options(embeddings) if saved is None else saved
    embedder = _open_embedder(saved, embeddings, options)
    found = embedder.embed(query)
    if not len(found):
        raise click.ClickException(f"{query} is shorter than an example (0.975 s)")
    matches = find(found, embeddings, number, index)
    if output is None:
        _print(matches)
    elif output == DASH:
        click.echo(_format(matches), nl=False)
    else:
        with atomic_write(Path(output)) as partial:
            partial.write_bytes(_format(matches))
        click.echo(f"{output}: {counted(len(matches), 'recording')}", err=True)


def _open_embedder(saved: "Mapping[str, Any]", path: Path, options: dict[str, Any]) -> "Embedder":
    """Opens the embedder that made the saved embeddings; raises a ValueError for one with different weights."""
    kept = {name: saved[name] for name in ("hop_seconds", "padding", "postprocess") if name in saved}
    embedder = open_embedder(**kept, **options)
    weights = saved.get("weights")
    if weights is None:
        click.echo(f"Warning: {path} does not state its weights, so they may differ from those of the query", err=True)
    elif weights != embedder.options["weights"]:
        raise ValueError(f"{path} was made with weights {weights}, the query with {embedder.options['weights']}")
    for name in ("channels", "dtype"):
        if name in saved and saved[name] != embedder.options[name]:
            made, now = saved[name], embedder.options[name]
            click.echo(f"Warning: {path} was made with {name} {made}, the query with {now}", err=True)
    return embedder


def _format(matches: "Sequence[Match]") -> bytes:
    rows = ([match.recording, f"{match.time:.9g}", f"{match.similarity:.9g}"] for match in matches)
    return csv_lines([["file", "time", "similarity"], *rows])


def _print(matches: "Sequence[Match]") -> None:
    from rich.table import Table

    table = Table("recording", "seconds", "similarity")
    for match in matches:
        table.add_row(harmless(match.recording), f"{match.time:.2f}", f"{match.similarity:.4f}")
    print_table(table)
