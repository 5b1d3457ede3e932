import io
import json
import os
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vggish_keras import Postprocess, embedding_files
from vggish_keras.embeddings import Embeddings

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
    embedding_files.write(tmp_path / "x.npz", several)
    names, times, values = joined(several)
    with np.load(tmp_path / "x.npz") as file:
        assert file["files"].tolist() == names
        np.testing.assert_array_equal(file["times"], times)
        np.testing.assert_array_equal(file["values"], values)
        assert file["values"].dtype == values.dtype
    for name in ("a.wav", "long.wav"):
        got = embedding_files.read_npz(tmp_path / "x.npz", name)
        np.testing.assert_array_equal(got.values, dict(several)[name].values)


def test_parquet(tmp_path, several):
    parquet = pytest.importorskip("pyarrow.parquet")
    embedding_files.write(tmp_path / "x.parquet", several)
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


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_an_iterator_is_written_as_a_list_is(tmp_path, several, suffix):
    embedding_files.write(tmp_path / f"list{suffix}", several)
    embedding_files.write(tmp_path / f"iterator{suffix}", iter(several))
    assert (tmp_path / f"iterator{suffix}").read_bytes() == (tmp_path / f"list{suffix}").read_bytes()


def test_recording_without_a_name(tmp_path):
    embeddings = Embeddings(np.zeros(2), np.ones((2, 128), np.float32))
    embedding_files.write(tmp_path / "x.npz", [("", embeddings)])
    ((name, read),) = embedding_files.read(tmp_path / "x.npz")
    assert name == ""
    np.testing.assert_array_equal(read.values, embeddings.values)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_file_without_recordings(tmp_path, suffix):
    with pytest.raises(ValueError, match=rf"an? \{suffix} file needs at least one recording"):
        embedding_files.write(tmp_path / f"x{suffix}", [])
    assert not list(tmp_path.iterdir())


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'Parquet files require pyarrow: pip install "vggish\[parquet\]"'):
        embedding_files.check_path(tmp_path / "x.parquet")


@pytest.mark.parametrize("suffix", embedding_files.SUFFIXES)
def test_interrupted_write_keeps_existing_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"before")

    class Interrupted(list):
        def __iter__(self):
            yield from recordings(np.float32)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedding_files.write(path, Interrupted())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# === Options ===

OPTIONS = {"weights": os.fsdecode(b"\xff.ckpt"), "hop_seconds": 0.96, "postprocess": None, "channels": 1}


@pytest.mark.parametrize("suffix", embedding_files.SUFFIXES)
def test_options_are_read_back(tmp_path, several, suffix):
    path = tmp_path / f"x{suffix}"
    embedding_files.write(path, several, OPTIONS)
    assert embedding_files.read_options(path) == OPTIONS
    content = path.read_bytes()
    embedding_files.write(path, several, OPTIONS)
    assert path.read_bytes() == content
    # A file without options, as earlier versions wrote it, does not inherit those of the file that it replaces.
    embedding_files.write(path, several)
    assert embedding_files.read_options(path) == {}
    assert list(tmp_path.iterdir()) == [path]


def test_numpy_reads_options_without_pickle(tmp_path, several):
    embedding_files.write(tmp_path / "x.npz", several, OPTIONS)
    with np.load(tmp_path / "x.npz") as file:
        assert file["options"].shape == ()
        assert json.loads(str(file["options"])) == OPTIONS


def test_options_of_parquet_are_metadata_of_the_schema(tmp_path, several):
    parquet = pytest.importorskip("pyarrow.parquet")
    embedding_files.write(tmp_path / "x.parquet", several, OPTIONS)
    schema = parquet.read_schema(tmp_path / "x.parquet")
    assert json.loads(schema.metadata[b"vggish"]) == OPTIONS
    assert schema.metadata == embedding_files.parquet_schema(several[0][1].values.dtype, OPTIONS).metadata


