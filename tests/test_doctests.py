"""Runs the usage example that the docstring of every public name has."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import vggish_keras as vk
from vggish_keras import embedder as embedder_module

PUBLIC_MODULES = (
    "records",
    "resample",
    "hear",
    "beam",
    "dataset",
    "embedding_files",
    "exported_options",
    "segments",
)


def public_names():
    """The classes and functions that users import, each once."""
    modules = [vk, *(importlib.import_module(f"vggish_keras.{name}") for name in PUBLIC_MODULES)]
    found = {}
    for module in modules:
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)) or name.startswith("_"):
                continue
            if hasattr(module, "__all__") or value.__module__ == module.__name__:
                found.setdefault(id(value), pytest.param(value, id=f"{module.__name__}.{name}"))
    return list(found.values())


@pytest.fixture(autouse=True)
def _quick(narrow_network):
    """The examples depend on shapes, not on the size of the network."""
    yield
    embedder_module._kept_embedder.cache_clear()


@pytest.fixture(scope="module")
def model():
    return vk.VGGish(None)


@pytest.fixture(scope="module")
def untrained_embedder():
    return vk.Embedder(weights=None, batch_size=4)


@pytest.fixture
def names(request, tmp_path, monkeypatch):
    """Makes the variables that examples may use, in an empty folder with one recording."""
    monkeypatch.chdir(tmp_path)
    time = np.arange(3 * 44_100) / 44_100
    tones = 0.5 * np.sin(2 * np.pi * np.array([440, 660]) * time[:, np.newaxis])
    soundfile.write("recording.wav", tones, 44_100)

    def make(source):
        names = {"vk": vk, "np": np, "tf": tf, "Path": Path}
        # These take seconds to build.
        for name, fixture in (("model", "model"), ("embedder", "untrained_embedder")):
            if re.search(rf"\b{name}\b", source):
                names[name] = request.getfixturevalue(fixture)
        return names

    return make


@pytest.mark.parametrize("public", public_names())
def test_the_example_runs(public, names):
    tests = [test for test in doctest.DocTestFinder().find(public, public.__name__) if test.examples]
    assert public.__name__ in [test.name for test in tests], "its docstring has no example"
    for test in tests:  # those of a class's methods as well
        test.globs = names("".join(example.source for example in test.examples))
        report = []
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
        assert not result.failed, "".join(report)
