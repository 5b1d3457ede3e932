"""Run commands where TensorFlow is not installed."""

import subprocess
import sys

_SCRIPT = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())

from vggish_keras.cli import run

run()
"""


def run_without_tensorflow(*arguments, folder):
    """Runs `vggish` in a folder; returns its standard output, and asserts that it succeeds without a message."""
    command = [sys.executable, "-c", _SCRIPT, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout.decode()
