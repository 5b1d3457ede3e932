import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from vggish_keras.records import Record, _masked_crc32c, dequantize, embedding_dataset
from vggish_keras.segments import Segment, read_segments

RNG = np.random.default_rng(0)


def record(name="clip", rows=10, labels=(0, 5)):
    return Record(name, 30.0, 40.0, tuple(labels), RNG.integers(0, 256, (rows, 128), dtype=np.uint8))


def assert_same(got, expected):
    assert got[:4] == expected[:4]
    assert got.embedding.dtype == np.uint8
    np.testing.assert_array_equal(got.embedding, expected.embedding)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.tfrecord"


# === Reading and writing ===


@pytest.mark.reference
def test_released_shard_round_trips(reference, path):
    """Each record equals the released one, as parsed by TensorFlow."""
    released = reference / "audioset_eval_rm.tfrecord"
    records = list(vk.records.read(released))
    assert len(records) == 328
    vk.records.write(path, records)
    for ours, theirs in zip(parsed(path), parsed(released), strict=True):
        assert ours == theirs
    assert {len(record.embedding) for record in records} >= {10}
    assert all(record.video_id and record.labels for record in records)


def parsed(path):
    for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        yield tf.train.SequenceExample.FromString(serialized)


def test_written_records_are_read_back(path):
    records = [record(), record("ü/x.wav", 0, ()), record(os.fsdecode(b"\xff.wav"), 3, range(527))]
    vk.records.write(path, iter(records))
    for got, expected in zip(vk.records.read(path), records, strict=True):
        assert_same(got, expected)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    vk.records.write(path, [])
    assert list(vk.records.read(path)) == []


def test_youtube_8m_records_are_read(path):
    """Frame-level features have different keys, no times, and images besides the audio."""
    rows = RNG.integers(0, 256, (4, 128), dtype=np.uint8)
    feature = tf.train.Feature
    lists = {
        "audio": tf.train.FeatureList(
            feature=[feature(bytes_list=tf.train.BytesList(value=[r.tobytes()])) for r in rows]
        ),
        "rgb": tf.train.FeatureList(feature=[feature(bytes_list=tf.train.BytesList(value=[bytes(1024)]))] * 4),
    }
    context = {
        "id": feature(bytes_list=tf.train.BytesList(value=[b"eXbF"])),
        "labels": feature(int64_list=tf.train.Int64List(value=[3, 7])),
    }
    example = tf.train.SequenceExample(
        context=tf.train.Features(feature=context), feature_lists=tf.train.FeatureLists(feature_list=lists)
    )
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(example.SerializeToString())
    (got,) = vk.records.read(path)
    assert_same(got, Record("eXbF", 0.0, 4.0, (3, 7), rows))
    ((embedding, labels),) = embedding_dataset(path, num_classes=10)
    np.testing.assert_allclose(embedding[0], dequantize(rows))
    assert np.flatnonzero(labels[0]).tolist() == [3, 7]


def test_damaged_files_raise_and_are_named(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"TFRecord file .*missing does not exist"):
        next(vk.records.read(tmp_path / "missing"))
    vk.records.write(path, [record(), record()])
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    records = vk.records.read(path)
    next(records)
    with pytest.raises(ValueError, match=r"records\.tfrecord is damaged .*: record 1 at byte"):
        next(records)
    path.write_bytes(b"no records at all, but long enough")
    with pytest.raises(ValueError, match=r"records\.tfrecord is damaged or not a TFRecord file: record 0"):
        next(vk.records.read(path))
    for serialized, message in (
        (b"\xff\xff\xff", "record 0: not a SequenceExample"),
        (b"", "record 0: missing video_id or id"),
    ):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(serialized)
        with pytest.raises(ValueError, match=message):
            next(vk.records.read(path))


def claimed_record(length, content=b""):
    """A record that claims a length, with the checksum of that length."""
    header = struct.pack("<Q", length)
    return header + struct.pack("<I", _masked_crc32c(header)) + content


