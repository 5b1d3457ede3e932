import sys

import numpy as np
import pytest

from vggish_keras import formats
from vggish_keras.embedder import Embeddings

RNG = np.random.default_rng(0)


def recordings(dtype):
    values = RNG.normal(100, 50, (9_000, 128)).clip(0, 255).astype(dtype)
    times = 0.96 * np.arange(9_000)
    parts = {"a.wav": slice(0, 3), "none.wav": slice(3, 3), "long.wav": slice(0, 9_000), "b.wav": slice(7, 9)}
    return [(name, Embeddings(times[part], values[part])) for name, part in parts.items()]


@pytest.fixture(params=[np.float32, np.uint8])
def several(request):
    return recordings(request.param)


def joined(several):
    names = [name for name, part in several for _ in part.times]
    return (
        names,
        np.concatenate([part.times for _, part in several]),
        np.concatenate([part.values for _, part in several]),
    )


def test_npz(tmp_path, several):
    formats.write(tmp_path / "x.npz", several)
    names, times, values = joined(several)
    with np.load(tmp_path / "x.npz") as file:
        assert file["files"].tolist() == names
        np.testing.assert_array_equal(file["times"], times)
        np.testing.assert_array_equal(file["values"], values)
        assert file["values"].dtype == values.dtype
    for name in ("a.wav", "long.wav"):
        got = formats.read_npz(tmp_path / "x.npz", name)
        np.testing.assert_array_equal(got.values, dict(several)[name].values)


def test_parquet(tmp_path, several):
    parquet = pytest.importorskip("pyarrow.parquet")
    formats.write(tmp_path / "x.parquet", several)
    file = parquet.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups == 2
    table = file.read()
    names, times, values = joined(several)
    assert table.column_names == ["file", "time", "embedding"]
    assert table["file"].to_pylist() == names
    np.testing.assert_array_equal(table["time"].to_numpy(), times)
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), values)
    assert (
        str(table.schema.field("embedding").type)
        == f"fixed_size_list<element: {'float' if values.dtype == 'f4' else 'uint8'}>[128]"
    )


def test_parquet_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"Parquet files need pyarrow: pip install vggish-keras\[parquet\]"):
        formats.check_path(tmp_path / "x.parquet")


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_an_interrupted_write_leaves_what_was_there(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"before")

    class Interrupted(list):
        def __iter__(self):
            yield from recordings(np.float32)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        formats.write(path, Interrupted())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
