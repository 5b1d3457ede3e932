"""Compare sets of embeddings: Fréchet audio distance, its bias and standard error, and kernel audio distance."""

from vggish_keras.frechet.distance import (
    FadResult,
    KadResult,
    RecordingFad,
    check_options,
    compare,
    frechet_distance,
    kad,
    rank_recordings,
)
from vggish_keras.frechet.statistics import Gaussian, Statistics

__all__ = [
    "FadResult",
    "Gaussian",
    "KadResult",
    "RecordingFad",
    "Statistics",
    "check_options",
    "compare",
    "frechet_distance",
    "kad",
    "rank_recordings",
]