def test_csv_keeps_its_options_if_it_is_not_replaced(tmp_path, several, monkeypatch):
    embedding_files.write(tmp_path / "x.csv", several, OPTIONS)

    replace, targets = Path.replace, []

    def fail_once(path, target):
        targets.append(target)
        if len(targets) == 1:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr("pathlib.Path.replace", fail_once)
    with pytest.raises(KeyboardInterrupt):
        embedding_files.write(tmp_path / "x.csv", several, {"hop_seconds": 0.5})
    assert embedding_files.read_options(tmp_path / "x.csv") == OPTIONS


def test_options_of_csv_are_beside_it(tmp_path, several):
    embedding_files.write(tmp_path / "x.csv", several, OPTIONS)
    content = (tmp_path / "x.csv").read_bytes()
    assert json.loads((tmp_path / "x.csv.vggish.json").read_text()) == OPTIONS
    embedding_files.write(tmp_path / "x.csv", several)
    assert (tmp_path / "x.csv").read_bytes() == content


def test_interrupted_write_keeps_the_options_of_a_csv_file(tmp_path, several):
    embedding_files.write(tmp_path / "x.csv", several, OPTIONS)

    class Interrupted(list):
        def __iter__(self):
            yield from several
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedding_files.write(tmp_path / "x.csv", Interrupted(), {"hop_seconds": 0.5})
    assert embedding_files.read_options(tmp_path / "x.csv") == OPTIONS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.csv.vggish.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (np.array("[1]"), "contains invalid options: expected a JSON object, got list"),
        (np.array("{"), "contains invalid options: ."),
        (np.array("[" * 100_000), "contains invalid options: ."),
        (np.array(["{}"]), r"options must be a text, got <U2 \[1\]"),
        (np.array(b"{}"), r"options must be a text, got \|S2 \[\]"),
        (np.zeros((), "u4") + 0x110000, "options must be a text"),
        (np.array({}), "is not an .npz file of plain arrays: options contains pickled objects"),
    ],
)
def test_invalid_options_of_npz_raise(tmp_path, options, message):
    np.savez(tmp_path / "x.npz", times=ARRAYS["times"], values=ARRAYS["values"], options=options)
    with pytest.raises(ValueError, match=rf"x\.npz.*{message}"):
        embedding_files.read_options(tmp_path / "x.npz")
    assert len(embedding_files.read_npz(tmp_path / "x.npz").times) == 3


@pytest.mark.parametrize("name", ["options", "files"])
def test_invalid_characters_raise(tmp_path, name):
    text = np.array(["a"] * 3)
    text.view(np.uint32)[1] = 0x110000
    text = text if name == "files" else text[1:2].reshape(())
    np.savez(tmp_path / "x.npz", times=ARRAYS["times"], values=ARRAYS["values"], **{name: text})
    read = embedding_files.read_npz if name == "files" else embedding_files.read_options
    with pytest.raises(ValueError, match=rf"x\.npz is not an \.npz file .*: {name} contains invalid characters"):
        read(tmp_path / "x.npz")


def test_options_that_decompress_to_far_more_than_the_size_raise(tmp_path):
    write_zeros(tmp_path / "x.npz", {"options": ("<U25000000", ())})
    with pytest.raises(ValueError, match=r"x\.npz has \d+ bytes and would need 100000000 bytes"):
        embedding_files.read_options(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b""])
def test_invalid_options_of_csv_raise(tmp_path, several, content):
    embedding_files.write(tmp_path / "x.csv", several)
    (tmp_path / "x.csv.vggish.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.csv contains invalid options: ."):
        embedding_files.read_options(tmp_path / "x.csv")


def test_options_of_missing_or_unknown_files_raise(tmp_path):
    for suffix in embedding_files.SUFFIXES:
        with pytest.raises(FileNotFoundError, match=rf"missing\{suffix}"):
            embedding_files.read_options(tmp_path / f"missing{suffix}")
    with pytest.raises(
        ValueError, match=r"unknown file format: expected an \.npz, \.csv, \.parquet or \.tfrecord file, got .*\.txt"
    ):
        embedding_files.read_options(tmp_path / "x.txt")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"x\.parquet is not a Parquet file: ."):
        embedding_files.read_options(tmp_path / "x.parquet")


# === Untrusted .npz files ===


def npy(array, **header):
    """A member of an .npz file, optionally with a different header."""
    file = io.BytesIO()
    described = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, {**described, **header})
    return file.getvalue() + array.tobytes()


