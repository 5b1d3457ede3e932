"""The clients of export/serving against servers that answer as TF Serving does."""

import base64
import contextlib
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import yaml
from click.testing import CliRunner
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow.core.protobuf import config_pb2

_REASON = "serving needs tensorflow-serving-api"
grpc = pytest.importorskip("grpc", reason=_REASON)
predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason=_REASON)
prediction_service_pb2_grpc = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc", reason=_REASON)
model_server_config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2", reason=_REASON)

SERVING = Path(__file__).parent.parent / "export" / "serving"
HTTP_STATUS = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404}


# === TF Serving, in small ===


class RefusedError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


class Served:
    """Runs a SavedModel as TF Serving does, in a TF1 session, with its errors.

    The model `deaf` is the same without the signature `wav`.
    """

    def __init__(self, path):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            signatures = dict(tf.compat.v1.saved_model.load(self.session, ["serve"], str(path)).signature_def)
        deaf = {name: signature for name, signature in signatures.items() if name != "wav"}
        self.models = {"vggish": signatures, "deaf": deaf}

    def signature(self, model, name, unknown):
        if model not in self.models:
            raise RefusedError("NOT_FOUND", f"Servable not found for request: Latest({model})")
        if name not in self.models[model]:
            raise RefusedError(*unknown)
        return self.models[model][name]

    def run(self, signature, inputs):
        if set(inputs) != set(signature.inputs):
            missing = sorted(set(signature.inputs) - set(inputs))
            text = f"input size does not match signature: Missing but required: {{{','.join(missing)}}}."
            raise RefusedError("INVALID_ARGUMENT", text)
        # Session.run() would check shapes before the graph does, and the server does not.
        options = config_pb2.CallableOptions(
            feed=[signature.inputs[name].name for name in inputs],
            fetch=[tensor.name for tensor in signature.outputs.values()],
        )
        call = self.session._make_callable_from_options(options)
        try:
            return dict(zip(signature.outputs, call(*inputs.values()), strict=True))
        except tf.errors.InvalidArgumentError as error:
            raise RefusedError("INVALID_ARGUMENT", error.message) from error


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served):
        self.served = served

    def Predict(self, request, context):
        name = request.model_spec.signature_name or "serving_default"
        unknown = "FAILED_PRECONDITION", f'Serving signature key "{name}" not found.'
        try:
            signature = self.served.signature(request.model_spec.name, name, unknown)
            outputs = self.served.run(signature, {key: tf.make_ndarray(value) for key, value in request.inputs.items()})
        except RefusedError as error:
            context.abort(grpc.StatusCode[error.code], error.text)
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


class RestApi(BaseHTTPRequestHandler):
    served: Served

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body.get("signature_name", "serving_default")
        unknown = "INVALID_ARGUMENT", f'Serving signature name: "{name}" not found in signature def'
        model = re.fullmatch(r"/v1/models/(\w+):predict", self.path)[1]
        try:
            signature = self.served.signature(model, name, unknown)
            outputs = self.served.run(signature, self.tensors(signature, body["inputs"]))
        except RefusedError as error:
            self.answer(HTTP_STATUS[error.code], {"error": error.text})
            return
        columns = {key: value.tolist() for key, value in outputs.items()}
        self.answer(200, {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))})

    def tensors(self, signature, inputs):
        if not (isinstance(inputs, dict) and set(inputs) <= set(signature.inputs)):
            inputs = {next(iter(signature.inputs)): inputs}  # of one input the name may be left out
        arrays = {}
        for key, value in inputs.items():
            dtype = tf.as_dtype(signature.inputs[key].dtype)
            if dtype is tf.string:
                value = [base64.b64decode(item["b64"], validate=True) for item in value]
            arrays[key] = np.array(value, dtype.as_numpy_dtype)
        return arrays

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client that waits no longer
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(exported):
    served = Served(exported)
    yield served
    served.session.close()


@pytest.fixture(scope="module")
def target(served):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(served), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextlib.contextmanager
def rest_server(served):
    """The address of a server with the REST API."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (RestApi,), {"served": served}))
    server.daemon_threads = False  # so that server_close() waits for them
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def url(served):
    with rest_server(served) as url:
        yield url


# === The clients ===


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """The clients' folder on the path, as it is when they are run."""
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
    """WAV files of several lengths, rates and numbers of channels, one of them shorter than an example."""
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
    """What the SavedModel gives for each recording alone, in this process."""
    wav = tf.saved_model.load(str(exported)).signatures["wav"]
    return [wav(audio=tf.constant([path.read_bytes()]))["embedding"][0].numpy() for path in recordings]


def test_embed_cuts_each_clip(grpc_client, rest_client, target, url, recordings, expected):
    wavs = [path.read_bytes() for path in recordings]
    with grpc_client.connect(target) as stub:
        over_grpc = grpc_client.embed(stub, wavs)
    assert [len(values) for values in expected] == [3, 1, 0, 4]
    for parts in (over_grpc, rest_client.embed(f"{url}/", wavs)):
        for values, alone in zip(parts, expected, strict=True):
            assert values.dtype == np.float32
            assert values.shape == alone.shape
            np.testing.assert_allclose(values, alone, rtol=1e-4, atol=1e-5)


def test_only_a_short_clip(run, recordings):
    assert run(recordings[2]) == (0, f"{recordings[2]}: 0 embeddings of 128 values\n", "")


