"""The command `beam`."""

import contextlib
import itertools
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from vggish_keras._errors import counted, error_message
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import OutputPath, embedder_options

_STEP = re.compile(r" \[while running '.*'\]$")
"""The step of the pipeline that failed, at the end of Beam's messages."""


@click.command(context_settings={"ignore_unknown_options": True}, short_help="Embed recordings with Apache Beam.")
@click.option("--input", "inputs", multiple=True, required=True, help="A file, folder or pattern; may be repeated.")
@click.option(
    "--output",
    "prefix",
    required=True,
    type=OutputPath(path_type=str),
    metavar="PREFIX",
    help="Prefix of the output files.",
)
@click.option(
    "--shards",
    type=click.IntRange(1, 99_999),
    default=None,
    show_default="one for every 500 recordings, at least 4",
    help="Number of .tfrecord files.",
)
@click.option("--resume", is_flag=True, help="Keep what an earlier run embedded with the same options.")
@click.option(
    "--statistics",
    type=OutputPath(path_type=str),
    metavar="FILE.npz",
    help="Also write the statistics of all embeddings, for vggish fad.",
)
@click.option("--segments", help="Take names, times and labels from this AudioSet segment list.")
@click.option("--labels", help="AudioSet's class_labels_indices.csv, for --segments.")
@embedder_options
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def beam(
    inputs: tuple[str, ...],
    prefix: str,
    shards: int | None,
    resume: bool,
    statistics: str | None,
    segments: str | None,
    labels: str | None,
    beam_options: tuple[str, ...],
    **embedder_options: Any,
) -> None:
    """Embed recordings with Apache Beam, locally or on a cluster, and write AudioSet records.

    Inputs are files, folders or patterns as in vggish embed, or patterns of a Beam file system, such as
    gs://bucket/clips/**.flac. All other options are passed to Beam; without --runner, the pipeline runs locally, in
    this process.

    The records are written to PREFIX-00000-of-00004.tfrecord and so on, each file as soon as it is complete. Unreadable
    files are listed in PREFIX-failures.csv and skipped; the exit status is then 1.
    """
    if labels and not segments:
        raise click.UsageError("--labels requires --segments")
    _check_arguments(beam_options)
    context = click.get_current_context()
    if not (context.find_root().params["debug"] or logging.getLogger("vggish_keras").isEnabledFor(logging.INFO)):
        context.with_resource(_hide_log())
    load_tensorflow(embedder_options["dtype"])
    from vggish_keras import beam
    from vggish_keras.recordings import describe_left_out

    corpus = beam.EmbedCorpus(
        inputs,
        prefix,
        segments=segments,
        labels=labels,
        shards=shards or 0,
        resume=resume,
        statistics=statistics,
        **embedder_options,
    )
    try:
        summary = beam.summarize(beam.run(corpus, _parse_beam_options(beam_options)))
    except RuntimeError as error:
        raise click.ClickException(_reason(error)) from error
    except (ValueError, OSError) as error:
        raise click.ClickException(_STEP.sub("", error_message(error))) from error
    parts = [
        counted(summary.recordings, "file"),
        f"{summary.seconds / 3600:.2f} h of audio",
        f"{summary.failures} failed" if summary.failures else "",
        describe_left_out(summary.left_out),
    ]
    click.echo(f"{prefix}: {', '.join(filter(None, parts))}")
    if summary.failures:
        sys.exit(1)


@contextlib.contextmanager
def _hide_log() -> Iterator[None]:
    """Hides the log of Beam, because the command itself reports why a run failed."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


def _reason(error: RuntimeError) -> str:
    """The last line of an error that is not part of a traceback, of a Python worker or of a runner in Java."""
    lines = [line for line in str(error).splitlines() if line.strip(" ]") and not line.startswith(("\tat ", "\t... "))]
    return _STEP.sub("", lines[-1].removeprefix("Caused by: ").strip()) if lines else str(error)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raises a usage error for arguments that are not options, which Beam would ignore silently."""
    for before, argument in itertools.pairwise(["", *arguments]):
        if not argument.startswith("-") and ("=" in before or not before.startswith("--")):
            raise click.UsageError(
                f"unexpected argument {argument}: quote patterns, and pass each input with its own --input"
            )


def _parse_beam_options(arguments: Sequence[str]) -> Any:
    """Parses Beam's options; raises a usage error for an unknown option, which Beam would ignore silently."""
    from vggish_keras import beam  # first, because it reports a missing Beam

    from apache_beam.options.pipeline_options import PipelineOptions  # isort: skip

    options, no_options = PipelineOptions(arguments), PipelineOptions([])
    parsed = options.get_all_options(retain_unknown_options=True)
    unknown = parsed.keys() - no_options.get_all_options().keys()
    if unknown and parsed["runner"] in (None, beam.LOCAL_RUNNER):  # clusters may have other options
        raise click.UsageError(f"unknown option --{min(unknown)} (not an option of this command or of Beam)")
    return options
