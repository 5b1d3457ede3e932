"""Damaged .npz files are read, or raise a ValueError that names the file."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import mutations

pytestmark = pytest.mark.fuzz

COUNT = 400


def test_damaged_archives():
    mutations.try_seeds("tests.fuzz.test_npz", COUNT)


def check(seed: int) -> None:
    from vggish_keras import embedding_files
    from vggish_keras.postprocess import read_pca_params

    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        save = np.savez if seed % 2 else np.savez_compressed
        if seed % 4 < 2:
            save(
                path,
                times=np.arange(5.0),
                values=rng.normal(size=(5, 128)).astype(np.float32),
                files=np.array(["x"] * 5),
                options=np.array('{"hop_seconds": 0.96}'),
            )
            read = embedding_files.read_npz if rng.random() < 0.5 else embedding_files.read_options
        else:
            save(path, pca_eigen_vectors=rng.normal(size=(128, 128)), pca_means=rng.normal(size=(128, 1)))
            read = read_pca_params
        path.write_bytes(mutations.mutate(path.read_bytes(), rng, header=200))
        message = str(path)
        try:
            read(path)
        except ValueError as error:
            message = str(error)
        assert str(path) in message


if __name__ == "__main__":
    mutations.main(check)
