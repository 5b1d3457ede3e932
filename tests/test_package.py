import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vggish_keras as vk


def python(script, **environment):
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_loads_nothing_and_creates_nothing(tmp_path):
    script = (
        "import sys, time; start = time.perf_counter(); import vggish_keras; seconds = time.perf_counter() - start\n"
        "loaded = {'tensorflow', 'keras', 'numpy', 'resampy', 'pooch', 'apache_beam'} & set(sys.modules)\n"
        "print(seconds < 0.2, sorted(loaded))"
    )
    assert python(script, VGGISH_KERAS_HOME=str(tmp_path / "home")) == "True []"
    assert not (tmp_path / "home").exists()


def test_public_names_are_there():
    for name in vk.__all__:
        assert getattr(vk, name) is not None
    assert set(vk.__all__) <= set(dir(vk))
    assert vk.resample.resample.__name__ == "resample"
    with pytest.raises(AttributeError, match="Vggish"):
        vk.Vggish  # noqa: B018


def test_version_and_requirements():
    assert importlib.metadata.version("vggish") == vk.__version__
    metadata = importlib.metadata.metadata("vggish")
    assert "setuptools<82,>=68" in metadata.get_all("Requires-Dist")
    assert (Path(vk.__file__).parent / "py.typed").exists()


def test_tensorflow_hub_imports_with_the_setuptools_that_is_required():
    """It imports pkg_resources, which newer ones lack."""
    assert python("import tensorflow_hub; print(tensorflow_hub.__name__)") == "tensorflow_hub"


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # importing it fails

import numpy as np
from click.testing import CliRunner

import vggish_keras as vk
from vggish_keras import embedding_files, framing, plot, resample, segments
from vggish_keras.cli import main
import vggish_keras.corpus

embeddings = vk.Embeddings(0.96 * np.arange(3), np.ones((3, 128), np.float32))
for suffix in embedding_files.SUFFIXES:
    embedding_files.write(f"x{suffix}", [("a.wav", embeddings), ("b.wav", embeddings)])
np.testing.assert_array_equal(embedding_files.read_npz("x.npz", "b.wav").values, embeddings.values)
plot.plot_embeddings("x.png", embeddings, "title", similarity=True)
assert framing.count_examples(31_200, 15_600, "valid") == 2
assert len(np.concatenate(list(resample.read_waveform("x.wav")))) == 16_000


def run(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
    return result.exit_code, result.output


def commands(group, *names):
    yield names
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)


for names in commands(main):
    status, output = run(*names, "--help")
    assert status == 0
    assert output.startswith("Usage: ")
assert run("plot", "x.npz", "--recording", "a.wav", "-o", "y.png") == (0, "wrote y.png\\n")
for arguments in (
    ["embed", "x.wav", "-o", "x.xyz"],
    ["embed", "x.wav", "--hop", "0.005"],
    ["embed", "x.wav", "--segments", "x.npz"],
    ["embed", "x.wav", "--resume"],
    ["plot", "x.npz", "-o", "x.bmp"],
    ["plot", "x.wav", "--recording", "a.wav"],
    ["weights", "convert", "x", "x.h5", "--v2"],
    ["beam"],
    ["export"],
):
    status, output = run(*arguments)
    assert (status, "Error: " in output) == (2, True), (arguments, output)
"""


def test_what_needs_no_tensorflow_runs_without_it(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(16_000), 16_000)
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW], cwd=tmp_path, check=True)
