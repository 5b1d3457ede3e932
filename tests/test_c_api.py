"""The SavedModel in a C program, without Python, linked to the library of the installed TensorFlow."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parent / "c_api" / "embed_wav.c"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler found: neither cc nor gcc")
    folder = Path(tf.__file__).parent
    if not (folder / "include" / "tensorflow" / "c" / "c_api.h").exists():
        pytest.skip(f"{folder} has no headers of the C API")
    libraries = []
    for name in ("libtensorflow_cc.so*", "libtensorflow_framework.so*"):
        found = sorted(folder.glob(name))
        if not found:
            pytest.skip(f"{folder} has no {name}")
        libraries.append(found[0])
    path = tmp_path_factory.mktemp("c_api") / "embed_wav"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-isystem", folder / "include", f"-Wl,-rpath,{folder}"]
    built = subprocess.run(
        [compiler, *flags, SOURCE, *libraries, "-o", path], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return path


@pytest.fixture(scope="module")
def run(program, exported):
    """Runs the program on the SavedModel: exit status, standard output, standard error."""

    def run(*arguments):
        # Without Python's environment, and without a GPU, whose memory this process may hold entirely.
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        result = subprocess.run(
            [program, exported, *arguments], capture_output=True, text=True, check=False, env=environment
        )
        return result.returncode, result.stdout, result.stderr

    return run


@pytest.fixture(scope="module")
def wav_in_python(exported):
    """The same signature in Python: bytes -> embedding [n, 128]."""
    with tf.device("CPU"):
        loaded = tf.saved_model.load(str(exported))

    def wav_in_python(content):
        with tf.device("CPU"):
            outputs = loaded.signatures["wav"](audio=tf.constant([content]))
        assert outputs["num_examples"].numpy().tolist() == [outputs["embedding"].shape[1]]
        return outputs["embedding"][0].numpy()

    return wav_in_python


@pytest.fixture(scope="module")
def signatures(exported):
    saved_model = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    return saved_model.meta_graphs[0].signature_def


@pytest.fixture
def wav_arguments(signatures):
    """The program's arguments for the signature `wav`."""
    wav = signatures["wav"]
    return operation(wav.inputs["audio"]), wav.outputs["embedding"].name, wav.outputs["num_examples"].name


def operation(tensor):
    return tensor.name.removesuffix(":0")


def the_error(errors):
    """The message of an invalid argument: one line, after what TensorFlow logs when it starts."""
    code, message = re.fullmatch(r"TensorFlow error (\d+): (.+)", errors.splitlines()[-1]).groups()
    assert int(code) == tf.errors.INVALID_ARGUMENT
    return message


def test_python_is_not_linked(program):
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "libtensorflow_cc" in linked
    assert "not found" not in linked
    assert "libpython" not in linked


@pytest.mark.parametrize(("sample_rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_equals_python(tmp_path, run, wav_arguments, wav_in_python, sample_rate, channels):
    path = tmp_path / "recording.wav"
    waveform = np.random.default_rng(3).uniform(-0.5, 0.5, (int(2.5 * sample_rate), channels))
    soundfile.write(path, waveform, sample_rate, subtype="PCM_16")
    expected = wav_in_python(path.read_bytes())
    assert len(expected) >= 2

    status, output, errors = run(*wav_arguments, path)
    assert status == 0, errors
    num_examples, *embeddings = (line.split() for line in output.splitlines())
    assert num_examples == [str(len(expected))]
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(
        np.array(embeddings, np.float32), expected, atol=1e-5 * np.abs(expected).max(), rtol=0, equal_nan=False
    )


def test_bytes_that_are_not_wav(tmp_path, run, wav_arguments):
    path = tmp_path / "text.wav"
    path.write_text("not a recording")
    status, output, errors = run(*wav_arguments, path)
    assert (status, output) == (1, "")
    assert "must be the bytes of a WAV file with 8-, 16-, 24- or 32-bit PCM" in the_error(errors)


def test_the_graph_rejects_an_extra_axis(run, signatures):
    """Python's session checks shapes itself; from C an invalid shape reaches the graph."""
    serving = signatures["serving_default"]
    status, output, errors = run("--rank3", operation(serving.inputs["waveform"]), serving.outputs["embedding"].name)
    assert (status, output) == (1, "")
    assert "[1,16000,1] is not compatible with expected shape [?,?]" in the_error(errors)
