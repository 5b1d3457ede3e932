"""The command line: parses arguments and calls the package."""

import itertools
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vggish_keras import __version__
from vggish_keras._errors import error_message

if TYPE_CHECKING:
    from vggish_keras.embeddings import Embeddings

_ROWS_SHOWN = 20
_DIMENSIONS_SHOWN = 5
_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
_UNTRAINED = "the published weights could not be had: these embeddings come from untrained weights"


class _Commands(click.Group):
    """Tells what went wrong in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                raise
            except KeyboardInterrupt:
                sys.exit(_INTERRUPTED)
            except (ValueError, TypeError, OSError, ImportError) as error:
                raise click.ClickException(error_message(error)) from error


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="vggish")
def main() -> None:
    """VGGish audio embeddings of recordings."""


def run() -> None:
    """Runs the command and ends the process."""
    try:
        main()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would interrupt the exit
        raise


def load_tensorflow() -> None:
    """Imports TensorFlow without the messages that it prints at each start, some whatever the log level.

    It is slow to import: call this, and import what needs it, where it is used, so that --help answers at once.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.stderr is None:  # closed
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except Exception:
            messages.seek(0)
            os.write(terminal, messages.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


_weights_option = click.option(
    "--weights",
    default="audioset",
    show_default=True,
    help="audioset (published), or the path of a TF-Slim checkpoint, a Keras weights file or an exported SavedModel.",
)


# === embed ===


def _check_hop(_context: click.Context, _parameter: click.Parameter, hop: float) -> float:
    from vggish_keras.framing import hop_frames

    try:
        hop_frames(hop)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return hop


_hop_option = click.option(
    "--hop", default=0.96, show_default=True, callback=_check_hop, help="Seconds from example to example."
)
_padding_option = click.option("--padding", type=click.Choice(["same", "valid"]), default="same", show_default=True)
_dtype_option = click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)


class _Channels(click.ParamType):
    name = "mix|INDEX"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value != "mix" and not str(value).isdecimal():
            self.fail(f'expected "mix" or the index of a channel, got {value!r}', parameter, context)
        return value if value == "mix" else int(value)


_channels_option = click.option(
    "--channels",
    type=_Channels(),
    default="mix",
    show_default=True,
    help="The mean of a recording's channels, or the channel of that index, from 0.",
)
_batch_size_option = click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)