def test_prints_a_line_for_each_file(run, recordings, expected):
    status, output, errors = run(*recordings)
    assert (status, errors) == (0, "")
    for line, path, values in zip(output.splitlines(), recordings, expected, strict=True):
        assert line.startswith(f"{path}: {len(values)} embeddings of 128 values")
        shown = [float(word) for word in line.partition(", the first ")[2].split()[:-1]]
        np.testing.assert_allclose(shown, values[0, :5] if len(values) else [], rtol=1e-2)


def test_writes_npz(run, recordings, expected):
    assert run(*recordings, "-o", "out.npz", "--hop", 0.5) == (0, "out.npz: 8 embeddings\n", "")
    with np.load("out.npz") as file:
        np.testing.assert_allclose(file["times"], [0, 0.5, 1, 0, 0, 0.5, 1, 1.5])
        np.testing.assert_allclose(file["values"], np.concatenate(expected), rtol=1e-4, atol=1e-5)
        assert file["files"].tolist() == [str(recordings[index]) for index in (0, 0, 0, 1, 3, 3, 3, 3)]


# === Wrong requests ===


def assert_one_line(result, start):
    status, output, errors = result
    assert (status, output) == (1, "")
    assert errors.startswith(f"Error: {start}"), errors
    assert errors.count("\n") == 1


def test_a_file_that_is_no_wav(run, tmp_path, recordings):
    (tmp_path / "text.wav").write_text("no audio")
    result = run(recordings[0], "text.wav")
    assert_one_line(result, {"grpc": "INVALID_ARGUMENT: ", "rest": "HTTP 400: "}[run.client])
    assert "must be the bytes of a WAV file of PCM of 8, 16, 24 or 32 bits" in result[2]


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


def test_another_model(run, recordings, served, monkeypatch):
    monkeypatch.setattr(served, "run", lambda *_: {"scores": np.zeros(2), "classes": np.zeros(2)})
    assert_one_line(run(recordings[0]), "expected the outputs embedding and num_examples, got classes, scores")


def test_usage_errors_exit_with_2(run):
    for arguments, message in (
        ([], "Missing argument 'FILES...'"),
        (["x.wav", "-o", "x.txt"], "unknown file format: expected a .npz, .csv or .parquet file, got x.txt"),
        (["x.wav", "--timeout", 0], "0 is not in the range x>0"),
    ):
        status, output, errors = run(*arguments)
        assert (status, output) == (2, "")
        assert message in " ".join(errors.split())


def test_without_the_extra(grpc_client, monkeypatch, recordings):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    result = CliRunner().invoke(grpc_client.main, [str(recordings[0])])
    assert result.exit_code == 1
    assert 'tensorflow-serving-api: pip install "vggish[serving]"' in result.stderr


@pytest.fixture
def free_port():
    with ThreadingHTTPServer(("127.0.0.1", 0), RestApi) as server:
        return server.server_port


@pytest.mark.parametrize(("script", "text"), [("grpc_client.py", "UNAVAILABLE: "), ("rest_client.py", "no answer")])
def test_the_scripts(script, text, recordings, free_port):
    """Run as in the README: nothing but the one line, whatever TensorFlow has to say when it starts."""
    address = f"127.0.0.1:{free_port}" if script.startswith("grpc") else f"http://127.0.0.1:{free_port}"
    option = "--target" if script.startswith("grpc") else "--url"
    result = subprocess.run(
        [sys.executable, SERVING / script, recordings[0], option, address], capture_output=True, text=True, check=False
    )
    assert_one_line((result.returncode, result.stdout, result.stderr), text)


# === Other signatures, as any client may ask them ===


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
    np.testing.assert_allclose(default["embedding"], expected[:1], rtol=1e-4, atol=1e-5)
    assert default["quantized"].dtype == np.uint8
    padded = predict(grpc_client, target, "padded", waveform=waveform, num_samples=np.int32([48_000, 20_000]))
    assert padded["num_examples"].tolist() == [3, 1]
    np.testing.assert_allclose(padded["embedding"][0], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(padded["embedding"][1, 0], expected[0][0], rtol=1e-4, atol=1e-5)
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
def test_wrong_inputs(grpc_client, target, signature, inputs, text):
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
    # Those that the server of the image listens to.
    assert [inside for _, inside in ports] == ["8500", "8501"]


def test_compose_is_yaml():
    (service,) = yaml.safe_load((SERVING / "compose.yaml").read_text())["services"].values()
    assert set(service) == {"image", "command", "ports", "volumes"}


def test_the_readme(url):
    """Its request in the shell is that of the client, and its Python runs."""
    text = (SERVING / "README.md").read_text()
    assert json.loads(re.search(r"printf '(.*?)'", text)[1]) == {
        "signature_name": "wav",
        "inputs": {"audio": [{"b64": "%s"}]},
    }
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names = {}
    exec(example.replace("http://localhost:8501", url), names)
    assert [len(rows) for rows in names["embeddings"]] == [3, 1]


def test_the_lines_of_the_main_readme(run, recordings):
    readme = (SERVING.parent.parent / "README.md").read_text()
    command = f"python export/serving/{run.client}_client.py "
    (line,) = (line for line in readme.splitlines() if line.startswith(command))
    shutil.copy(recordings[0], "recording.wav")
    status, output, errors = run(*shlex.split(line.removeprefix(command)))
    assert (status, errors) == (0, "")
    assert output.startswith("recording.wav: 3 embeddings of 128 values")
