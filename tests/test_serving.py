"""The clients of export/serving against servers that behave like TF Serving."""

import importlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import yaml
from click.testing import CliRunner
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from tests import documentation
from tests.published import assert_close
from tests.serving import Served, grpc, grpc_server, predict_pb2, rest_server

model_server_config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")

SERVING = Path(__file__).parent.parent / "export" / "serving"


@pytest.fixture(scope="module")
def served(exported):
    served = Served(exported)
    yield served
    served.session.close()


@pytest.fixture(scope="module")
def target(served):
    with grpc_server(served) as target:
        yield target


@pytest.fixture(scope="module")
def url(served):
    with rest_server(served) as url:
        yield url


# === The clients ===


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """The clients' folder on the path, as when they are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SERVING))
        yield


@pytest.fixture(scope="module")
def grpc_client():
    return importlib.import_module("grpc_client")


@pytest.fixture(scope="module")
def rest_client():
    return importlib.import_module("rest_client")


@pytest.fixture(params=["grpc", "rest"])
def run(request, grpc_client, rest_client, monkeypatch, tmp_path):
    """Runs a client in a folder of its own: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    client = {"grpc": grpc_client, "rest": rest_client}[request.param]
    address = (
        ["--target", request.getfixturevalue("target")]
        if request.param == "grpc"
        else ["--url", request.getfixturevalue("url")]
    )

    def run(*arguments):
        result = CliRunner().invoke(client.main, [*address, *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    run.client = request.param
    return run


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, sounds):
    """WAV files of various lengths, rates and numbers of channels, one of them shorter than an example."""
    folder = tmp_path_factory.mktemp("recordings")
    files = {
        "noise.wav": (sounds["noise"].clip(-1, 1), 16_000),
        "stereo.wav": (np.stack([sounds["rumble"], sounds["sweep"]], axis=1), 44_100),
        "short.wav": (sounds["sine"][:8_000], 16_000),
        "silence.wav": (sounds["silence"], 8_000),
    }
    for name, (samples, sample_rate) in files.items():
        soundfile.write(folder / name, samples, sample_rate, subtype="PCM_16")
    return [folder / name for name in files]


@pytest.fixture(scope="module")
def expected(exported, recordings):
    """The SavedModel's embeddings of each recording by itself, in this process."""
    wav = tf.saved_model.load(str(exported)).signatures["wav"]
    return [wav(audio=tf.constant([path.read_bytes()]))["embedding"][0].numpy() for path in recordings]


def test_embed_returns_each_clip(grpc_client, rest_client, target, url, recordings, expected):
    wavs = [path.read_bytes() for path in recordings]
    with grpc_client.connect(target) as stub:
        over_grpc = grpc_client.embed(stub, wavs)
    assert [len(values) for values in expected] == [3, 1, 1, 4]
    for parts in (over_grpc, rest_client.embed(f"{url}/", wavs)):
        for (times, values), single in zip(parts, expected, strict=True):
            assert (times.dtype, values.dtype) == (np.float64, np.float32)
            assert times.tolist() == [index * 15_360 / 16_000 for index in range(len(single))]
            assert values.shape == single.shape
            assert_close(values, single, 1e-5)


def test_only_a_short_clip(run, recordings):
    status, output, errors = run(recordings[2])
    assert (status, errors) == (0, "")
    assert output.startswith(f"{recordings[2]}: 1 embedding of 128 values, the first ")


def test_prints_a_line_for_each_file(run, recordings, expected):
    status, output, errors = run(*recordings)
    assert (status, errors) == (0, "")
    for line, path, values in zip(output.splitlines(), recordings, expected, strict=True):
        assert line.startswith(f"{path}: {len(values)} embedding{'s' * (len(values) != 1)} of 128 values")
        shown = [float(word) for word in line.partition(", the first ")[2].split()[:-1]]
        np.testing.assert_allclose(shown, values[0, :5], rtol=1e-2)


def test_writes_npz(run, recordings, expected):
    assert run(*recordings, "-o", "out.npz") == (0, "out.npz: 9 embeddings\n", "")
    with np.load("out.npz") as file:
        np.testing.assert_allclose(file["times"], [0, 0.96, 1.92, 0, 0, 0, 0.96, 1.92, 2.88], rtol=0)
        assert_close(file["values"], np.concatenate(expected), 1e-5)
        assert file["files"].tolist() == [str(recordings[index]) for index in (0, 0, 0, 1, 2, 3, 3, 3, 3)]


# === Rejected requests ===


def assert_one_line(result, start):
    status, output, errors = result
    assert (status, output) == (1, "")
    assert errors.startswith(f"Error: {start}"), errors
    assert errors.count("\n") == 1


def test_a_file_that_is_not_wav(run, tmp_path, recordings):
    (tmp_path / "text.wav").write_text("not audio")
    result = run(recordings[0], "text.wav")
    assert_one_line(result, {"grpc": "INVALID_ARGUMENT: ", "rest": "HTTP 400: "}[run.client])
    assert "must be the bytes of a WAV file with 8-, 16-, 24- or 32-bit PCM" in result[2]


def test_unknown_model(run, recordings):
    status = {"grpc": "NOT_FOUND", "rest": "HTTP 404"}[run.client]
    assert_one_line(run(recordings[0], "--model", "nope"), f"{status}: Servable not found for request: Latest(nope)")


def test_a_model_without_the_signature(run, recordings):
    text = {
        "grpc": 'FAILED_PRECONDITION: Serving signature key "wav" not found.',
        "rest": 'HTTP 400: Serving signature name: "wav" not found in signature def',
    }
    assert_one_line(run(recordings[0], "--model", "deaf"), text[run.client])


def test_missing_file(run, recordings):
    assert_one_line(run(recordings[0], "missing.wav"), "missing.wav cannot be read: No such file or directory")


def test_server_down(run, recordings, free_port):
    option, text = {
        "grpc": (["--target", f"127.0.0.1:{free_port}"], "UNAVAILABLE: "),
        "rest": (["--url", f"http://127.0.0.1:{free_port}"], f"no answer from http://127.0.0.1:{free_port}: "),
    }[run.client]
    result = run(recordings[0], *option)
    assert_one_line(result, text)
    assert "refused" in result[2]


def test_server_too_slow(run, recordings, served, monkeypatch):
    finished = threading.Event()
    monkeypatch.setattr(served, "run", lambda *_: finished.wait(10) and {"late": np.zeros(1)})
    text = {"grpc": "DEADLINE_EXCEEDED: no answer within 0.2 s", "rest": "no answer from"}
    try:
        assert_one_line(run(recordings[0], "--timeout", 0.2), text[run.client])
    finally:
        finished.set()


def test_a_different_model(run, recordings, served, monkeypatch):
    outputs = {"scores": np.zeros(2), "classes": np.zeros(2)}
    monkeypatch.setattr(served, "run", lambda *_: outputs)
    message = "the served model does not return embedding, num_examples, times, only"
    assert_one_line(run(recordings[0]), f"{message} classes, scores: export it with this version of vggish")
    del outputs["classes"]
    found = {"grpc": "scores", "rest": "a single output"}[run.client]
    assert_one_line(run(recordings[0]), f"{message} {found}: export it with this version of vggish")


def test_a_model_of_an_earlier_version(run, recordings):
    message = "the served model does not return times, only embedding, num_examples, quantized: export it with"
    assert_one_line(run(recordings[0], "--model", "old"), message)


def test_usage_errors_exit_with_2(run):
    for arguments, message in (
        ([], "Missing argument 'FILES...'"),
        (["x.wav", "-o", "x.txt"], "unknown file format: expected an .npz, .csv or .parquet file, got x.txt"),
        (["x.wav", "--timeout", 0], "0 is not in the range x>0"),
    ):
        status, output, errors = run(*arguments)
        assert (status, output) == (2, "")
        assert message in " ".join(errors.split())


def test_missing_extra_is_named(grpc_client, monkeypatch, recordings):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    result = CliRunner().invoke(grpc_client.main, [str(recordings[0])])
    assert result.exit_code == 1
    assert 'tensorflow-serving-api: pip install "vggish[serving]"' in result.stderr


@pytest.fixture
def free_port():
    """A port on which nothing listens, and which no other process can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize(("script", "text"), [("grpc_client.py", "UNAVAILABLE: "), ("rest_client.py", "no answer")])
def test_scripts(script, text, recordings, free_port):
    """Run as in the README, they print only that line, whatever TensorFlow logs when it starts."""
    address = f"127.0.0.1:{free_port}" if script.startswith("grpc") else f"http://127.0.0.1:{free_port}"
    option = "--target" if script.startswith("grpc") else "--url"
    result = subprocess.run(
        [sys.executable, SERVING / script, recordings[0], option, address], capture_output=True, text=True, check=False
    )
    assert_one_line((result.returncode, result.stdout, result.stderr), text)


# === Other signatures ===


def predict(grpc_client, target, signature, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "vggish", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc_client.connect(target) as stub:
        outputs = stub.Predict(request, 10).outputs
    return {name: tf.make_ndarray(value) for name, value in outputs.items()}


def test_every_signature(grpc_client, target, recordings, expected):
    samples = soundfile.read(recordings[0], dtype="float32")[0]
    waveform = np.stack([samples, np.pad(samples[:20_000], (0, 28_000))])
    default = predict(grpc_client, target, "", waveform=samples[np.newaxis])
    assert_close(default["embedding"], expected[:1], 1e-5)
    assert default["quantized"].dtype == np.uint8
    padded = predict(grpc_client, target, "padded", waveform=waveform, num_samples=np.int32([48_000, 20_000]))
    assert padded["num_examples"].tolist() == [3, 1]
    np.testing.assert_array_equal(padded["times"], np.float32([[0, 0.96, 1.92], [0, 0, 0]]))
    assert_close(padded["embedding"][0], expected[0], 1e-5)
    assert_close(padded["embedding"][1, 0], expected[0][0], 1e-5)
    assert not padded["embedding"][1, 1:].any()
    examples = predict(grpc_client, target, "examples", examples=np.zeros((2, 96, 64), np.float32))
    assert examples["embedding"].shape == (2, 128)


@pytest.mark.parametrize(
    ("signature", "inputs", "text"),
    [
        ("padded", {"waveform": np.zeros((1, 100), np.float32), "num_samples": np.int32([101])}, "num_samples"),
        ("padded", {"waveform": np.zeros((1, 100), np.float32)}, "Missing but required: {num_samples}"),
        ("serving_default", {"waveform": np.zeros((1, 1, 100), np.float32)}, "[1,1,100]"),
        ("examples", {"examples": np.zeros((1, 64, 96), np.float32)}, "[1,64,96]"),
    ],
)
def test_invalid_inputs(grpc_client, target, signature, inputs, text):
    with pytest.raises(grpc.RpcError) as caught:
        predict(grpc_client, target, signature, **inputs)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.details()


# === Configuration and documentation ===


def batching_parameters():
    """The message BatchingParameters of TF Serving's session_bundle_config.proto, which its pip package lacks."""
    fields = {
        "max_batch_size": ("Int64Value", 1),
        "batch_timeout_micros": ("Int64Value", 2),
        "max_enqueued_batches": ("Int64Value", 3),
        "num_batch_threads": ("Int64Value", 4),
        "thread_pool_name": ("StringValue", 5),
        "allowed_batch_sizes": ("int64", 6),
        "pad_variable_length_inputs": ("bool", 7),
    }
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    for name, (kind, number) in fields.items():
        label = kinds.LABEL_REPEATED if kind == "int64" else kinds.LABEL_OPTIONAL
        field = message.field.add(name=name, number=number, label=label)
        if kind.endswith("Value"):
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".google.protobuf.{kind}"
        else:
            field.type = kinds.TYPE_BOOL if kind == "bool" else kinds.TYPE_INT64
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))()