def test_checksums_of_lengths_equal_tensorflows(path):
    for size in (0, 1, 128, 70_000):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(bytes(size))
        assert path.read_bytes()[:12] == claimed_record(size)


def test_length_that_exceeds_the_file_raises(tmp_path):
    """In a separate process, because TensorFlow would allocate the claimed length and crash."""
    expected = []
    for whole, exponent in itertools.product((0, 2), (31, 33, 36, 40, 50, 62, 63)):
        path = tmp_path / f"{whole}-{exponent}"
        vk.records.write(path, [record(str(index)) for index in range(whole)])
        offset = path.stat().st_size
        with path.open("ab") as file:
            file.write(claimed_record(2**exponent, bytes(50)))
        message = f"{path} is damaged or not a TFRecord file: record {whole} at byte {offset} has a "
        message += f"length of {2**exponent} bytes, which exceeds the file"
        expected += [str(path), *map(str, range(whole)), message, message]
    script = (
        "import sys\n"
        "from vggish_keras.records import embedding_dataset, read\n"
        "for path in sys.argv[1:]:\n"
        "    print(path, flush=True)\n"
        "    for consume in (lambda path: [print(record.video_id) for record in read(path)], embedding_dataset):\n"
        "        try: consume(path)\n"
        "        except ValueError as error: print(error)"
    )
    paths = [line for line in expected if Path(line).is_file()]
    result = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == expected
    assert result.returncode == 0


def test_length_that_exceeds_the_limit_of_records_raises(path):
    """A sparse file has the claimed length but occupies no space."""
    with path.open("wb") as file:
        file.write(claimed_record(2**36))
        file.truncate(2**36 + 16)
    for consume in (lambda: next(vk.records.read(path)), lambda: embedding_dataset(path)):
        with pytest.raises(
            ValueError, match=f"record 0 at byte 0 has a length of {2**36} bytes, which exceeds the limit"
        ):
            consume()


def test_truncated_record_raises_with_its_offset(path):
    """Wherever the file ends: in the length, the checksums or the content."""
    vk.records.write(path, [record("a"), record("b")])
    content = path.read_bytes()
    second = len(content) // 2
    for kept in (1, 4, 8, 11, 12, 13, 100, second - 4, second - 1):
        path.write_bytes(content[: second + kept])
        records = vk.records.read(path)
        assert next(records).video_id == "a"
        message = rf"records\.tfrecord is damaged .*: record 1 at byte {second} (is truncated|has a length)"
        with pytest.raises(ValueError, match=message):
            next(records)
        with pytest.raises(ValueError, match=message):
            embedding_dataset([path])


def test_damaged_byte_raises_with_the_offset_of_its_record(path):
    vk.records.write(path, [record("a"), record("b"), record("c")])
    content = path.read_bytes()
    begin = len(content) // 3
    for place, reason in (
        (begin + 1, "has a length that does not match"),
        (begin + 100, "does not match its checksum"),
    ):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        records = vk.records.read(path)
        assert next(records).video_id == "a"
        with pytest.raises(ValueError, match=f"damaged .*: record 1 at byte {begin} {reason}"):
            next(records)
    with pytest.raises(tf.errors.DataLossError):
        list(embedding_dataset(path))


def test_every_file_of_a_dataset_is_checked(path, tmp_path):
    vk.records.write(path, [record()])
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cut is damaged .*: record 0"):
        embedding_dataset([path, tmp_path / "cut"])
    dataset = embedding_dataset([path] * 3, batch_size=None)
    assert len(dataset) == len(list(dataset)) == 3
    assert list(embedding_dataset([])) == []


