"""The command `beam`."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import click

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import (
    batch_size_option,
    channels_option,
    dtype_option,
    hop_option,
    padding_option,
    weights_option,
)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--input", "inputs", multiple=True, required=True, help="A file, folder or pattern; may be repeated.")
@click.option("--output", "prefix", required=True, metavar="PREFIX", help="What the names of the files begin with.")
@weights_option
@click.option("--shards", type=click.IntRange(0), default=0, help="Number of files.  [default: the runner's choice]")
@click.option("--segments", help="AudioSet's list of segments.")
@click.option("--labels", help="AudioSet's class_labels_indices.csv, for --segments.")
@hop_option
@padding_option
@dtype_option
@channels_option
@batch_size_option
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def beam(
    inputs: tuple[str, ...],
    prefix: str,
    weights: str,
    shards: int,
    segments: str | None,
    labels: str | None,
    hop: float,
    padding: Any,
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
        inputs,
        prefix,
        weights=weights,
        hop_seconds=hop,
        padding=padding,
        batch_size=batch_size,
        dtype=dtype,
        channels=channels,
        segments=segments,
        labels=labels,
        shards=shards,
    )
    try:
        summary = beam_lib.summarize(beam_lib.run(corpus, _parse_beam_options(beam_options)))
    except RuntimeError as error:  # with the traceback of a worker
        raise click.ClickException(str(error).strip().splitlines()[-1]) from error
    failed = f", {summary.failures} failed" if summary.failures else ""
    others = f", {describe_left_out(summary.left_out)}" if summary.left_out else ""
    click.echo(f"{prefix}: {summary.recordings} files, {summary.seconds / 3600:.2f} h of audio{failed}{others}")
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
