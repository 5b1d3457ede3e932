"""The command `fad`."""

import functools
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras._text import csv_lines
from vggish_keras._validation import file_suffix
from vggish_keras.cli.options import check_not_input, check_pca, embedder_options, postprocess_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vggish_keras.frechet import FadResult, KadResult, OpenSet, RecordingFad

_TOOLS = ("google", "frechet-audio-distance", "fadtk", "audioldm")
_SET_BY_LIKE = ("hop_seconds", "padding", "channels", "level")


def _parse_bandwidth(_context: click.Context, _parameter: click.Parameter, bandwidth: str) -> str | float:
    if bandwidth in ("reference", "evaluated"):
        return bandwidth
    try:
        number = float(bandwidth)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.BadParameter(f'expected a positive number, "reference" or "evaluated", got {bandwidth}')
    return number


@click.command(short_help="Compare sets of recordings.")
@click.argument("baseline", type=click.Path())
@click.argument("evaluated", nargs=-1, type=click.Path())
@click.option(
    "--save",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Save the statistics of BASELINE (.npz, or .tfrecord as google-research does).",
)
@click.option(
    "--per-recording",
    "ranking",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Rank the recordings of EVALUATED by how much they add to the distance, in this .csv file, which is replaced "
    "if it exists.",
)
@click.option(
    "--plot",
    "picture",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plot the distance over the size of the set, both sets, and the worst recordings, in this .png or .svg file.",
)
@click.option("--kad", "with_kad", is_flag=True, help="Also compute the kernel audio distance.")
@click.option(
    "--bandwidth",
    metavar="NUMBER|reference|evaluated",
    default="reference",
    show_default=True,
    callback=_parse_bandwidth,
    help="Bandwidth of --kad: a number, or the median distance within BASELINE (reference) or EVALUATED (evaluated).",
)
@click.option("--relu", is_flag=True, help="Set negative values of raw embeddings to 0, in all sets.")
@click.option(
    "--level",
    type=click.Choice(["peak", "centered"]),
    help='"peak" scales each recording to a peak of 1; "centered" subtracts its mean.',
)
@click.option("--like", type=click.Choice(_TOOLS), help="Set hop, padding, channels and level as this tool does.")
@click.option(
    "--cache",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the embeddings of recordings in this folder, so that an interrupted run resumes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line for each evaluated set.")
@postprocess_option
@embedder_options
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def fad(
    context: click.Context,
    /,
    baseline: str,
    evaluated: tuple[str, ...],
    save: Path | None,
    ranking: Path | None,
    picture: Path | None,
    with_kad: bool,
    bandwidth: str | float,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Print the Fréchet audio distance (FAD) between BASELINE and each EVALUATED set.

    A set is a folder, a pattern or a file of recordings; a file or folder written by vggish embed; or statistics
    written by --save. Embeddings and statistics of fadtk, frechet-audio-distance, audioldm_eval and google-research's
    frechet_audio_distance are also read. Options for recordings, such as --hop, have no effect on other sets.

    A recording that cannot be read is reported and left out, and listed in FILE.failures.csv beside the ranking of
    --per-recording; the exit status is then 1.
    """
    from vggish_keras.frechet import SetReader, check_statistics_path

    _check_arguments(context)
    if picture is not None:
        from vggish_keras.plot import check_matplotlib

        check_matplotlib()
    check_pca(options["pca_params"], options["postprocess"])
    try:
        if save is not None:
            check_statistics_path(save)
        reader = SetReader(progress=not quiet, load=functools.partial(load_tensorflow, options["dtype"]), **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    first, *sets = opened = [reader.open(name) for name in (baseline, *evaluated)]
    if with_kad or ranking or picture:
        for side in opened if with_kad else sets:
            side.check_embeddings()
        for side in opened:
            side.keep()
    if save is not None:
        first.statistics().save(save)
        click.echo(f"wrote {save}", err=bool(sets))
    for other in sets:
        _compare(first, other, bandwidth if with_kad else None, as_json, len(sets) > 1)
    if ranking is not None:
        _write_ranking(ranking, first, sets[0])
    if picture is not None:
        _plot(picture, first, sets[0])
    _finish(opened, warn=not sets)


def _check_arguments(context: click.Context) -> None:
    evaluated, save, with_kad = (context.params[name] for name in ("evaluated", "save", "with_kad"))
    files = {"--per-recording": (".csv",), "--plot": (".png", ".svg")}
    outputs = {option: context.params[name] for option, name in zip(files, ("ranking", "picture"), strict=True)}
    if not evaluated and (save is None or with_kad or any(outputs.values())):
        raise click.UsageError("name a set to evaluate, or save the statistics of BASELINE with --save")
    inputs = (context.params["baseline"], *evaluated)
    check_not_input(save, *inputs)
    for option, path in outputs.items():
        if path is None:
            continue
        check_not_input(path, *inputs)
        if len(evaluated) > 1 or file_suffix(path) not in files[option] or not path.parent.is_dir():
            kind = " or ".join(files[option])
            raise click.UsageError(f"{option} requires a single EVALUATED set and a {kind} file in an existing folder")
    given = [name for name in _SET_BY_LIKE if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    if context.params["like"] and given:
        names = ", ".join(f"--{name.removesuffix('_seconds')}" for name in given)
        raise click.UsageError(f"--like sets {names}: leave {'it' if len(given) == 1 else 'them'} out")
    if context.get_parameter_source("bandwidth") == ParameterSource.COMMANDLINE and not with_kad:
        raise click.UsageError("--bandwidth requires --kad")


def _compare(
    baseline: "OpenSet", evaluated: "OpenSet", bandwidth: str | float | None, as_json: bool, several: bool
) -> None:
    from vggish_keras.frechet import compare_sets

    result = compare_sets(baseline, evaluated)
    kad = None if bandwidth is None else _kad(baseline, evaluated, bandwidth)
    if as_json:
        extra = {} if kad is None else {"kad": kad._asdict()}
        values = {"baseline_name": baseline.name, "evaluated_name": evaluated.name, **result.to_dict(), **extra}
        click.echo(json.dumps(values))
    else:
        _print(result, kad, baseline.name, evaluated.name)
    reported = {opened.describe_failures() for opened in (baseline, evaluated)}
    for warning in result.warnings:
        if warning not in reported:
            click.echo(f"Warning: {f'{evaluated.name}: ' if several else ''}{warning}", err=True)


def _kad(baseline: "OpenSet", evaluated: "OpenSet", bandwidth: Any) -> "KadResult":
    import numpy as np

    from vggish_keras.frechet import kad

    reference, rows = (np.concatenate([rows for _, rows in side.rows()]) for side in (baseline, evaluated))
    return kad(reference, rows, bandwidth)


def _print(result: "FadResult", kad: "KadResult | None", baseline: str, evaluated: str) -> None:
    click.echo(str(result))
    if kad is not None:
        click.echo(f"KAD (VGGish) {kad.value:.4g}   bandwidth {kad.bandwidth:.4g}")
    click.echo(f"baseline     {result.baseline.describe()}   {baseline}")
    click.echo(f"evaluated    {result.evaluated.describe()}   {evaluated}")


def _write_ranking(path: Path, baseline: "OpenSet", evaluated: "OpenSet") -> None:
    from vggish_keras import corpus
    from vggish_keras._atomic import atomic_write
    from vggish_keras.frechet import rank_set

    with atomic_write(path) as partial:
        partial.write_bytes(_format_ranking(rank_set(baseline, evaluated)))
    corpus.write_failures(corpus.failures_path(path), evaluated.failures)
    click.echo(f"wrote {path}", err=True)


def _plot(path: Path, baseline: "OpenSet", evaluated: "OpenSet") -> None:
    from vggish_keras.frechet import compare_sets, plot_fad, rank_set

    recordings = list(evaluated.rows())
    named = all(name is not None for name, _ in recordings)
    known = [] if baseline.results is None else list(baseline.rows())
    ranking = rank_set(baseline, evaluated) if named else []
    plot_fad(path, compare_sets(baseline, evaluated), known, recordings, ranking)
    click.echo(f"wrote {path}", err=True)


def _format_ranking(ranking: "Sequence[RecordingFad]") -> bytes:
    rows: list[list[Any]] = [["recording", "examples", "fad", "influence"]]
    for row in ranking:
        influence = "" if row.influence is None else f"{row.influence:.9g}"
        rows.append([row.recording, row.examples, f"{row.fad:.9g}", influence])
    return csv_lines(rows)


def _finish(sets: "Sequence[OpenSet]", warn: bool) -> None:
    """Reports all recordings that could not be read, with exit status 1."""
    for opened in sets:
        for _, reason in opened.failures:
            click.echo(f"Error: {reason}", err=True)
        for warning in opened.warnings() if warn else ():
            if warning != opened.describe_failures():
                click.echo(f"Warning: {warning}", err=True)
    if any(opened.failures for opened in sets):
        sys.exit(1)
