"""The command `show`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vggish_keras._errors import counted
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras._validation import file_suffix
from vggish_keras.cli.tables import harmless

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vggish_keras.corpus import Contents


@click.command(short_help="Show what an output contains.")
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(path: Path, as_json: bool) -> None:
    """Show what FILE|FOLDER, an output of `vggish embed`, contains and how it was made.

    A file is an .npz, .csv, .parquet or .tfrecord file, the OUTPUT.unfinished of an interrupted run, or the statistics
    that `vggish fad` saved. Times are the starts of the first and the last example. The exit status is 1 if files of a
    folder are damaged.
    """
    from vggish_keras import corpus, embedding_files, frechet

    if file_suffix(path) == embedding_files.RECORDS_SUFFIX and not path.is_dir():
        load_tensorflow()
    if path.is_file() and frechet.holds_statistics(path):
        _show_statistics(path, as_json)
        return
    contents = corpus.read_contents(path)
    if as_json:
        click.echo(json.dumps({"path": str(path), **contents._asdict()}, indent=2))
    else:
        _show(path, contents)
    for message in contents.damaged.values():
        click.echo(f"Error: {message}", err=True)
    if contents.damaged:
        sys.exit(1)


def _show(path: Path, contents: "Contents") -> None:
    click.echo(f"{path}: {counted(contents.rows, 'embedding')} of {counted(contents.recordings, 'recording')}")
    if contents.first_time is not None:
        click.echo(f"times: {contents.first_time:.2f} to {contents.last_time:.2f} s")
    if contents.dtype is not None:
        click.echo(f"embeddings: {contents.dtype}")
    _show_options(contents.options)


def _show_statistics(path: Path, as_json: bool) -> None:
    from vggish_keras.frechet import Statistics

    statistics = Statistics.load(path)
    if as_json:
        values = {"n": statistics.n, "recordings": statistics.recordings, "options": statistics.options}
        click.echo(json.dumps({"path": str(path), **values}, indent=2))
        return
    click.echo(f"{path}: statistics of {statistics.describe()}")
    _show_options(statistics.options)


def _show_options(options: "Mapping[str, Any]") -> None:
    for name, value in options.items():
        click.echo(harmless(f"{name}: {'none' if value is None else value}"))
    if not options:
        click.echo("made with: unknown options")
