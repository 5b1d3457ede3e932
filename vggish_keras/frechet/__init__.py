"""Compare sets of embeddings: Fréchet audio distance, its bias and standard error, and kernel audio distance.

Only recordings need TensorFlow; embeddings and statistics are compared without it.
"""

from vggish_keras.frechet.distance import (
    FadResult,
    KadResult,
    RecordingFad,
    compare,
    frechet_distance,
    kad,
    rank_recordings,
)
from vggish_keras.frechet.picture import plot_fad
from vggish_keras.frechet.sets import (
    OpenSet,
    SetReader,
    compare_sets,
    fad,
    fad_per_recording,
    holds_statistics,
    rank_set,
)
from vggish_keras.frechet.statistics import Statistics, check_statistics_path

__all__ = [
    "FadResult",
    "KadResult",
    "OpenSet",
    "RecordingFad",
    "SetReader",
    "Statistics",
    "check_statistics_path",
    "compare",
    "compare_sets",
    "fad",
    "fad_per_recording",
    "frechet_distance",
    "holds_statistics",
    "kad",
    "plot_fad",
    "rank_recordings",
    "rank_set",
]
