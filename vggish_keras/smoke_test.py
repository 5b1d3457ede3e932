"""The published smoke test: the statistics of VGGish's embeddings of 3 s of a 1 kHz sine."""

from typing import NamedTuple

import numpy as np

from vggish_keras import params
from vggish_keras._validation import PathLike
from vggish_keras.embedder import Embedder
from vggish_keras.postprocess import Postprocess


class Statistic(NamedTuple):
    """A statistic of the smoke test, with its published and its measured value."""

    name: str
    expected: float
    measured: float

    @property
    def within_tolerance(self) -> bool:
        """Whether the measured value is within 10% of the published one."""
        return abs(self.measured - self.expected) <= params.SMOKE_TEST_TOLERANCE * abs(self.expected)


def smoke_test(weights: PathLike | None = params.AUDIOSET) -> list[Statistic]:
    """Runs the published smoke test.

    Args:
        weights: As in `Embedder`. The published PCA parameters are always used for post-processing.

    Returns:
        The mean and standard deviation of the raw and of the post-processed embeddings.

    Raises:
        FileNotFoundError: The weights do not exist, or a published file is not available.
        ValueError: The weights do not fit the model.
    """
    embedder = Embedder(weights, params.EXAMPLE_HOP_SECONDS, padding="valid")
    seconds = np.arange(params.SMOKE_TEST_SECONDS * params.SAMPLE_RATE) / params.SAMPLE_RATE
    sine = np.sin(2 * np.pi * params.SMOKE_TEST_HZ * seconds).astype(np.float32)
    embeddings = embedder.embed(sine, params.SAMPLE_RATE).values
    postprocessed = np.asarray(Postprocess(params.AUDIOSET)(embeddings))
    expected_and_measured = {
        "embedding mean": (params.SMOKE_TEST_EMBEDDING_MEAN, np.mean(embeddings)),
        "embedding standard deviation": (params.SMOKE_TEST_EMBEDDING_STDDEV, np.std(embeddings)),
        "post-processed mean": (params.SMOKE_TEST_POSTPROCESSED_MEAN, np.mean(postprocessed)),
        "post-processed standard deviation": (params.SMOKE_TEST_POSTPROCESSED_STDDEV, np.std(postprocessed)),
    }
    return [Statistic(name, expected, float(measured)) for name, (expected, measured) in expected_and_measured.items()]
