"""The commands `weights fetch`, `weights show` and `weights convert`."""

from pathlib import Path

import click

from vggish_keras._tensorflow import load_tensorflow


@click.group()
def weights() -> None:
    """Fetch, show and convert weights."""


@weights.command()
def fetch() -> None:
    """Download the published files that are not in the cache, and verify them."""
    from vggish_keras import params
    from vggish_keras.published_files import fetch

    for file in (params.CHECKPOINT, params.PCA_PARAMS):
        click.echo(fetch(file))


@weights.command()
def show() -> None:
    """Show where the published files are, or would be, and whether they are the published ones."""
    from vggish_keras import params
    from vggish_keras.published_files import published_path, verify

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
