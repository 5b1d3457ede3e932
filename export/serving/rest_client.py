"""Embeds WAV files through TF Serving's REST API: python rest_client.py FILE.wav ... [--url URL]."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import requests
import wav_client

from vggish_keras.embeddings import Embeddings


def embed(url: str, wavs: Sequence[bytes], model: str = "vggish", timeout: float = 10.0) -> list[Embeddings]:
    """Embeds clips in one request to the `wav` signature.

    Args:
        url: The server's REST address, such as http://localhost:8501.
        wavs: The bytes of WAV files of any rate, length and number of channels.
        model: The model's name on the server.
        timeout: Seconds to wait for the response.

    Returns:
        The embeddings of each clip.

    Raises:
        wav_client.ServingError: The server cannot be reached, is too slow, or rejects the request.
    """
    # "inputs", not "instances": the response then has each output as one array over all clips.
    audio = [{"b64": base64.b64encode(wav).decode()} for wav in wavs]
    request: dict[str, Any] = {"signature_name": wav_client.SIGNATURE, "inputs": {"audio": audio}}
    try:
        response = requests.post(f"{url.rstrip('/')}/v1/models/{model}:predict", json=request, timeout=timeout)
    except requests.Timeout as error:
        raise wav_client.ServingError(f"no answer from {url} within {timeout:g} s") from error
    except requests.RequestException as error:
        raise wav_client.ServingError(f"no answer from {url}: {error}") from error
    try:
        answer = response.json()
    except requests.JSONDecodeError as error:
        raise wav_client.ServingError(f"{url} is not TF Serving: HTTP {response.status_code} without JSON") from error
    if not isinstance(answer, dict) or (response.ok and "outputs" not in answer):
        raise wav_client.ServingError(f"{url} is not TF Serving: HTTP {response.status_code} without outputs")
    if not response.ok:
        raise wav_client.ServingError(f"HTTP {response.status_code}: {answer.get('error', response.reason)}")
    return wav_client.split_clips(answer["outputs"])


@click.command()
@wav_client.shared_parameters
@click.option("--url", default="http://localhost:8501", show_default=True, help="The server's REST address.")
def main(files: tuple[Path, ...], url: str, model: str, timeout: float, output: Path | None) -> None:
    """Embed WAV FILES through TF Serving's REST API, in one request."""
    wav_client.run(lambda wavs: embed(url, wavs, model, timeout), files, output)


if __name__ == "__main__":
    main()
