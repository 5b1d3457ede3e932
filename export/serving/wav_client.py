"""What the gRPC and the REST client share: WAV files in, embeddings or one line about what went wrong out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from vggish_keras import embedding_files, params
from vggish_keras._errors import error_message
from vggish_keras.embeddings import Embeddings

SIGNATURE = "wav"

_VALUES_SHOWN = 5


class ServingError(Exception):
    """A server that does not answer, or refuses; the text is its own."""


def cut(outputs: Mapping[str, Any]) -> list[np.ndarray]:
    """The embeddings of each clip, from the outputs of the `wav` or the `padded` signature.

    Args:
        outputs: `embedding` [clips, n, 128], where n is that of the longest clip in the server's batch, and
            `num_examples` [clips]; arrays or nested lists.

    Returns:
        For each clip float32 [num_examples, 128].

    Raises:
        ServingError: There are no such outputs.
    """
    if not {"embedding", "num_examples"} <= set(outputs):
        raise ServingError(f"expected the outputs embedding and num_examples, got {', '.join(sorted(outputs))}")
    return [
        np.asarray(rows[:count], np.float32).reshape(count, params.EMBEDDING_SIZE)
        for rows, count in zip(outputs["embedding"], outputs["num_examples"], strict=True)
    ]


def run(
    embed: Callable[[list[bytes]], list[np.ndarray]], files: Sequence[Path], output: Path | None, hop: float
) -> None:
    """Embeds files in one request, and prints a line for each or writes them all to one file.

    Args:
        embed: Takes the contents of the files to their embeddings.
        files: WAV files.
        output: The file to write, .npz, .csv or .parquet; None prints.
        hop: Seconds from example to example, which the server does not tell.

    Raises:
        click.ClickException: A file that cannot be read, or no answer.
    """
    try:
        wavs = [file.read_bytes() for file in files]
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be read: {error.strerror}") from error
    try:
        parts = embed(wavs)
    except (ServingError, ImportError) as error:
        raise click.ClickException(error_message(error)) from error
    if output is None:
        for file, values in zip(files, parts, strict=True):
            click.echo(_summary(str(file), values))
    else:
        _write(output, files, parts, hop)
        click.echo(f"{output}: {sum(map(len, parts))} embeddings")


def _summary(name: str, values: np.ndarray) -> str:
    count, size = values.shape
    first = f", the first {' '.join(f'{value:.3g}' for value in values[0, :_VALUES_SHOWN])} .." if count else ""
    return f"{name}: {count} embeddings of {size} values{first}"


def _write(output: Path, files: Sequence[Path], parts: Sequence[np.ndarray], hop: float) -> None:
    named = zip(files, parts, strict=True)
    embedding_files.write(
        output, [(str(file), Embeddings(hop * np.arange(len(values)), values)) for file, values in named]
    )


def _check_output(_context: click.Context, _parameter: click.Parameter, output: Path | None) -> Path | None:
    """A usage error unless `output` is None or a path that `embedding_files.write` takes."""
    if output is None:
        return None
    try:
        return embedding_files.check_path(output)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_PARAMETERS = (
    click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path)),
    click.option("--model", default="vggish", show_default=True, help="The model's name on the server."),
    click.option(
        "--timeout", default=10.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds to wait."
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        callback=_check_output,
        help="Write .npz, .csv or .parquet, by the suffix.",
    ),
    click.option(
        "--hop",
        default=0.96,
        show_default=True,
        type=click.FloatRange(0, min_open=True),
        help="Seconds from example to example in the model served, for the times in the output.",
    ),
)


def parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the arguments and options that both clients take."""
    for parameter in reversed(_PARAMETERS):
        command = parameter(command)
    return command