def test_several_files_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b-2", "b-1", "a", "[c]"):
        vk.records.write(f"{name}.tfrecord", [record(name), record(f"{name}/2")])
    for paths, expected in (
        ("b-*.tfrecord", ["b-1", "b-2"]),
        (Path("b-*.tfrecord"), ["b-1", "b-2"]),
        (["b-2.tfrecord", Path("a.tfrecord")], ["b-2", "a"]),
        (iter(["a.tfrecord", "b-*.tfrecord"]), ["a", "b-1", "b-2"]),
        ("[c].tfrecord", ["[c]"]),  # a file of this name is not a pattern
        ([], []),
    ):
        paths = list(paths) if not isinstance(paths, (str, Path)) else paths
        names = [record.video_id for record in vk.records.read(paths)]
        assert names == [name for first in expected for name in (first, f"{first}/2")]
        assert len(embedding_dataset(paths, batch_size=None)) == len(names)
    for read in (vk.records.read, embedding_dataset):
        with pytest.raises(FileNotFoundError, match=r"no TFRecord file matches c-\*\.tfrecord"):
            list(read(["a.tfrecord", "c-*.tfrecord"]))


def test_file_name_that_is_not_valid_text(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tfrecord"))
    vk.records.write(tmp_path / "x", [record()])
    (tmp_path / "x").rename(path)
    assert len(list(vk.records.read(path))) == len(list(embedding_dataset(path))) == 1


# === `read` and `embedding_dataset` follow the same rules ===


def feature_of(*values):
    """A feature of bytes, int64 or float32, depending on the values."""
    kinds = {bytes: ("bytes_list", "BytesList"), int: ("int64_list", "Int64List"), float: ("float_list", "FloatList")}
    if not values:
        return tf.train.Feature()
    name, kind = kinds[type(values[0])]
    return tf.train.Feature(**{name: getattr(tf.train, kind)(value=values)})


ROW = feature_of(bytes(range(128)))
NAME = {"video_id": feature_of(b"x")}
ROWS = {"audio_embedding": [ROW, ROW]}
NO_NAME = "missing video_id or id"
NO_EMBEDDING = "missing audio_embedding or audio"
INVALID_ROW = "each row of the embedding must be 128 bytes"


@pytest.mark.parametrize(
    ("context", "lists", "message"),
    [
        (NAME, ROWS, None),
        ({"id": feature_of(b"x")}, {"audio": [ROW, ROW]}, None),
        ({**NAME, "id": feature_of(b"y")}, ROWS, None),
        ({"video_id": feature_of(), "id": feature_of(b"x")}, ROWS, None),
        ({"video_id": feature_of(b"x", b"y")}, ROWS, None),
        (NAME, {**ROWS, "audio": []}, None),
        (NAME, {"audio_embedding": [], "audio": [ROW, ROW]}, None),
        ({**NAME, "labels": feature_of(3, 3, 0)}, ROWS, None),
        ({**NAME, "labels": feature_of()}, ROWS, None),
        (
            {**NAME, "start_time_seconds": feature_of(1.0), "other": feature_of(1)},
            {**ROWS, "rgb": [feature_of(1)]},
            None,
        ),
        ({}, ROWS, NO_NAME),
        ({"video_id": feature_of()}, ROWS, NO_NAME),
        ({"video_id": feature_of(5)}, ROWS, "video_id must be of type bytes_list"),
        ({**NAME, "id": feature_of(5)}, ROWS, "id must be of type bytes_list"),
        (NAME, {}, NO_EMBEDDING),
        (NAME, {**ROWS, "audio": [ROW]}, "expected audio_embedding or audio, got both"),
        (NAME, {"audio_embedding": [feature_of(bytes(64), bytes(64))]}, INVALID_ROW),
        (NAME, {"audio_embedding": [feature_of(bytes(64)), feature_of(bytes(64))]}, INVALID_ROW),
        (NAME, {"audio_embedding": [feature_of(bytes(256))]}, INVALID_ROW),
        (NAME, {"audio_embedding": [feature_of(bytes(128), bytes(128))]}, INVALID_ROW),
        (NAME, {"audio_embedding": [ROW, feature_of()]}, INVALID_ROW),
        (NAME, {"audio_embedding": [feature_of(*range(128))]}, INVALID_ROW),
        (NAME, {"audio_embedding": [feature_of(0.5)]}, INVALID_ROW),
        ({**NAME, "labels": feature_of(1.0)}, ROWS, "labels must be of type int64_list"),
        ({**NAME, "labels": feature_of(b"1")}, ROWS, "labels must be of type int64_list"),
        ({**NAME, "start_time_seconds": feature_of(1)}, ROWS, "start_time_seconds must be of type float_list"),
        ({**NAME, "end_time_seconds": feature_of(b"1")}, ROWS, "end_time_seconds must be of type float_list"),
        (None, None, "not a SequenceExample"),
    ],
)
def test_read_and_dataset_accept_and_reject_the_same_records(path, context, lists, message):
    serialized = b"\xff\xff\xff"
    if context is not None:
        lists = {key: tf.train.FeatureList(feature=rows) for key, rows in lists.items()}
        serialized = tf.train.SequenceExample(
            context=tf.train.Features(feature=context), feature_lists=tf.train.FeatureLists(feature_list=lists)
        ).SerializeToString()
    vk.records.write(path, [record()] * 40)
    with tf.io.TFRecordWriter(str(path.with_name("last"))) as writer:
        writer.write(serialized)
    with path.open("ab") as file:
        file.write(path.with_name("last").read_bytes())
    if message:
        for error, consume in ((ValueError, vk.records.read), (tf.errors.InvalidArgumentError, embedding_dataset)):
            with pytest.raises(error, match=rf"records\.tfrecord, record 40: {message}"):
                list(consume(path))
        return
    *_, got = vk.records.read(path)
    *_, (embedding, labels) = embedding_dataset(path, batch_size=None)
    assert got.video_id == "x"
    assert got.embedding.tolist() == [list(range(128))] * 2
    np.testing.assert_array_equal(embedding, dequantize(got.embedding))
    assert set(np.flatnonzero(labels)) == set(got.labels)


def test_read_and_dataset_accept_and_reject_the_same_mutated_records(path):
    rng = np.random.default_rng(3)
    vk.records.write(path, [record(rows=2)])
    (good,) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    accepted = 0
    for _ in range(40):
        mutated = bytearray(good)
        mutated[rng.integers(len(good))] = rng.integers(256)
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(bytes(mutated))
        try:
            (got,) = vk.records.read(path)
        except ValueError:
            usable = False
        else:
            usable = len(got.embedding) > 0 and all(0 <= label < 527 for label in got.labels)
        accepted += usable
        if usable:
            ((embedding, _),) = embedding_dataset(path, batch_size=None)
            np.testing.assert_array_equal(embedding, dequantize(got.embedding))
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match="record 0"):
                list(embedding_dataset(path))
    assert 10 < accepted < 35


