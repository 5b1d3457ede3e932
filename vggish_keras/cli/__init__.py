"""The command line: one file for each command."""

from vggish_keras.cli.main import main, run

__all__ = ["main", "run"]
