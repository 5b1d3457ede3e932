"""Damaged record files: both readers return records or raise an error, and `read` names the file."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import mutations

pytestmark = pytest.mark.fuzz

COUNT = 400


def test_damaged_records():
    mutations.try_seeds("tests.fuzz.test_records", COUNT)


def check(seed: int) -> None:
    import tensorflow as tf

    from vggish_keras import records

    rng = np.random.default_rng(seed)
    made = [
        records.Record(f"name{index}", 0.0, 10.0, (1, 5), rng.integers(0, 256, (3, 128), np.uint8))
        for index in range(4)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.tfrecord")
        if seed % 2:  # damage the file
            records.write(path, made)
            path.write_bytes(mutations.mutate(path.read_bytes(), rng, header=24))
        else:  # damage each record, with correct checksums
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in made:
                    writer.write(mutations.mutate(records.serialize(record), rng))

        def error_of(read):
            try:
                list(read(path))
            except (ValueError, tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
                return str(error)
            return None

        error, dataset_error = error_of(records.read), error_of(records.embedding_dataset)
        assert error is None or str(path) in error
        assert error is None or dataset_error is not None


if __name__ == "__main__":
    mutations.main(check)