@pytest.mark.parametrize(
    "embedding", [np.zeros((2, 128), np.float32), np.zeros((2, 64), np.uint8), np.zeros(128, np.uint8)]
)
def test_writing_other_than_8_bit_embeddings_raises(path, embedding):
    with pytest.raises(ValueError, match=r"clip: expected an embedding of dtype uint8 and shape \[n, 128\], got"):
        vk.records.write(path, [record()._replace(embedding=embedding)])
    assert not list(path.parent.iterdir())


def test_full_disk_raises_os_error(tmp_path, file_size_limit):
    with file_size_limit(100_000), pytest.raises(OSError, match=r"cannot write .*records\.tfrecord"):
        vk.records.write(tmp_path / "records.tfrecord", [record(rows=1_000)] * 100)
    assert not list(tmp_path.iterdir())


def test_dequantize_inverts_quantization_to_within_one_level():
    layer = vk.Postprocess({"pca_eigen_vectors": np.eye(128), "pca_means": np.zeros((128, 1))})
    values = RNG.uniform(-2, 2, (1_000, 128)).astype(np.float32)
    lost = values - dequantize(np.asarray(layer(values)))
    assert lost.min() > -1e-5
    assert lost.max() < 4 / 255 + 1e-5
    ends = dequantize(np.array([0, 255], np.uint8))
    assert ends.dtype == np.float32
    np.testing.assert_allclose(ends, [-2, 2])
    np.testing.assert_allclose(dequantize(tf.constant([0, 255], tf.uint8)), [-2, 2])


# === tf.data ===


