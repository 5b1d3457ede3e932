import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    with pytest.raises(AttributeError, match="has no attribute 'Vggish'"):
        vk.Vggish  # noqa: B018


def test_version_and_requirements():
    assert importlib.metadata.version("vggish") == vk.__version__
    metadata = importlib.metadata.metadata("vggish")
    assert "setuptools<82,>=68" in metadata.get_all("Requires-Dist")
    assert (Path(vk.__file__).parent / "py.typed").exists()


def test_tensorflow_hub_imports_with_the_setuptools_that_is_required():
    """It imports pkg_resources, which newer ones lack."""
    assert python("import tensorflow_hub; print(tensorflow_hub.__name__)") == "tensorflow_hub"
