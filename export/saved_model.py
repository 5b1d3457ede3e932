"""Turns a checkpoint into the published artefact: a folder as TF Serving wants it, verified.

python export/saved_model.py [--weights audioset] [--postprocess audioset] [--output vggish] [--version 1]
"""

import os
import subprocess
import sys
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

VERIFY = Path(__file__).with_name("verify.py")


@click.command()
@click.option("--weights", default="audioset", show_default=True)
@click.option("--postprocess", default="audioset", show_default=True, help="PCA parameters, or none.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("vggish"), show_default=True)
@click.option("--version", type=click.IntRange(min=1), default=1, show_default=True)
def main(weights: str, postprocess: str, output: Path, version: int) -> None:
    """Export OUTPUT/VERSION and verify it. An existing one is not touched."""
    import vggish_keras as vk

    try:
        path = vk.export_saved_model(weights, output / str(version), None if postprocess == "none" else postprocess)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(path)
    command = [sys.executable, str(VERIFY), str(path), "--weights", weights, "--postprocess", postprocess]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