def test_dataset_trains_a_classifier(path):
    """Clips of different lengths, with low values for one label and high values for the other."""
    records = []
    for index in range(64):
        label = index % 2
        rows = RNG.integers(128 * label, 128 + 128 * label, (RNG.integers(1, 11), 128), dtype=np.uint8)
        records.append(Record(str(index), 0.0, 10.0, (label,), rows))
    vk.records.write(path, records)
    clips = embedding_dataset([path], num_classes=2, batch_size=16)
    assert clips.element_spec[0].shape.as_list() == [None, None, 128]
    pool, top = keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, activation="sigmoid")
    model = keras.Sequential([keras.Input((None, 128)), keras.layers.Masking(), pool, top])
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    losses = model.fit(clips, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    for (embedding, labels), expected in zip(embedding_dataset(path, 2, batch_size=None), records, strict=True):
        np.testing.assert_allclose(embedding, dequantize(expected.embedding))
        assert labels.numpy().tolist() == [float(index in expected.labels) for index in range(2)]


def test_shuffled_dataset(tmp_path):
    for shard in range(4):
        vk.records.write(
            tmp_path / f"{shard}.tfrecord", [record(labels=[label]) for label in range(50 * shard, 50 * shard + 50)]
        )

    def order(**options):
        clips = embedding_dataset(tmp_path / "*.tfrecord", 200, batch_size=30, **options)
        assert len(clips) == 7
        return [[int(np.argmax(row)) for _, labels in clips for row in labels] for _ in range(2)]

    assert order() == [list(range(200))] * 2
    first, second = order(shuffle=True, seed=1)
    assert sorted(first) == sorted(second) == list(range(200))
    assert len({tuple(first), tuple(second), tuple(range(200))}) == 3
    assert order(shuffle=True, seed=1) == [first, second]
    assert order(shuffle=True, seed=2)[0] != first
    assert len({label // 50 for label in first[:20]}) > 1  # files are mixed
    assert list(embedding_dataset([], shuffle=True)) == []


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        (record(labels=[2]), "labels must be between 0 and 1, got"),
        (record(labels=[-1]), "labels must be between 0 and 1, got"),
        (record(labels=[0], rows=0), "record 0: the record has no embeddings"),
    ],
)
def test_records_that_are_unusable_for_training_raise(path, invalid, message):
    vk.records.write(path, [invalid])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(embedding_dataset(path, num_classes=2))


def test_dataset_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"TFRecord file .*missing does not exist"):
        embedding_dataset(tmp_path / "missing")


# === Segments ===

SEGMENTS = """# Segments csv created Sun Mar  5 10:54:25 2017
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"
--BfvyPmVMo, 20.500, 30.000, "/m/068hy"
"""


def test_segments_are_found_by_file_name(tmp_path):
    (tmp_path / "segments.csv").write_text(SEGMENTS)
    (tmp_path / "labels.csv").write_text(
        'index,mid,display_name\n72,/m/068hy,"Domestic animals, pets"\n73,/m/07q6cd_,"x"\n'
    )
    segments = read_segments(tmp_path / "segments.csv", tmp_path / "labels.csv")
    assert segments["--4gqARaEJE"] == Segment("--4gqARaEJE", 0.0, 10.0, (72, 73))
    other = Segment("--BfvyPmVMo", 20.5, 30.0, (72,))
    for name in ("--BfvyPmVMo", "--BfvyPmVMo_20.5", "--BfvyPmVMo_20.500", "--BfvyPmVMo_20500"):
        assert segments[name] == other
    (tmp_path / "indices.csv").write_text('x, 1, 2, "5,6"\ny, 0, 1, ""\nx, 3, 4, "7"\n')
    segments = read_segments(tmp_path / "indices.csv")
    assert segments["x_1"].labels == (5, 6)
    assert segments["x_3"].labels == (7,)
    assert segments["y"].labels == ()
    assert "x" not in segments  # it is ambiguous