def npy_of_text(text, version=1):
    """A member with a text as its header."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()


ARRAYS = {
    "times": np.arange(3.0),
    "values": np.ones((3, 128), np.float32),
    "pca_eigen_vectors": np.eye(128, dtype=np.float32),
    "pca_means": np.zeros(128, np.float32),
}
MEMBERS = {name: npy(array) for name, array in ARRAYS.items()}

HEADERS = {
    "a trillion rows": lambda array: npy(array, shape=(10**12, *array.shape[1:])),
    "a row fewer": lambda array: npy(array, shape=(len(array) - 1, *array.shape[1:])),
    "negative": lambda array: npy(array, shape=(-1,)),
    "pickled": lambda array: npy(array, descr="|O"),
    "deep": lambda _: npy_of_text("(" * 9_000),
    "deep list": lambda _: npy_of_text("{'descr': " + "[" * 3_000 + "]" * 3_000 + ", 'fortran_order': 0, 'shape': 0}"),
    "no end": lambda _: npy_of_text("{'descr': '''"),
    "code": lambda _: npy_of_text("__import__('os').abort()"),
    "long": lambda _: npy_of_text("{" + " " * 60_000),
    "longer": lambda _: npy_of_text("{" + " " * 10**7, 2),
    "version 3": lambda _: npy_of_text("{}", 3),
    "no header": lambda _: b"",
    "text": lambda _: b"no array",
}
METHODS = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA, "checksum": zipfile.ZIP_STORED}
BYTES = {
    "encrypted": lambda content: with_field(content, 6, 1),
    "method 99": lambda content: with_field(content, 8, 99),
    "cut off": lambda content: content[:-30],
    "deflated data": lambda content: content[:60] + bytes(40) + content[100:],
    "checksum": lambda content: content.replace(struct.pack("<d", 2.0), struct.pack("<d", 9.0)).replace(
        bytes(400), b"1" * 400
    ),
    "empty": lambda _: b"",
    ".npy": lambda _: MEMBERS["times"],
}


def with_field(content, offset, value):
    """The archive with a changed field in every local header and directory entry."""
    content = bytearray(content)
    for signature, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        start = content.find(signature)
        while start >= 0:
            content[start + offset + shift : start + offset + shift + 2] = struct.pack("<H", value)
            start = content.find(signature, start + 4)
    return content


def write_members(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


@pytest.mark.parametrize("kind", [*HEADERS, *METHODS, *(kind for kind in BYTES if kind not in METHODS)])
@pytest.mark.parametrize("read", [embedding_files.read_npz, Postprocess])
def test_damaged_files_raise_value_errors_that_name_the_file(tmp_path, read, kind):
    write_members(tmp_path / "good.npz", MEMBERS)
    read(tmp_path / "good.npz")
    path = tmp_path / "bad.npz"
    changed = {name: HEADERS[kind](ARRAYS[name]) for name in ("times", "pca_eigen_vectors")} if kind in HEADERS else {}
    write_members(path, {**MEMBERS, **changed}, METHODS.get(kind, zipfile.ZIP_DEFLATED))
    if kind in BYTES:
        path.write_bytes(BYTES[kind](path.read_bytes()))
    with pytest.raises(ValueError, match=r"bad\.npz is not an \.npz file of plain arrays: ."):
        read(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"times": np.arange(4.0)}, r"contains no embeddings: expected times \[n\] and values \[n, 128\]"),
        ({"values": np.zeros((3, 64))}, "contains no embeddings"),
        ({"values": np.zeros((3, 128, 1))}, "contains no embeddings"),
        ({"values": np.zeros((3, 128), "U1")}, "contains no embeddings"),
        ({"values": np.zeros((3, 128), complex)}, "contains no embeddings"),
        ({"times": np.zeros((), "f8")}, "contains no embeddings"),
        ({"times": np.zeros((3, 1))}, "contains no embeddings"),
        ({"files": np.array(["a", "b"])}, r"files must contain 3 names, one for each of times, got <U1 \[2\]"),
        ({"files": np.arange(3)}, "files must contain 3 names"),
        ({"files": np.full((3, 1), "a")}, "files must contain 3 names"),
    ],
)
def test_inconsistent_arrays_raise(tmp_path, changed, message):
    np.savez_compressed(tmp_path / "x.npz", **{"times": ARRAYS["times"], "values": ARRAYS["values"], **changed})
    with pytest.raises(ValueError, match=rf"x\.npz:? {message}"):
        embedding_files.read_npz(tmp_path / "x.npz")


def test_other_arrays_are_ignored(tmp_path):
    other = {"model": np.array([{}], object), "zeros": np.zeros(10**8, np.uint8)}
    np.savez_compressed(tmp_path / "x.npz", times=ARRAYS["times"], values=ARRAYS["values"], **other)
    got = embedding_files.read_npz(tmp_path / "x.npz")
    np.testing.assert_array_equal(got.times, ARRAYS["times"])
    np.testing.assert_array_equal(got.values, ARRAYS["values"])


def write_zeros(path, arrays):
    """Writes compressed zeros: name -> dtype and shape."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (dtype, shape) in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                member.write(bytes(np.dtype(dtype).itemsize * int(np.prod(shape))))


