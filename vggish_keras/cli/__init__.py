"""The command line, one file per command."""

from vggish_keras.cli.main import main, run

__all__ = ["main", "run"]
