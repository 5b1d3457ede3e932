"""The command `explore`."""

import csv
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vggish_keras._validation import file_suffix
from vggish_keras.cli.options import check_pca, embedder_options, open_embedder, postprocess_option

if TYPE_CHECKING:
    from vggish_keras.embeddings import Embeddings

_NAME_COLUMN = "file"


@click.command(short_help="Create a page for browsing and listening to a corpus.")
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The .html file. An existing file is replaced.",
)
@click.option(
    "--audio",
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="If INPUTS are saved embeddings: the folder of their recordings, which the page then plays and draws.",
)
@click.option(
    "--labels",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A .csv file with the column file, and a column for each way to color the recordings.",
)
@click.option("--examples", is_flag=True, help="Show each example, not each recording.")
@click.option(
    "--layout",
    type=click.Choice(["umap", "pca"]),
    help="How points are arranged.  [default: umap, or pca for fewer than 50 points]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the layout.")
@click.option("--embed-audio", is_flag=True, help="Store the first 30 s of each recording in the page.")
@click.option("--title", help="Title of the page.  [default: the name of the first input]")
@postprocess_option
@embedder_options
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def explore(
    inputs: tuple[str, ...],
    output: Path,
    audio: Path | None,
    labels: Path | None,
    examples: bool,
    layout: Literal["umap", "pca"] | None,
    seed: int,
    embed_audio: bool,
    title: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Create a map of INPUTS, recordings or saved embeddings, as one HTML page to open in a browser.

    INPUTS are recordings, folders or patterns, which are embedded, or a single output of vggish embed: a folder, or an
    .npz, .csv or .parquet file. Similar recordings are close to each other. The page plays them, and lists the nearest
    recordings to each, near-duplicates, outliers, and silent or clipped recordings. It refers to the recordings by
    relative paths, and needs no network. Options for embedding, such as --weights and --hop, have no effect on saved
    embeddings.

    Recordings that cannot be read are reported and left out; the exit status is then 1.
    """
    from vggish_keras.explorer import check_page_path, explore as make_page

    try:
        check_page_path(output)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    check_pca(options["pca_params"], options["postprocess"])
    colorings = {} if labels is None else _read_labels(labels)
    failures: list[str] = []
    if _is_saved(inputs):
        source = _read_saved(Path(inputs[0]), audio, failures)
    else:
        audio, source = _embed(inputs, audio, options, quiet, failures)
    if embed_audio and audio is None:
        raise click.UsageError("--embed-audio requires --audio")
    unreadable: list[str] = []
    try:
        unreadable = make_page(
            _check_labels(source, colorings, labels),
            output,
            audio=audio,
            labels=colorings,
            examples=examples,
            layout=layout,
            seed=seed,
            embed_audio=embed_audio,
            channels=options["channels"],
            title=title or Path(inputs[0]).name or inputs[0],
        )
    finally:
        for reason in (*failures, *unreadable):
            click.echo(f"Error: {reason}", err=True)
    click.echo(f"wrote {output}")
    if failures or unreadable:
        sys.exit(1)


def _is_saved(inputs: tuple[str, ...]) -> bool:
    from vggish_keras import corpus, embedding_files

    saved = [
        name
        for name in inputs
        if file_suffix(name) in embedding_files.SUFFIXES
        or (Path(name).is_dir() and corpus.read_folder_options(Path(name)) is not None)
    ]
    if saved and len(inputs) > 1:
        raise click.UsageError(f"saved embeddings must be the only input, got {saved[0]} and {len(inputs) - 1} more")
    return bool(saved)


def _read_saved(path: Path, audio: Path | None, failures: list[str]) -> Iterator[tuple[str, "Embeddings"]]:
    """Reads embeddings, whose recordings are called as they are when the folder of recordings itself is explored."""
    from vggish_keras import corpus, embedding_files

    if not path.is_dir():
        start = _common_folder(path, audio)
        for name, embeddings in embedding_files.read(path):
            yield (name if start is None else Path(name).relative_to(start).as_posix()), embeddings
        return
    for file in corpus.saved_files(path):
        name = file.relative_to(path).as_posix().removesuffix(".npz")
        try:
            found = list(embedding_files.read(file))
        except (OSError, ValueError) as error:
            failures.append(str(error))
        else:
            yield from ((name, embeddings) for _, embeddings in found)


def _common_folder(path: Path, audio: Path | None) -> Path | None:
    """The folder in the names of a file's recordings that stands for `audio`; None if this contains none of them."""
    from vggish_keras import embedding_files

    if audio is None:
        return None
    names = [Path(name) for name in set(embedding_files.read_rows(path).files)]
    try:
        common = Path(os.path.commonpath([name.parent for name in names]))
    except ValueError:  # no names, or both absolute and relative ones
        return None
    starts = (*reversed(common.parents), common)
    return next((start for start in starts if any((audio / name.relative_to(start)).is_file() for name in names)), None)


def _embed(
    inputs: tuple[str, ...], audio: Path | None, options: dict[str, Any], quiet: bool, failures: list[str]
) -> tuple[Path, Iterator[tuple[str, "Embeddings"]]]:
    from vggish_keras.cli.errors import describe_error, exit_if_missing
    from vggish_keras.recordings import find_recordings

    if audio is not None:
        raise click.UsageError("--audio requires saved embeddings: other recordings are played from their own paths")
    recordings = find_recordings(inputs)
    exit_if_missing([path for path in recordings.paths if not path.exists()])
    embedder = open_embedder(**options)

    def results() -> Iterator[tuple[str, "Embeddings"]]:
        for path, result in embedder.embed_many(recordings.paths, progress=not quiet):
            if isinstance(result, Exception):
                failures.append(describe_error(result))
            else:
                yield recordings.relative_path(path).as_posix(), result

    return recordings.folder, results()


def _read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Reads the label of each recording, for each column but the first."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            names, rows = list(table.fieldnames or ()), list(table)
    except csv.Error as error:
        raise click.UsageError(f"{path} is not a .csv file: {error}") from error
    columns = [name for name in names if name != _NAME_COLUMN]
    if not columns or _NAME_COLUMN not in names:
        raise click.UsageError(f"{path} must have the column {_NAME_COLUMN} and at least one more")
    return {column: {row[_NAME_COLUMN]: row[column] or "none" for row in rows} for column in columns}


def _check_labels(
    source: Iterator[tuple[str, "Embeddings"]], labels: Mapping[str, Mapping[str, str]], path: Path | None
) -> Iterator[tuple[str, "Embeddings"]]:
    """Passes recordings on; raises a ValueError at their end if none of them has a label."""
    named = set().union(*labels.values())
    found = False
    example = ""
    for name, embeddings in source:
        found |= name in named
        example = name
        yield name, embeddings
    if labels and not found:
        raise ValueError(
            f"{path} names none of the recordings: its column {_NAME_COLUMN} must contain names such as {example}"
        )