def test_file_that_decompresses_to_far_more_than_its_size_raises(tmp_path):
    path, embeddings = tmp_path / "embeddings.npz", {"times": ("<f8", (200_000,)), "values": ("<f4", (200_000, 128))}
    write_zeros(path, embeddings)
    write_zeros(tmp_path / "pca.npz", {"pca_eigen_vectors": ("<f4", (200_000, 128)), "pca_means": ("<f4", (128,))})
    tracemalloc.start()
    message = (
        r"embeddings\.npz has \d+ bytes and would need 104000000 bytes of memory, more than 100 times .* np\.savez"
    )
    with pytest.raises(ValueError, match=message):
        embedding_files.read_npz(path)
    with pytest.raises(ValueError, match=r"pca_eigen_vectors has shape \(200000, 128\), expected \(128, 128\)"):
        Postprocess(tmp_path / "pca.npz")
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    # Saved again as the message suggests, it is read; a smaller file of zeros also is.
    with np.load(path) as file:
        np.savez(path, **file)
    assert len(embedding_files.read_npz(path).times) == 200_000
    write_zeros(path, {"times": ("<f8", (1_000,)), "values": ("<f4", (1_000, 128))})
    assert not np.any(embedding_files.read_npz(path).values)


def test_missing_npz_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.npz file at .*missing\.npz"):
        embedding_files.read_npz(tmp_path / "missing.npz")


# === Reading all recordings ===


@pytest.mark.parametrize("suffix", embedding_files.SUFFIXES)
def test_all_recordings_are_read_back(tmp_path, several, suffix):
    options = {"postprocess": "quantized" if several[0][1].values.dtype == np.uint8 else None}
    embedding_files.write(tmp_path / f"x{suffix}", several, options)
    got = list(embedding_files.read(tmp_path / f"x{suffix}"))
    expected = [(name, part) for name, part in several if len(part)]
    assert [name for name, _ in got] == [name for name, _ in expected]
    for (_, part), (_, same) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(part.values, same.values)
        assert part.values.dtype == same.values.dtype
        np.testing.assert_allclose(part.times, same.times, atol=0.005)


def test_reading_stops_at_damage(tmp_path, several):
    embedding_files.write(tmp_path / "x.csv", several)
    text = (tmp_path / "x.csv").read_text().splitlines()
    for line in ("a.wav,0.0", f"a.wav,0.0,{'x,' * 127}x"):
        (tmp_path / "x.csv").write_text("\n".join([*text[:5], line]))
        with pytest.raises(ValueError, match=r"x\.csv contains no embeddings, or is damaged"):
            list(embedding_files.read(tmp_path / "x.csv"))
    for name, error in (("x.txt", ValueError), ("missing.csv", FileNotFoundError)):
        with pytest.raises(error, match=name):
            list(embedding_files.read(tmp_path / name))
    (tmp_path / "x.parquet").write_bytes(b"no table")
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="is not a Parquet file of embeddings"):
        list(embedding_files.read(tmp_path / "x.parquet"))
