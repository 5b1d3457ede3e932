"""Embeds WAV files through TF Serving's gRPC: python grpc_client.py FILE.wav ... [--target HOST:PORT]."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import wav_client

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.embeddings import Embeddings

# The limit of protobuf and of TF Serving; gRPC's default for responses is 4 MiB.
_MAX_MESSAGE_BYTES = 2**31 - 1


@contextmanager
def connect(target: str) -> Iterator[Any]:
    """Connects to a server.

    Args:
        target: The server's gRPC address, HOST:PORT.

    Yields:
        A stub of its PredictionService, for `embed`.

    Raises:
        ImportError: tensorflow-serving-api is not installed.
    """
    try:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc
    except ImportError as error:
        raise ImportError('the gRPC client requires tensorflow-serving-api: pip install "vggish[serving]"') from error
    options = [(f"grpc.max_{direction}_message_length", _MAX_MESSAGE_BYTES) for direction in ("send", "receive")]
    with grpc.insecure_channel(target, options) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def embed(stub: Any, wavs: Sequence[bytes], model: str = "vggish", timeout: float = 10.0) -> list[Embeddings]:
    """Embeds clips in one request to the `wav` signature.

    Args:
        stub: The stub from `connect`.
        wavs: The bytes of WAV files of any rate, length and number of channels.
        model: The model's name on the server.
        timeout: Seconds to wait for the response.

    Returns:
        The embeddings of each clip.

    Raises:
        wav_client.ServingError: The server cannot be reached, is too slow, or rejects the request.
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
        timed_out = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        text = f"no answer within {timeout:g} s" if timed_out else error.details()
        raise wav_client.ServingError(f"{error.code().name}: {text}") from error
    return wav_client.split_clips({name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()})


@click.command()
@wav_client.shared_parameters
@click.option("--target", default="localhost:8500", show_default=True, help="The server's gRPC address.")
def main(files: tuple[Path, ...], target: str, model: str, timeout: float, output: Path | None) -> None:
    """Embed WAV FILES through TF Serving's gRPC, in one request."""

    def embed_all(wavs: list[bytes]) -> list[Embeddings]:
        load_tensorflow()  # for the protos
        with connect(target) as stub:
            return embed(stub, wavs, model, timeout)

    wav_client.run(embed_all, files, output)


if __name__ == "__main__":
    main()