def check_output(_context: click.Context, _parameter: click.Parameter, output: Path | None) -> Path | None:
    """A usage error unless `output` is None or a path that `embedding_files.write` takes."""
    if output is None:
        return None
    from vggish_keras import embedding_files

    try:
        return embedding_files.check_path(output)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@main.command()
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option("--list", "listed", type=click.File("rb"), help="Embed the files of this list, too; - is standard input.")
@click.option(
    "-o", "--output", help="Write a folder of .npz files, or one .npz, .csv, .parquet or .tfrecord file, by the suffix."
)
@click.option("--resume", is_flag=True, help="Go on with what a stopped run left.")
@click.option("--shards", type=click.IntRange(1, 99_999), default=1, show_default=True, help="Of a .tfrecord output.")
@click.option(
    "--segments",
    type=click.Path(exists=True, dir_okay=False),
    help="AudioSet's list of segments, for a .tfrecord output.",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    help="AudioSet's class_labels_indices.csv, for --segments.",
)
@_hop_option
@_padding_option
@click.option("--postprocess", type=click.Choice(["pca", "quantized"]), help="PCA and whitening, and 8 bits.")
@_weights_option
@_dtype_option
@_channels_option
@_batch_size_option
@click.option("--quiet", is_flag=True, help="Show neither progress nor totals.")
def embed(
    inputs: tuple[str, ...],
    listed: Any,
    output: str | None,
    resume: bool,
    shards: int,
    segments: str | None,
    labels: str | None,
    hop: float,
    padding: str,
    postprocess: str | None,
    weights: str,
    dtype: str,
    channels: Any,
    batch_size: int,
    quiet: bool,
) -> None:
    """Embed INPUTS and print tables, or write the embeddings with -o.

    INPUTS are recordings, folders that are searched for them, or patterns like 'audio/**/*.wav'. A file named - is ./-.

    A file that cannot be read is named, the others are embedded all the same, and the exit status is 1. With -o the
    bad files are listed in failures.csv in the output folder, or in OUTPUT.failures.csv beside the output file.

    --resume goes on with a run that was stopped, and tries bad files again. Until a single file is complete, what is
    finished is in OUTPUT.unfinished.
    """
    from vggish_keras import corpus, recordings as recordings_lib, segments as segments_lib
    from vggish_keras.progress import Progress

    try:
        listed_paths = recordings_lib.read_list(listed) if listed else []
        recordings = recordings_lib.find_recordings(inputs, listed_paths, output)
        target = None if output is None else corpus.check_target(output)
        options: dict[str, Any] = {
            "weights": weights,
            "hop": hop,
            "padding": padding,
            "dtype": dtype,
            "channels": channels,
        }
        if target is not None and target.is_records:
            if postprocess == "pca":
                raise ValueError("a .tfrecord output holds 8 bits: --postprocess quantized")
            postprocess = "quantized"
            options |= {"segments": segments, "labels": labels}
        elif shards > 1 or segments:
            raise ValueError("--shards and --segments are for a .tfrecord output")
        options["postprocess"] = postprocess
        if labels and not segments:
            raise ValueError("--labels is for --segments")
        if resume and target is None:
            raise ValueError("--resume needs an output: -o")
        known = segments_lib.read_segments(segments, labels) if segments else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    write_records = corpus.RecordWriter(hop, shards, known)
    if resume and target is not None and corpus.is_complete(target, write_records):
        if not quiet:
            click.echo(f"{target.path} is complete: there is nothing to resume")
        return
    load_tensorflow()
    from vggish_keras.embedder import Embedder

    embedder = Embedder(weights, hop, padding, postprocess, batch_size, dtype, channels)
    opened: corpus.Output = _Tables()
    if target is not None:
        opened = corpus.open_output(target, recordings, options, resume, write_records)
    unknown = [] if known is None else [path for path in recordings.paths if path.stem not in known]
    refused = {path: f"{path} is not in {segments}" for path in unknown}

    with Progress(len(recordings.paths), quiet or target is None) as progress:

        def show(path: Path, result: "Embeddings | Exception | None") -> None:
            if isinstance(result, Exception):
                click.echo(f"Error: {error_message(result)}", err=True)
            elif result is not None and not len(result.times):
                click.echo(f"{path}: shorter than an example (0.975 s), no embeddings; use --padding same", err=True)
            progress.file(was_there=result is None)

        try:
            summary = corpus.embed_corpus(embedder, recordings, opened, refused, progress.audio, show)
        except KeyboardInterrupt:
            if target is not None:
                click.echo(f"Stopped after {progress.describe()}; --resume goes on.", err=True)
            raise
    left_out = recordings_lib.describe_left_out(recordings.left_out)
    if target is not None and not quiet:
        there = f", {summary.skipped} were there" if summary.skipped else ""
        failed = f", {len(summary.failures)} failed" if summary.failures else ""
        files = f"{summary.embeddings} embeddings of {summary.embedded} files"
        others = f", {left_out}" if left_out else ""
        click.echo(f"{target.path}: {files}, {progress.describe()}{there}{failed}{others}")
    elif left_out and not quiet:
        click.echo(left_out, err=True)
    if summary.failures:
        sys.exit(1)


class _Tables:
    """An output that prints."""

    def has(self, path: Path) -> bool:
        return False

    def add(self, path: Path, embeddings: "Embeddings") -> None:
        _print_embeddings(str(path), embeddings)

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        pass

    def close(self) -> None:
        pass


def _print_embeddings(name: str, embeddings: "Embeddings") -> None:
    from rich.table import Table

    count, size = embeddings.values.shape
    click.echo(f"{name}: {count} embeddings of {size} values")
    table = Table("seconds", *(f"[{dimension}]" for dimension in range(_DIMENSIONS_SHOWN)), "..")
    for time, values in list(zip(*embeddings, strict=True))[:_ROWS_SHOWN]:
        table.add_row(f"{time:.2f}", *(f"{value:.3g}" for value in values[:_DIMENSIONS_SHOWN]))
    if count:
        _print(table)
    if count > _ROWS_SHOWN:
        click.echo(f"and {count - _ROWS_SHOWN} more")


def _print(table: Any) -> None:
    from rich.console import Console

    Console(markup=False, highlight=False).print(table)


