"""The commands `weights fetch`, `weights show` and `weights convert`."""

import tempfile
from pathlib import Path

import click

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras._validation import file_suffix
from vggish_keras.cli.options import OutputPath, PublishedOrPath, check_not_input


@click.group()
def weights() -> None:
    """Fetch, show and convert weights."""


@weights.command(short_help="Download the published files.")
def fetch() -> None:
    """Download the published files that are missing from the cache, and check existing ones."""
    from vggish_keras import params
    from vggish_keras.published_files import fetch

    for file in (params.CHECKPOINT, params.PCA_PARAMS):
        click.echo(fetch(file))


@weights.command(short_help="Show and verify the cached files.")
def show() -> None:
    """Show the cache paths of the published files, and verify existing ones.

    The exit status is 1 if an existing file is not the published one. A missing file is not an error: it is downloaded
    when it is needed.
    """
    from vggish_keras import params
    from vggish_keras.published_files import check, published_path

    problems = []
    for file in (params.CHECKPOINT, params.PCA_PARAMS):
        path = published_path(file)
        state = f"verified, {file.checksum}"
        try:
            check(file, use_remembered=False)
        except FileNotFoundError:
            state = "missing"
        except ValueError as error:
            state = "not the published file"
            problems.append(str(error))
        click.echo(f"{path}: {state}")
    if problems:
        raise click.ClickException("\n".join(problems))


@weights.command()
@click.argument("source", type=PublishedOrPath())
@click.argument("target", type=OutputPath())
@click.option("--v2", is_flag=True, help="Write a V2 checkpoint (several files) instead of V1.")
def convert(source: str, target: Path, v2: bool) -> None:
    """Convert weights to a Keras weights file or a TF-Slim checkpoint.

    SOURCE is "audioset", a TF-Slim checkpoint, a Keras model or weights file, an exported SavedModel or an exported
    .onnx file. TARGET is written as a Keras weights file if it ends in .weights.h5, otherwise as a TF-Slim checkpoint.
    An existing TARGET is replaced.
    """
    keras_file = target.name.endswith(".weights.h5")
    if keras_file and v2:
        raise click.UsageError("--v2 requires a checkpoint, and .weights.h5 is a Keras weights file")
    if not keras_file and file_suffix(target) in (".h5", ".keras"):
        raise click.UsageError(f"expected a Keras weights file to end in .weights.h5, got {target}")
    if not target.parent.is_dir():
        raise click.UsageError(f"folder {target.parent} does not exist")
    from vggish_keras import params

    if source != params.AUDIOSET:
        check_not_input(target, source)
    load_tensorflow()
    from vggish_keras._atomic import replace
    from vggish_keras.model import VGGish
    from vggish_keras.weights import save_slim_checkpoint

    model = VGGish(source, input="examples")
    if keras_file:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            made = Path(folder, target.name)
            model.save_weights(made)
            replace({made: target})
    else:
        save_slim_checkpoint(model, target, "v2" if v2 else "v1")
    click.echo(target)
