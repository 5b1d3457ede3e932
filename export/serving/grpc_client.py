"""Embeds WAV files through TF Serving's gRPC: python grpc_client.py FILE.wav .. [--target HOST:PORT]."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import wav_client

from vggish_keras._tensorflow import load_tensorflow

# As many as TF Serving takes, which is the limit of protobuf; gRPC's own is 4 MiB for an answer.
_MAX_MESSAGE_BYTES = 2**31 - 1


@contextmanager
def connect(target: str) -> Iterator[Any]:
    """A stub of the server's PredictionService, for `embed`.

    Args:
        target: The server's gRPC address, HOST:PORT.

    Raises:
        ImportError: tensorflow-serving-api is not installed.
    """
    try:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc
    except ImportError as error:
        raise ImportError('the gRPC client needs tensorflow-serving-api: pip install "vggish[serving]"') from error
    options = [(f"grpc.max_{way}_message_length", _MAX_MESSAGE_BYTES) for way in ("send", "receive")]
    with grpc.insecure_channel(target, options) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def embed(stub: Any, wavs: Sequence[bytes], model: str = "vggish", timeout: float = 10.0) -> list[np.ndarray]:
    """Embeds clips in one request to the `wav` signature.

    Args:
        stub: What `connect` gives.
        wavs: The bytes of WAV files of any rate, length and number of channels.
        model: The model's name on the server.
        timeout: Seconds to wait for the answer.

    Returns:
        For each clip float32 [n, 128].

    Raises:
        wav_client.ServingError: The server cannot be reached, is too slow, or refuses the request.
    """
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = wav_client.SIGNATURE
    request.inputs["audio"].CopyFrom(tf.make_tensor_proto(list(wavs), tf.string, [len(wavs)]))
    # No output_filter: TF Serving batches only requests for all outputs of a signature.
    try:
        response = stub.Predict(request, timeout)
    except grpc.RpcError as error:
        late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        text = f"no answer within {timeout:g} s" if late else error.details()
        raise wav_client.ServingError(f"{error.code().name}: {text}") from error
    return wav_client.cut({name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()})


@click.command()
@wav_client.parameters
@click.option("--target", default="localhost:8500", show_default=True, help="The server's gRPC address.")
def main(files: tuple[Path, ...], target: str, model: str, timeout: float, output: Path | None, hop: float) -> None:
    """Embed WAV FILES through TF Serving's gRPC, in one request."""

    def embed_all(wavs: list[bytes]) -> list[np.ndarray]:
        load_tensorflow()  # for the protos
        with connect(target) as stub:
            return embed(stub, wavs, model, timeout)

    wav_client.run(embed_all, files, output, hop)


if __name__ == "__main__":
    main()
