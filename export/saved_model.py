"""Exports a checkpoint as the published artifact: a verified SavedModel in a numbered folder, as TF Serving expects.

python export/saved_model.py [--weights audioset] [--postprocess quantized] [--output vggish] [--version 1]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import click

from vggish_keras.framing import PADDINGS, Padding

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

VERIFY = Path(__file__).with_name("verify.py")


@click.command()
@click.option("--weights", default="audioset", show_default=True, help="Weights as `vggish export` accepts them.")
@click.option("--hop", default=0.96, show_default=True, help="Seconds between the starts of examples.")
@click.option(
    "--padding", type=click.Choice(PADDINGS), default="short", show_default=True, help="How the end is treated."
)
@click.option(
    "--postprocess",
    type=click.Choice(["quantized", "pca", "none"]),
    default="quantized",
    show_default=True,
    help="Output to add.",
)
@click.option("--pca", default="audioset", show_default=True, help="Its PCA parameters, as in `vggish export`.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("vggish"), show_default=True, help="Folder of versions."
)
@click.option(
    "--version", type=click.IntRange(min=1), default=1, show_default=True, help="Number of the folder in OUTPUT."
)
def main(
    weights: str,
    hop: float,
    padding: Padding,
    postprocess: Literal["quantized", "pca", "none"],
    pca: str,
    output: Path,
    version: int,
) -> None:
    """Export to OUTPUT/VERSION, which appears once it is verified. An existing version is never replaced."""
    import vggish_keras as vk

    target = output / str(version)
    if os.path.lexists(target):
        raise click.ClickException(f"{target} exists: choose a different --version")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{version}.") as folder:
        made = Path(folder) / str(version)
        try:
            model = vk.VGGish(weights, hop_seconds=hop, padding=padding)
            vk.export_saved_model(model, made, None if postprocess == "none" else postprocess, pca_params=pca)
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
        options = ["--weights", weights, "--postprocess", postprocess, "--pca", pca]
        if subprocess.run([sys.executable, str(VERIFY), str(made), *options], check=False).returncode:
            raise click.ClickException(f"nothing was written to {target}: the verification failed")
        made.rename(target)
    click.echo(target)


if __name__ == "__main__":
    main()