# === beam ===


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--input", "inputs", multiple=True, required=True, help="A file, folder or pattern; may be repeated.")
@click.option("--output", "prefix", required=True, metavar="PREFIX", help="What the names of the files begin with.")
@_weights_option
@click.option("--shards", type=click.IntRange(0), default=0, help="Number of files.  [default: the runner's choice]")
@click.option("--segments", help="AudioSet's list of segments.")
@click.option("--labels", help="AudioSet's class_labels_indices.csv, for --segments.")
@_hop_option
@_padding_option
@_dtype_option
@_channels_option
@_batch_size_option
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def beam(
    inputs: tuple[str, ...],
    prefix: str,
    weights: str,
    shards: int,
    segments: str | None,
    labels: str | None,
    hop: float,
    padding: str,
    dtype: str,
    channels: Any,
    batch_size: int,
    beam_options: tuple[str, ...],
) -> None:
    """Embed recordings with Apache Beam, on this machine or a cluster, into AudioSet's records.

    Inputs are those of vggish embed, or patterns of a Beam file system, such as gs://bucket/clips/**.flac. All other
    options are Beam's; without --runner it runs in this process.

    The records are PREFIX-00000-of-00004.tfrecord and so on. A file that cannot be read is listed in
    PREFIX-failures.csv, the others are embedded all the same, and the exit status is 1.
    """
    load_tensorflow()
    from vggish_keras import beam as beam_lib
    from vggish_keras.recordings import describe_left_out

    if labels and not segments:
        raise click.UsageError("--labels is for --segments")
    corpus = beam_lib.EmbedCorpus(
        inputs, prefix, weights, segments, labels, hop, padding, batch_size, dtype, shards, channels
    )
    try:
        summary = beam_lib.summarize(beam_lib.run(corpus, _parse_beam_options(beam_options)))
    except RuntimeError as error:  # with the traceback of a worker
        raise click.ClickException(str(error).strip().splitlines()[-1]) from error
    failed = f", {summary.failures} failed" if summary.failures else ""
    others = f", {describe_left_out(summary.left_out)}" if summary.left_out else ""
    click.echo(f"{prefix}: {summary.clips} files, {summary.seconds / 3600:.2f} h of audio{failed}{others}")
    if summary.failures:
        sys.exit(1)


