"""`python -m vggish_keras` is the command `vggish`."""

from vggish_keras.cli import run

run()