@pytest.mark.parametrize("lines", [("a, 1, 2, 0", "a, 1000, 1010, 5"), ("a_1, 30, 40, 0", "a, 1, 2, 5")])
def test_names_of_several_segments_are_ambiguous(tmp_path, lines):
    """A start may be in seconds or milliseconds, and a name may end like one."""
    for ordered in (lines, lines[::-1]):
        (tmp_path / "segments.csv").write_text("\n".join(ordered))
        segments = read_segments(tmp_path / "segments.csv")
        assert not {"a_1000", "a_1"} <= segments.keys()
        assert {segment.labels for segment in segments.values()} == {(0,), (5,)}


def test_segments_of_a_spreadsheet(tmp_path):
    (tmp_path / "segments.csv").write_bytes(b'\xef\xbb\xbfx, 1, 2, "/m/1"\r\n')
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbfindex,mid\r\n5,/m/1\r\n")
    assert read_segments(tmp_path / "segments.csv", tmp_path / "labels.csv")["x"].labels == (5,)
    (tmp_path / "latin.csv").write_bytes(b'caf\xe9, 1, 2, "5"\n')
    with pytest.raises(ValueError, match=r"latin\.csv is not UTF-8 text"):
        read_segments(tmp_path / "latin.csv")


def test_file_in_a_folder_whose_name_is_not_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    record = Record("x", 0.0, 1.0, labels=(5,), embedding=np.zeros((1, 128), np.uint8))
    vk.records.write(folder / "x.tfrecord", [record])
    assert [read.video_id for read in vk.records.read(folder / "x.tfrecord")] == ["x"]


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        ("x, 1\n", None, "line 1: expected YTID, start_seconds, end_seconds and labels"),
        ("# x\n\nx, one, 2, 3\n", None, "line 3: expected YTID"),
        ('x, 1, 2, "/m/1"\n', None, "line 1: .*; to convert label names to indices, pass .* as labels"),
        ('x, 1, 2, "/m/1"\n', "index,mid\n0,/m/2\n", r"line 1: label /m/1 is not in .*labels\.csv"),
        ('x, 1, 2, "/m/1"\n', "a,b\n0,/m/2\n", r"labels\.csv is not a class list with the columns index and mid"),
        ('x, 1, 2, "/m/1"\n', "index,mid\n0\n", r"labels\.csv: a row has no mid"),
        ('x, inf, 2, "5"\n', None, "line 1: expected YTID"),
        ('x, 1, nan, "5"\n', None, "line 1: expected YTID"),
        ('x, 1, 2, "-1"\n', None, "line 1: expected YTID"),
        ('x, 1, 2, "2147483648"\n', None, "line 1: expected YTID"),
        (f"x, 1, 2, {'5' * 200_000}\n", None, "line 1: expected YTID"),
        ('x, 1, 2, "/m/1"\n', f"index,mid\n0,{'x' * 200_000}\n", r"labels\.csv is not a class list"),
        ('x, 1, 2, "5"\nx, 1.0, 3, "6"\n', None, r"segments\.csv, line 2: x at 1 s occurs twice"),
    ],
)
def test_invalid_segments_raise(tmp_path, content, labels, message):
    (tmp_path / "segments.csv").write_text(content)
    if labels:
        (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(ValueError, match=message):
        read_segments(tmp_path / "segments.csv", tmp_path / "labels.csv" if labels else None)


def test_class_names(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('index,mid,display_name\n1,/m/068hy,"Domestic animals, pets"\n0,/m/09x0r,Speech\n')
    assert vk.records.read_class_names(path) == ["Speech", "Domestic animals, pets"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index,mid\n0,/m/2\n", "is not a class list with the columns index and display_name"),
        ("index,display_name\nx,Speech\n", "is not a class list"),
        ("index,display_name\n0,a\n2,b\n", "the indices of the classes must be 0, 1, 2 and so on"),
        ("index,display_name\n0,a\n0,b\n", "the indices of the classes must be 0, 1, 2 and so on"),
    ],
)
def test_invalid_class_lists_raise(tmp_path, content, message):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"labels\.csv:? {message}"):
        vk.records.read_class_names(tmp_path / "labels.csv")