def _parse_beam_options(arguments: Sequence[str]) -> Any:
    """Beam's options; a usage error for what Beam would leave out without a word."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from vggish_keras import beam as beam_lib  # first: it reports a missing Beam

    for before, argument in itertools.pairwise(["", *arguments]):
        if not argument.startswith("-") and ("=" in before or not before.startswith("--")):
            raise click.UsageError(f"{argument} is no option: quote a pattern, and name each input with --input")
    options, no_options = PipelineOptions(arguments), PipelineOptions([])
    parsed = options.get_all_options(retain_unknown_options=True)
    unknown = parsed.keys() - no_options.get_all_options().keys()
    if unknown and parsed["runner"] in (None, beam_lib.LOCAL_RUNNER):  # a cluster may have more
        raise click.UsageError(f"neither this command nor Beam has an option --{min(unknown)}")
    return options


# === demo, plot and check ===


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    help="Folder for what it writes.  [default: here]",
)
@_weights_option
def demo(file: Path | None, output: Path, weights: str) -> None:
    """Embed FILE, or a recording made on the spot, and draw what comes out.

    Writes vggish_demo.npz and vggish_demo.png, and the recording as vggish_demo.wav if it made it.
    """
    load_tensorflow()
    from vggish_keras import demo as demo_lib, embedding_files
    from vggish_keras.plot import plot_recording

    if file is None:
        import soundfile

        file = output / "vggish_demo.wav"
        soundfile.write(file, demo_lib.recording(), demo_lib.SAMPLE_RATE)
    embedder, note = _demo_embedder(weights)
    embeddings = embedder.embed(file)
    _print_embeddings(str(file), embeddings)
    embedding_files.write(output / "vggish_demo.npz", [(str(file), embeddings)])
    click.echo(f"wrote {output / 'vggish_demo.npz'}")
    try:
        plot_recording(output / "vggish_demo.png", file, embeddings, f"VGGish embeddings of {file.name}", note)
        click.echo(f"wrote {output / 'vggish_demo.png'}")
    except ImportError as error:
        click.echo(f"no picture: {error}")
    if note:
        click.secho(f"NOTE: {note}", fg="yellow", bold=True)


def _demo_embedder(weights: str) -> tuple[Any, str]:
    """The embedder, and what must be said of its embeddings."""
    from vggish_keras.embedder import Embedder
    from vggish_keras.weights import AUDIOSET

    try:
        return Embedder(weights), ""
    except FileNotFoundError:
        if weights != AUDIOSET:
            raise
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    return Embedder(weights=None), _UNTRAINED


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The picture, .png or .svg.  [default: FILE's name and .png, here]",
)
@click.option("--similarity", is_flag=True, help="Add the matrix of the embeddings' cosine similarities.")
@click.option("--recording", help="Which recording of an .npz file that holds several.")
@_hop_option
@_weights_option
def plot(file: Path, output: Path | None, similarity: bool, recording: str | None, hop: float, weights: str) -> None:
    """Draw FILE: a recording with its embeddings, or saved embeddings (.npz)."""
    output = output or Path(f"{file.name}.png")
    if output.suffix not in (".png", ".svg") or not output.parent.is_dir():
        raise click.UsageError(f"a picture is a .png or .svg file in a folder that is there, got {output}")
    if recording is not None and file.suffix != ".npz":
        raise click.UsageError("--recording is for an .npz file")
    from vggish_keras import embedding_files
    from vggish_keras.plot import plot_embeddings, plot_recording

    title = f"VGGish embeddings of {recording or file.name}"
    if file.suffix == ".npz":
        plot_embeddings(output, embedding_files.read_npz(file, recording), title, similarity)
    else:
        load_tensorflow()
        from vggish_keras.embedder import Embedder

        plot_recording(output, file, Embedder(weights, hop).embed(file), title, similarity=similarity)
    click.echo(f"wrote {output}")


@main.command()
@_weights_option
def check(weights: str) -> None:
    """Run the published smoke test and compare with the published figures."""
    load_tensorflow()
    from rich.table import Table

    from vggish_keras.smoke_test import smoke_test

    figures = smoke_test(weights)
    table = Table("figure", "expected", "measured", "within 10 %")
    for figure in figures:
        agrees = "yes" if figure.agrees else "NO"
        table.add_row(figure.name, f"{figure.expected:.4g}", f"{figure.measured:.4g}", agrees)
    _print(table)
    if not all(figure.agrees for figure in figures):
        raise click.ClickException(f"weights {weights} do not give the published figures")


# === export ===


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@_weights_option
@_hop_option
@click.option("--padding", type=click.Choice(["valid", "same"]), default="valid", show_default=True)
@click.option("--postprocess", help="audioset (published), or an .npz file of PCA parameters; adds the 8-bit output.")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUTPUT.")
def export(output: Path, weights: str, hop: float, padding: str, postprocess: str | None, overwrite: bool) -> None:
    """Write a SavedModel to the folder OUTPUT, for TF Hub, TF Serving and plain TensorFlow.

    For TF Serving the last part of OUTPUT is a version number, as in vggish/1.
    """
    load_tensorflow()
    from vggish_keras.exporting import export_saved_model
    from vggish_keras.model import VGGish

    model = VGGish(weights, hop_seconds=hop, padding=padding)
    click.echo(export_saved_model(model, output, postprocess, overwrite))


# === weights ===


@main.group()
def weights() -> None:
    """Fetch, show and convert weights."""


@weights.command()
def fetch() -> None:
    """Download the published files that are not in the cache, and verify them."""
    from vggish_keras import params
    from vggish_keras.weights import fetch

    for file in (params.CHECKPOINT, params.PCA_PARAMS):
        click.echo(fetch(file))


@weights.command()
def show() -> None:
    """Show where the published files are, or would be, and whether they are the published ones."""
    from vggish_keras import params
    from vggish_keras.weights import published_path, verify

    for file in (params.CHECKPOINT, params.PCA_PARAMS):
        path = published_path(file)
        if not path.is_file():
            state = "not there"
        elif verify(path, file.checksum):
            state = f"verified, {file.checksum}"
        else:
            state = f"another file than the published one, {file.checksum}"
        click.echo(f"{path}: {state}")


@weights.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--v2", is_flag=True, help="Write a V2 checkpoint (several files) instead of V1.")
def convert(source: str, target: Path, v2: bool) -> None:
    """Write the weights SOURCE (audioset, a checkpoint or a .weights.h5 file) as TARGET.

    TARGET becomes a Keras weights file if it ends in .weights.h5, else a TF-Slim checkpoint.
    """
    keras_file = target.name.endswith(".weights.h5")
    if keras_file and v2:
        raise click.UsageError("--v2 is for checkpoints, and .weights.h5 is a Keras weights file")
    if not keras_file and target.suffix in (".h5", ".keras"):
        raise click.UsageError(f"a Keras weights file ends in .weights.h5, got {target}")
    if not target.parent.is_dir():
        raise click.UsageError(f"there is no folder {target.parent}")
    load_tensorflow()
    from vggish_keras import weights as weights_lib
    from vggish_keras.model import VGGish

    model = VGGish(source, input="examples")
    if keras_file:
        model.save_weights(target)
    else:
        weights_lib.save_slim_checkpoint(model, target, "v2" if v2 else "v1")
    click.echo(target)


if __name__ == "__main__":
    run()
