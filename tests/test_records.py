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
from vggish_keras.records import Record, _masked_crc32c, dataset, dequantize
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
def test_a_released_shard_is_read_and_written_again(reference, path):
    """Record by record equal to what TensorFlow's own parser makes of the released one."""
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


def test_what_is_written_is_read(path):
    records = [record(), record("ü/x.wav", 0, ()), record(os.fsdecode(b"\xff.wav"), 3, range(527))]
    vk.records.write(path, iter(records))
    for got, expected in zip(vk.records.read(path), records, strict=True):
        assert_same(got, expected)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    vk.records.write(path, [])
    assert list(vk.records.read(path)) == []


def test_youtube_8m(path):
    """Frame-level features: other names, no times, images beside."""
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
    ((embedding, labels),) = dataset(path, num_classes=10)
    np.testing.assert_allclose(embedding[0], dequantize(rows))
    assert np.flatnonzero(labels[0]).tolist() == [3, 7]


def test_damaged_files_are_named(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no TFRecord file at .*missing"):
        next(vk.records.read(tmp_path / "missing"))
    vk.records.write(path, [record(), record()])
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    records = vk.records.read(path)
    next(records)
    with pytest.raises(ValueError, match=r"records\.tfrecord is damaged after 1 records"):
        next(records)
    path.write_bytes(b"no records at all, but long enough")
    with pytest.raises(ValueError, match=r"records\.tfrecord is damaged after 0 records, or no TFRecord file"):
        next(vk.records.read(path))
    for serialized, message in (
        (b"\xff\xff\xff", "record 0: it is no SequenceExample"),
        (b"", "record 0: it has no video_id or id, or no audio_embedding or audio"),
    ):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(serialized)
        with pytest.raises(ValueError, match=message):
            next(vk.records.read(path))


def record_of(length, content=b""):
    """A record that claims a length, with the right checksum of it."""
    header = struct.pack("<Q", length)
    return header + struct.pack("<I", _masked_crc32c(header)) + content


def test_the_checksum_of_lengths_is_that_of_tensorflow(path):
    for size in (0, 1, 128, 70_000):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(bytes(size))
        assert path.read_bytes()[:12] == record_of(size)


def test_a_length_beyond_the_file_is_an_error(tmp_path):
    """TensorFlow would allocate as much and crash, so the test has a process of its own."""
    expected = []
    for whole, exponent in itertools.product((0, 2), (31, 33, 36, 40, 50, 62, 63)):
        path = tmp_path / f"{whole}-{exponent}"
        vk.records.write(path, [record(str(index)) for index in range(whole)])
        offset = path.stat().st_size
        with path.open("ab") as file:
            file.write(record_of(2**exponent, bytes(50)))
        message = f"{path} is damaged after {whole} records, or no TFRecord file: the record at byte {offset} has a "
        message += f"length of {2**exponent} bytes, which is beyond the file's end"
        expected += [str(path), *map(str, range(whole)), message, message]
    script = (
        "import sys\n"
        "from vggish_keras.records import dataset, read\n"
        "for path in sys.argv[1:]:\n"
        "    print(path, flush=True)\n"
        "    for consume in (lambda: [print(record.video_id) for record in read(path)], lambda: list(dataset(path))):\n"
        "        try: consume()\n"
        "        except ValueError as error: print(error)"
    )
    paths = [line for line in expected if Path(line).is_file()]
    result = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == expected
    assert result.returncode == 0


def test_a_length_beyond_what_a_record_can_be_is_an_error(path):
    """A file of holes is as long as it claims and takes no space."""
    with path.open("wb") as file:
        file.write(record_of(2**36))
        file.truncate(2**36 + 16)
    for consume in (lambda: next(vk.records.read(path)), lambda: dataset(path)):
        with pytest.raises(ValueError, match=f"the record at byte 0 has a length of {2**36} bytes, which is beyond"):
            consume()


def test_a_record_that_is_cut_off_is_an_error_with_its_offset(path):
    """Wherever it is cut: in the length, the checksums or the content."""
    vk.records.write(path, [record("a"), record("b")])
    content = path.read_bytes()
    second = len(content) // 2
    for kept in (1, 4, 8, 11, 12, 13, 100, second - 4, second - 1):
        path.write_bytes(content[: second + kept])
        records = vk.records.read(path)
        assert next(records).video_id == "a"
        message = rf"records\.tfrecord is damaged after 1 records, .*: the record at byte {second} (is cut off|has a)"
        with pytest.raises(ValueError, match=message):
            next(records)
        with pytest.raises(ValueError, match=message):
            dataset([path])


def test_a_damaged_byte_is_an_error_with_its_offset(path):
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
        with pytest.raises(ValueError, match=f"damaged after 1 records, .*: the record at byte {begin} {reason}"):
            next(records)
    with pytest.raises(tf.errors.DataLossError):
        list(dataset(path))


def test_every_file_of_a_dataset_is_checked(path, tmp_path):
    vk.records.write(path, [record()])
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut is damaged after 0 records"):
        dataset([path, tmp_path / "cut"])
    assert len(list(dataset([path] * 3, batch_size=None))) == 3
    assert list(dataset([])) == []


def test_a_name_that_is_not_valid_text(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tfrecord"))
    vk.records.write(tmp_path / "x", [record()])
    (tmp_path / "x").rename(path)
    assert len(list(vk.records.read(path))) == len(list(dataset(path))) == 1


# === One rule for `read` and `dataset` ===


def a_list(*values):
    """A feature of bytes, int64 or float32, by the values."""
    kinds = {bytes: ("bytes_list", "BytesList"), int: ("int64_list", "Int64List"), float: ("float_list", "FloatList")}
    if not values:
        return tf.train.Feature()
    name, kind = kinds[type(values[0])]
    return tf.train.Feature(**{name: getattr(tf.train, kind)(value=values)})


ROW = a_list(bytes(range(128)))
NAME = {"video_id": a_list(b"x")}
ROWS = {"audio_embedding": [ROW, ROW]}
NOTHING = "it has no video_id or id, or no audio_embedding or audio"
BAD_ROW = "a row of its embedding is not 128 bytes"


@pytest.mark.parametrize(
    ("context", "lists", "message"),
    [
        (NAME, ROWS, None),
        ({"id": a_list(b"x")}, {"audio": [ROW, ROW]}, None),
        ({**NAME, "id": a_list(b"y")}, ROWS, None),
        ({"video_id": a_list(), "id": a_list(b"x")}, ROWS, None),
        ({"video_id": a_list(b"x", b"y")}, ROWS, None),
        (NAME, {**ROWS, "audio": []}, None),
        (NAME, {"audio_embedding": [], "audio": [ROW, ROW]}, None),
        ({**NAME, "labels": a_list(3, 3, 0)}, ROWS, None),
        ({**NAME, "labels": a_list()}, ROWS, None),
        ({**NAME, "start_time_seconds": a_list(1.0), "other": a_list(1)}, {**ROWS, "rgb": [a_list(1)]}, None),
        ({}, ROWS, NOTHING),
        ({"video_id": a_list()}, ROWS, NOTHING),
        ({"video_id": a_list(5)}, ROWS, "its video_id must be of type bytes_list"),
        ({**NAME, "id": a_list(5)}, ROWS, "its id must be of type bytes_list"),
        (NAME, {}, NOTHING),
        (NAME, {**ROWS, "audio": [ROW]}, "it has both audio_embedding and audio"),
        (NAME, {"audio_embedding": [a_list(bytes(64), bytes(64))]}, BAD_ROW),
        (NAME, {"audio_embedding": [a_list(bytes(64)), a_list(bytes(64))]}, BAD_ROW),
        (NAME, {"audio_embedding": [a_list(bytes(256))]}, BAD_ROW),
        (NAME, {"audio_embedding": [a_list(bytes(128), bytes(128))]}, BAD_ROW),
        (NAME, {"audio_embedding": [ROW, a_list()]}, BAD_ROW),
        (NAME, {"audio_embedding": [a_list(*range(128))]}, BAD_ROW),
        (NAME, {"audio_embedding": [a_list(0.5)]}, BAD_ROW),
        ({**NAME, "labels": a_list(1.0)}, ROWS, "its labels must be of type int64_list"),
        ({**NAME, "labels": a_list(b"1")}, ROWS, "its labels must be of type int64_list"),
        ({**NAME, "start_time_seconds": a_list(1)}, ROWS, "its start_time_seconds must be of type float_list"),
        ({**NAME, "end_time_seconds": a_list(b"1")}, ROWS, "its end_time_seconds must be of type float_list"),
        (None, None, "it is no SequenceExample"),
    ],
)
def test_read_and_dataset_accept_and_refuse_the_same_records(path, context, lists, message):
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
        for error, consume in ((ValueError, vk.records.read), (tf.errors.InvalidArgumentError, dataset)):
            with pytest.raises(error, match=rf"records\.tfrecord, record 40: {message}"):
                list(consume(path))
        return
    *_, got = vk.records.read(path)
    *_, (embedding, labels) = dataset(path, batch_size=None)
    assert got.video_id == "x"
    assert got.embedding.tolist() == [list(range(128))] * 2
    np.testing.assert_array_equal(embedding, dequantize(got.embedding))
    assert set(np.flatnonzero(labels)) == set(got.labels)


def test_mutated_records_are_accepted_and_refused_alike(path):
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
            ((embedding, _),) = dataset(path, batch_size=None)
            np.testing.assert_array_equal(embedding, dequantize(got.embedding))
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match="record 0"):
                list(dataset(path))
    assert 10 < accepted < 35


@pytest.mark.parametrize(
    "embedding", [np.zeros((2, 128), np.float32), np.zeros((2, 64), np.uint8), np.zeros(128, np.uint8)]
)
def test_only_8_bits_are_written(path, embedding):
    with pytest.raises(ValueError, match=r"clip: expected an embedding of dtype uint8 and shape \[n, 128\], got"):
        vk.records.write(path, [record()._replace(embedding=embedding)])
    assert not list(path.parent.iterdir())


def test_a_full_disk_is_an_os_error(tmp_path, file_size_limit):
    with file_size_limit(100_000), pytest.raises(OSError, match=r"cannot write .*records\.tfrecord"):
        vk.records.write(tmp_path / "records.tfrecord", [record(rows=1_000)] * 100)
    assert not list(tmp_path.iterdir())


def test_dequantize_undoes_the_quantization_but_for_a_level(pca_params):
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


def test_the_dataset_trains_a_classifier(path):
    """Clips whose label is in the loudness of their embeddings, of different lengths."""
    records = []
    for index in range(64):
        label = index % 2
        rows = RNG.integers(0 + 128 * label, 128 + 128 * label, (RNG.integers(1, 11), 128), dtype=np.uint8)
        records.append(Record(str(index), 0.0, 10.0, (label,), rows))
    vk.records.write(path, records)
    clips = dataset([path], num_classes=2, batch_size=16)
    assert clips.element_spec[0].shape.as_list() == [None, None, 128]
    pool, top = keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, activation="sigmoid")
    model = keras.Sequential([keras.Input((None, 128)), keras.layers.Masking(), pool, top])
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    losses = model.fit(clips, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    for (embedding, labels), expected in zip(dataset(path, 2, batch_size=None), records, strict=True):
        np.testing.assert_allclose(embedding, dequantize(expected.embedding))
        assert labels.numpy().tolist() == [float(index in expected.labels) for index in range(2)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(labels=[2]), "a label must be an index of the 2 classes"),
        (record(labels=[-1]), "a label must be an index of the 2 classes"),
        (record(labels=[0], rows=0), "a record has no embeddings"),
    ],
)
def test_bad_records_are_told_to_the_dataset(path, bad, message):
    vk.records.write(path, [bad])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(dataset(path, num_classes=2))


def test_the_dataset_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no TFRecord file at .*missing"):
        dataset(tmp_path / "missing")


# === Segments ===

SEGMENTS = """# Segments csv created Sun Mar  5 10:54:25 2017
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"
--BfvyPmVMo, 20.500, 30.000, "/m/068hy"
"""


def test_segments(tmp_path):
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
    assert "x" not in segments  # there are two


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        ("x, 1\n", None, "line 1: expected YTID, start_seconds, end_seconds and labels"),
        ("# x\n\nx, one, 2, 3\n", None, "line 3: expected YTID"),
        ('x, 1, 2, "/m/1"\n', None, "line 1: .*; to convert label names to indices, pass labels"),
        ('x, 1, 2, "/m/1"\n', "index,mid\n0,/m/2\n", r"line 1: label /m/1 is not in .*labels\.csv"),
        ('x, 1, 2, "/m/1"\n', "a,b\n0,/m/2\n", r"labels\.csv is not a class list with the columns index and mid"),
    ],
)
def test_bad_segments_are_told(tmp_path, content, labels, message):
    (tmp_path / "segments.csv").write_text(content)
    if labels:
        (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(ValueError, match=message):
        read_segments(tmp_path / "segments.csv", tmp_path / "labels.csv" if labels else None)
