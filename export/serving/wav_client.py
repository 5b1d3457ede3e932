"""Shared code of the gRPC and the REST client: WAV files in, embeddings or a one-line error out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from vggish_keras import embedding_files, params
from vggish_keras._errors import error_message
from vggish_keras.embeddings import Embeddings

SIGNATURE = "wav"
OUTPUTS = ("embedding", "num_examples", "times")

_VALUES_SHOWN = 5


class ServingError(Exception):
    """The server does not answer or reports an error."""


def split_clips(outputs: Any) -> list[Embeddings]:
    """Cuts the outputs of the `wav` or the `padded` signature into the embeddings of each clip.

    Args:
        outputs: Arrays or nested lists: `embedding` [clips, n, 128] and `times` [clips, n], where n is that of the
            longest clip in the server's batch, and `num_examples` [clips].

    Returns:
        The embeddings of each clip.

    Raises:
        ServingError: An output is missing.
    """
    found = sorted(outputs) if isinstance(outputs, Mapping) else []
    missing = [name for name in OUTPUTS if name not in found]
    if missing:
        raise ServingError(
            f"the served model does not return {', '.join(missing)}, only {', '.join(found) or 'a single output'}: "
            "export it with this version of vggish"
        )
    # Times are multiples of 10 ms, which float32 holds only nearly.
    return [
        Embeddings(
            np.round(np.asarray(times[:count], np.float64), 2),
            np.asarray(rows[:count], np.float32).reshape(count, params.EMBEDDING_SIZE),
        )
        for rows, count, times in zip(*(outputs[name] for name in OUTPUTS), strict=True)
    ]


def run(embed: Callable[[list[bytes]], list[Embeddings]], files: Sequence[Path], output: Path | None) -> None:
    """Embeds files in one request, and prints a line per file or writes all embeddings to one file.

    Args:
        embed: Returns the embeddings of WAV files from their contents.
        files: WAV files.
        output: The file to write, .npz, .csv or .parquet; None prints.

    Raises:
        click.ClickException: A file cannot be read, or the request fails.
    """
    try:
        wavs = [file.read_bytes() for file in files]
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be read: {error.strerror}") from error
    try:
        clips = embed(wavs)
    except (ServingError, ImportError) as error:
        raise click.ClickException(error_message(error)) from error
    recordings = [(str(file), embeddings) for file, embeddings in zip(files, clips, strict=True)]
    if output is None:
        for name, embeddings in recordings:
            click.echo(_summary(name, embeddings))
    else:
        try:
            embedding_files.write(output, recordings)
        except OSError as error:
            raise click.ClickException(error_message(error)) from error
        count = sum(len(embeddings.values) for embeddings in clips)
        click.echo(f"{output}: {count} embedding{'s' * (count != 1)}")


def _summary(name: str, embeddings: Embeddings) -> str:
    count, size = embeddings.values.shape
    shown = " ".join(f"{value:.3g}" for value in embeddings.values[0, :_VALUES_SHOWN]) if count else ""
    return (
        f"{name}: {count} embedding{'s' * (count != 1)} of {size} values{f', the first {shown} ...' if count else ''}"
    )


def _check_output(_context: click.Context, _parameter: click.Parameter, output: Path | None) -> Path | None:
    """Rejects a path that `embedding_files.write` does not accept, as a usage error."""
    if output is None:
        return None
    try:
        return embedding_files.check_path(output)
    except (ValueError, ImportError) as error:
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
        help="Write the embeddings to an .npz, .csv or .parquet file, chosen by its suffix.",
    ),
)


def shared_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the arguments and options of both clients to a command."""
    for parameter in reversed(_PARAMETERS):
        command = parameter(command)
    return command
