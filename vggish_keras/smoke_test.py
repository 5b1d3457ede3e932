"""The published smoke test: what VGGish must give for 3 s of a 1 kHz sine."""

from typing import NamedTuple

import numpy as np

from vggish_keras import params
from vggish_keras._validation import PathLike
from vggish_keras.model import VGGish
from vggish_keras.postprocess import Postprocess


class Figure(NamedTuple):
    """One figure of the smoke test."""

    name: str
    expected: float
    measured: float

    @property
    def agrees(self) -> bool:
        return abs(self.measured - self.expected) <= params.SMOKE_TEST_TOLERANCE * abs(self.expected)


def smoke_test(weights: PathLike | None = params.AUDIOSET) -> list[Figure]:
    """Runs the published smoke test.

    Args:
        weights: As in `VGGish`. The post-processing is always the published one.

    Returns:
        Mean and standard deviation of raw and of post-processed embeddings, expected and measured.

    Raises:
        FileNotFoundError: There are no such weights, or a published file cannot be had.
        ValueError: The weights do not fit.
    """
    model, postprocess = VGGish(weights), Postprocess(params.AUDIOSET)
    seconds = np.arange(params.SMOKE_TEST_SECONDS * params.SAMPLE_RATE) / params.SAMPLE_RATE
    sine = np.sin(2 * np.pi * params.SMOKE_TEST_HZ * seconds).astype(np.float32)
    embeddings = model(sine[np.newaxis], training=False)
    postprocessed = np.asarray(postprocess(embeddings))
    return [
        Figure("embedding mean", params.SMOKE_TEST_EMBEDDING_MEAN, float(np.mean(embeddings))),
        Figure("embedding standard deviation", params.SMOKE_TEST_EMBEDDING_STDDEV, float(np.std(embeddings))),
        Figure("post-processed mean", params.SMOKE_TEST_POSTPROCESSED_MEAN, float(np.mean(postprocessed))),
        Figure(
            "post-processed standard deviation", params.SMOKE_TEST_POSTPROCESSED_STDDEV, float(np.std(postprocessed))
        ),
    ]
