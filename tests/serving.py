"""A small TF Serving: its REST and gRPC interfaces to a SavedModel that runs in this process."""

import base64
import contextlib
import json
import re
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

HTTP_STATUS = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404}


class RejectedError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


class Served:
    """Runs a SavedModel as TF Serving does, in a TF1 session, with its errors.

    The model `deaf` is the same model without the signature `wav`, and `old` with the outputs of earlier versions.
    """

    def __init__(self, path):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            signatures = dict(tf.compat.v1.saved_model.load(self.session, ["serve"], str(path)).signature_def)
        deaf = {name: signature for name, signature in signatures.items() if name != "wav"}
        self.models = {"vggish": signatures, "deaf": deaf, "old": {"wav": without_times(signatures["wav"])}}

    def signature(self, model, name, unknown):
        if model not in self.models:
            raise RejectedError("NOT_FOUND", f"Servable not found for request: Latest({model})")
        if name not in self.models[model]:
            raise RejectedError(*unknown)
        return self.models[model][name]

    def run(self, signature, inputs):
        if set(inputs) != set(signature.inputs):
            missing = sorted(set(signature.inputs) - set(inputs))
            text = f"input size does not match signature: Missing but required: {{{','.join(missing)}}}."
            raise RejectedError("INVALID_ARGUMENT", text)
        # Session.run() would check shapes before the graph does, and the server does not.
        options = config_pb2.CallableOptions(
            feed=[signature.inputs[name].name for name in inputs],
            fetch=[tensor.name for tensor in signature.outputs.values()],
        )
        call = self.session._make_callable_from_options(options)
        try:
            return dict(zip(signature.outputs, call(*inputs.values()), strict=True))
        except tf.errors.InvalidArgumentError as error:
            raise RejectedError("INVALID_ARGUMENT", error.message) from error


def without_times(signature):
    signature = type(signature).FromString(signature.SerializeToString())
    del signature.outputs["times"]
    return signature


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served):
        self.served = served

    def Predict(self, request, context):
        name = request.model_spec.signature_name or "serving_default"
        unknown = "FAILED_PRECONDITION", f'Serving signature key "{name}" not found.'
        try:
            signature = self.served.signature(request.model_spec.name, name, unknown)
            outputs = self.served.run(signature, {key: tf.make_ndarray(value) for key, value in request.inputs.items()})
        except RejectedError as error:
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
        except RejectedError as error:
            self.answer(HTTP_STATUS[error.code], {"error": error.text})
            return
        columns = {key: value.tolist() for key, value in outputs.items()}
        self.answer(200, {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))})

    def tensors(self, signature, inputs):
        if not (isinstance(inputs, dict) and set(inputs) <= set(signature.inputs)):
            inputs = {next(iter(signature.inputs)): inputs}  # the name of a single input may be omitted
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
        with contextlib.suppress(ConnectionError):  # a client that has stopped waiting
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def grpc_server(served):
    """The address of a server with the gRPC interface."""
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