def test_batching_config():
    config = text_format.Parse((SERVING / "batching.config").read_text(), batching_parameters())
    assert config.pad_variable_length_inputs
    assert config.max_batch_size.value == 32
    assert f"up to {config.max_batch_size.value} clips" in (SERVING / "README.md").read_text()
    assert config.num_batch_threads.value > 0
    assert config.max_enqueued_batches.value > 0


def test_names_and_ports_agree(grpc_client, rest_client):
    server = model_server_config_pb2.ModelServerConfig()
    (model,) = text_format.Parse((SERVING / "models.config").read_text(), server).model_config_list.config
    defaults = {option.name: option.default for client in (grpc_client, rest_client) for option in client.main.params}
    assert model.name == defaults["model"]
    compose = (SERVING / "compose.yaml").read_text()
    assert f"../../vggish}}:{model.base_path}:ro" in compose
    for flag, file in (("model_config_file", "models.config"), ("batching_parameters_file", "batching.config")):
        path = re.search(rf"--{flag}=(\S+)", compose)[1]
        assert f"./{file}:{path}:ro" in compose
    ports = re.findall(r'"(\d+):(\d+)"', compose)
    assert [f"localhost:{port}" for port, _ in ports] == [defaults["target"], defaults["url"].removeprefix("http://")]
    # The ports on which the image's server listens.
    assert [inside for _, inside in ports] == ["8500", "8501"]


def test_compose_is_yaml():
    (service,) = yaml.safe_load((SERVING / "compose.yaml").read_text())["services"].values()
    assert set(service) == {"image", "command", "ports", "volumes"}


def test_readme_of_serving(url):
    """Its shell request equals the client's, and its Python code runs."""
    text = (SERVING / "README.md").read_text()
    assert json.loads(re.search(r"printf '(.*?)'", text)[1]) == {
        "signature_name": "wav",
        "inputs": {"audio": [{"b64": "%s"}]},
    }
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names = {}
    exec(example.replace("http://localhost:8501", url), names)
    assert [len(rows) for rows in names["embeddings"]] == [3, 1]


def test_commands_of_the_documentation(run, recordings):
    page = documentation.read("docs/exported_models.md")
    command = f"python export/serving/{run.client}_client.py "
    (line,) = (line for line in page.splitlines() if line.startswith(command))
    shutil.copy(recordings[0], "recording.wav")
    status, output, errors = run(*shlex.split(line.removeprefix(command)))
    assert (status, errors) == (0, "")
    assert output.startswith("recording.wav: 3 embeddings of 128 values")
