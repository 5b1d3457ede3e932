"""Damaged files of AudioSet's records: what both readers give, or a ValueError that names the file."""

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
        if seed % 2:  # of the file
            records.write(path, made)
            path.write_bytes(mutations.mutate(path.read_bytes(), rng, header=24))
        else:  # of a record with the right checksums
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in made:
                    writer.write(mutations.mutate(records.serialize(record), rng))

        def refusal(read):
            try:
                list(read(path))
            except (ValueError, tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
                return str(error)
            return None

        refused, refused_by_dataset = refusal(records.read), refusal(records.dataset)
        assert refused is None or str(path) in refused
        assert refused is None or refused_by_dataset is not None


if __name__ == "__main__":
    mutations.main(check)
