"""Damaged WAV files in a request return embeddings or a clear error, and never affect the clips beside them."""

import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fuzz import mutations

pytestmark = pytest.mark.fuzz

COUNT = 2_000
ENCODINGS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
]
ENCODINGS += [("WAV", "ALAW"), ("WAV", "ULAW"), ("WAVEX", "PCM_16"), ("WAVEX", "FLOAT")]


def test_damaged_requests():
    mutations.try_seeds("tests.fuzz.test_served_wav", COUNT)


@functools.cache
def signature():
    import tensorflow as tf

    import vggish_keras as vk
    from tests.conftest import make_network_narrow

    with pytest.MonkeyPatch.context() as patch:
        make_network_narrow(patch)
        tf.keras.utils.set_random_seed(0)
        folder = tempfile.mkdtemp()
        model = tf.saved_model.load(str(vk.export_saved_model(vk.VGGish(None), Path(folder, "vggish"))))
    return model, model.signatures["wav"]


def wav(format: str, subtype: str, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    samples = 0.5 * np.random.default_rng(0).uniform(-1, 1, (round(16_000 * seconds), 2))
    soundfile.write(file, samples, 16_000, format=format, subtype=subtype)
    return file.getvalue()


@functools.cache
def good() -> tuple[bytes, np.ndarray]:
    content = wav("WAV", "PCM_16", 2.0)
    return content, signature()[1](audio=np.array([content], object))["embedding"].numpy()[0]


def check(seed: int) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    content, expected = good()
    damaged = mutations.mutate(wav(*ENCODINGS[seed % len(ENCODINGS)]), rng)
    try:
        result = signature()[1](audio=tf.constant([content, damaged, content]))
    except tf.errors.InvalidArgumentError as error:
        message = str(error)
        assert (
            "audio[1] must be the bytes of a WAV file" in message
            or "audio[1] has samples that are not finite" in message
        ), message
        return
    embedding, counts = result["embedding"].numpy(), result["num_examples"].numpy()
    assert np.all(np.isfinite(embedding))
    for clip in (0, 2):
        rows = embedding[clip, : counts[clip]]
        np.testing.assert_allclose(rows, expected, atol=1e-4 * np.abs(expected).max())


if __name__ == "__main__":
    mutations.main(check)
