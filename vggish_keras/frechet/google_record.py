"""The TFRecord file of google-research's frechet_audio_distance: one `tf.train.Example` of mean and covariance."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggish_keras._errors import error_message
from vggish_keras._tensorflow import load_tensorflow

SUFFIX = ".tfrecord"


class GoogleRecord(NamedTuple):
    """Mean [128] and covariance [128, 128] of `n` embeddings, which the file holds in float32."""

    n: int
    mean: NDArray[Any]
    covariance: NDArray[Any]

    def write(self, path: Path) -> None:
        load_tensorflow()
        import tensorflow as tf

        floats = {"mu": self.mean, "sigma": self.covariance.ravel()}
        numbers = {"embedding_count": self.n, "embedding_length": len(self.mean)}
        feature = {
            **{name: tf.train.Feature(float_list=tf.train.FloatList(value=value)) for name, value in floats.items()},
            **{name: tf.train.Feature(int64_list=tf.train.Int64List(value=[n])) for name, n in numbers.items()},
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        with tf.io.TFRecordWriter(os.fsencode(path)) as writer:
            writer.write(example.SerializeToString())


def is_google_record(path: Path) -> bool:
    """Whether a file has the length of a single record, as this format has."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    return length > 0 and path.stat().st_size == length + 16


def read_google_record(path: Path) -> GoogleRecord | None:
    """Reads the file; None if it holds different records.

    Raises:
        ValueError: The file is damaged.
    """
    load_tensorflow()
    import tensorflow as tf

    try:
        (serialized,) = tf.data.TFRecordDataset(os.fsencode(path)).as_numpy_iterator()
        features = tf.train.Example.FromString(serialized).features.feature
    except Exception as error:  # TensorFlow and protobuf each raise their own
        raise ValueError(f"{path} is not a TFRecord file: {error_message(error)}") from error
    if not {"mu", "sigma", "embedding_count", "embedding_length"} <= set(features):
        return None
    counts = [list(features[name].int64_list.value) for name in ("embedding_count", "embedding_length")]
    mean, sigma = (np.array(features[name].float_list.value) for name in ("mu", "sigma"))
    if [len(count) for count in counts] != [1, 1] or len(sigma) != counts[1][0] ** 2 or len(mean) != counts[1][0]:
        raise ValueError(f"{path} holds damaged statistics: {len(mean)} means and {len(sigma)} covariances")
    return GoogleRecord(counts[0][0], mean, sigma.reshape(len(mean), -1))
