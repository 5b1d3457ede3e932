import os

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from vggish_keras.records import Record, Segment, dataset, dequantize, read_segments

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
        ('x, 1, 2, "/m/1"\n', None, "line 1: .*: names of labels need the list of their indices"),
        ('x, 1, 2, "/m/1"\n', "index,mid\n0,/m/2\n", r"line 1: label /m/1 is not in .*labels\.csv"),
        ('x, 1, 2, "/m/1"\n', "a,b\n0,/m/2\n", r"labels\.csv is no list of classes with the columns index and mid"),
    ],
)
def test_bad_segments_are_told(tmp_path, content, labels, message):
    (tmp_path / "segments.csv").write_text(content)
    if labels:
        (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(ValueError, match=message):
        read_segments(tmp_path / "segments.csv", tmp_path / "labels.csv" if labels else None)
