"""AudioSet's and YouTube-8M's TFRecord files of embeddings, read and written."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vggish_keras import params
from vggish_keras.aside import written_aside

PathLike = str | os.PathLike[str]

# AudioSet's name and YouTube-8M's of the same thing.
_ID = ("video_id", "id")
_EMBEDDING = ("audio_embedding", "audio")


class Record(NamedTuple):
    """The embeddings of a clip as AudioSet released them.

    Attributes:
        video_id: The clip's name.
        start_time_seconds: Where the clip lies in its recording.
        end_time_seconds: Where it ends.
        labels: Indices of classes.
        embedding: uint8 [n, 128], of which `dequantize` makes floats.
    """

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: tuple[int, ...]
    embedding: np.ndarray


def dequantize(quantized: Any) -> Any:
    """Undoes the 8 bits of `Postprocess`, but for what it cut off: less than a level, 4 / 255.

    Args:
        quantized: uint8 array or tensor of any shape.

    Returns:
        float32 of the same shape in [-2, 2], array or tensor as `quantized` is.
    """
    scale = (params.QUANTIZE_MAX - params.QUANTIZE_MIN) / 255
    if tf.is_tensor(quantized):
        return tf.cast(quantized, tf.float32) * scale + params.QUANTIZE_MIN
    return np.asarray(quantized, np.float32) * np.float32(scale) + np.float32(params.QUANTIZE_MIN)


# === Reading ===


def read(path: PathLike) -> Iterator[Record]:
    """Reads a TFRecord file of SequenceExamples.

    Args:
        path: A file as AudioSet released them; or one of YouTube-8M's frame-level features, which have no times: there
            a row is a second.

    Yields:
        Its records.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or a record is no clip's embeddings.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no TFRecord file at {path}")
    index = -1
    try:
        for index, serialized in enumerate(tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator()):  # noqa: B007
            yield _parse(serialized)
    except tf.errors.DataLossError as error:
        raise ValueError(f"{path} is damaged after {index + 1} records, or no TFRecord file") from error
    except ValueError as error:
        raise ValueError(f"{path}, record {index}: {error}") from error


def _parse(serialized: bytes) -> Record:
    from google.protobuf.message import DecodeError

    try:
        example = tf.train.SequenceExample.FromString(serialized)
    except DecodeError as error:
        raise ValueError("it is no SequenceExample") from error
    context, lists = example.context.feature, example.feature_lists.feature_list
    name = next((context[key].bytes_list.value for key in _ID if key in context), None)
    rows = next((lists[key].feature for key in _EMBEDDING if key in lists), None)
    if not name or rows is None:
        raise ValueError(f"it has no {' or '.join(_ID)}, or no {' or '.join(_EMBEDDING)}")
    embedding = [row.bytes_list.value[0] if row.bytes_list.value else b"" for row in rows]
    if any(len(row) != params.EMBEDDING_SIZE for row in embedding):
        raise ValueError(f"a row of its embedding is not {params.EMBEDDING_SIZE} bytes")

    def seconds(key: str, otherwise: float) -> float:
        values = context[key].float_list.value if key in context else ()
        return values[0] if values else otherwise

    return Record(
        name[0].decode(errors="surrogateescape"),
        seconds("start_time_seconds", 0.0),
        seconds("end_time_seconds", float(len(embedding))),
        tuple(context["labels"].int64_list.value) if "labels" in context else (),
        np.frombuffer(b"".join(embedding), np.uint8).reshape(-1, params.EMBEDDING_SIZE),
    )


def dataset(paths: PathLike | Sequence[PathLike], num_classes: int = 527, batch_size: int | None = 32) -> Any:
    """The records of TFRecord files as `model.fit` takes them.

    Args:
        paths: Files as `read` takes them.
        num_classes: The number of classes, of which the labels are indices.
        batch_size: Clips of a batch; None for single clips.

    Returns:
        A tf.data.Dataset of (embedding, labels): float32 [batch, n, 128] in [-2, 2] and float32 [batch, num_classes] of
        zeros and ones. Clips that are shorter than the longest of their batch end in rows of zeros, which no
        embedding has, so that `keras.layers.Masking` finds them.

    Raises:
        FileNotFoundError: There is no such file.
        tf.errors.InvalidArgumentError: While reading: a label beyond `num_classes`, or a record without embeddings.
    """
    files = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else list(map(Path, paths))
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no TFRecord file at {file}")

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
        context, lists = tf.io.parse_single_sequence_example(
            serialized, {"labels": tf.io.VarLenFeature(tf.int64)}, dict.fromkeys(_EMBEDDING, rows)
        )
        rows = tf.concat([lists[key] for key in _EMBEDDING], 0)
        embedding = tf.reshape(tf.io.decode_raw(rows, tf.uint8), [-1, params.EMBEDDING_SIZE])
        labels = context["labels"].values
        message = f"a label must be an index of the {num_classes} classes"
        checks = [
            tf.debugging.assert_positive(tf.size(rows), "a record has no embeddings"),
            tf.debugging.assert_non_negative(labels, message),
            tf.debugging.assert_less(labels, tf.cast(num_classes, tf.int64), message),
        ]
        with tf.control_dependencies(checks):
            one_hot = tf.one_hot(labels, num_classes)
        return dequantize(embedding), tf.reduce_max(tf.pad(one_hot, [[0, 1], [0, 0]]), axis=0)

    records = tf.data.TFRecordDataset(list(map(os.fspath, files))).map(parse, tf.data.AUTOTUNE)
    if batch_size is not None:
        records = records.padded_batch(batch_size)
    return records.prefetch(tf.data.AUTOTUNE)


# === Writing ===


def write(path: PathLike, records: Iterable[Record]) -> None:
    """Writes a TFRecord file in AudioSet's form, which appears when it is complete.

    Args:
        path: The file. It is replaced if it exists.
        records: What to write.

    Raises:
        ValueError: An embedding that is not uint8 [n, 128].
        OSError: The file cannot be written.
    """
    path = Path(path)
    try:
        with written_aside(path) as aside, tf.io.TFRecordWriter(os.fspath(aside)) as writer:
            for record in records:
                writer.write(serialize(record))
    except tf.errors.OpError as error:  # such as a full disk
        raise OSError(f"cannot write {path}: {error.message}") from error


def serialize(record: Record) -> bytes:
    """A record as `write` writes it.

    Returns:
        The bytes of a SequenceExample; always the same for the same record.

    Raises:
        ValueError: An embedding that is not uint8 [n, 128].
    """
    rows = np.asarray(record.embedding)
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != params.EMBEDDING_SIZE:
        raise ValueError(
            f"{record.video_id}: expected an embedding of dtype uint8 and shape [n, 128], got {rows.dtype} {rows.shape}"
        )
    feature = tf.train.Feature

    def seconds(value: float) -> Any:
        return feature(float_list=tf.train.FloatList(value=[value]))

    def text(value: bytes) -> Any:
        return feature(bytes_list=tf.train.BytesList(value=[value]))

    context = {
        "video_id": text(record.video_id.encode(errors="surrogateescape")),
        "start_time_seconds": seconds(record.start_time_seconds),
        "end_time_seconds": seconds(record.end_time_seconds),
        "labels": feature(int64_list=tf.train.Int64List(value=record.labels)),
    }
    lists = {"audio_embedding": tf.train.FeatureList(feature=[text(row.tobytes()) for row in rows])}
    example = tf.train.SequenceExample(
        context=tf.train.Features(feature=context), feature_lists=tf.train.FeatureLists(feature_list=lists)
    )
    return example.SerializeToString(deterministic=True)


# === AudioSet's lists of segments ===


class Segment(NamedTuple):
    """A line of AudioSet's lists: where a clip lies in its video, and its labels."""

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: tuple[int, ...]


def read_segments(path: PathLike, labels: PathLike | None = None) -> dict[str, Segment]:
    """Reads a list of AudioSet's segments: lines of YTID, start_seconds, end_seconds, "positive_labels".

    Args:
        path: The list, such as eval_segments.csv.
        labels: AudioSet's class_labels_indices.csv, which gives the index of a label's name, such as /m/09x0r. Without
            it the labels must be indices.

    Returns:
        The segments by the file names, without suffix, that clips commonly have: YTID, and YTID_START with the start in
        seconds (30 or 30.000) or milliseconds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line that is none of such a list, or an unknown label.
    """
    indices = {} if labels is None else _read_label_indices(labels)
    segments: dict[str, Segment] = {}
    several = set()
    with open(path, encoding="utf-8", newline="") as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip() and not line.startswith("#"))
        for number, line in lines:
            try:
                (name, start, end, names) = next(csv.reader([line], skipinitialspace=True))
                named = filter(None, names.split(","))
                known = tuple(int(label) if labels is None else indices[label] for label in named)
                segment = Segment(name, float(start), float(end), known)
            except KeyError as error:
                raise ValueError(f"{path}, line {number}: label {error.args[0]} is not in {labels}") from error
            except ValueError as error:
                reason = "expected YTID, start_seconds, end_seconds and labels"
                needed = ": names of labels need the list of their indices" if "/m/" in line and labels is None else ""
                raise ValueError(f"{path}, line {number}: {reason}{needed}") from error
            if name in segments:
                several.add(name)
            begin = segment.start_time_seconds
            for key in (name, f"{name}_{begin:g}", f"{name}_{begin:.3f}", f"{name}_{round(1_000 * begin)}"):
                segments[key] = segment
    return {key: segment for key, segment in segments.items() if key not in several}


def _read_label_indices(path: PathLike) -> dict[str, int]:
    with open(path, encoding="utf-8", newline="") as file:
        try:
            return {row["mid"]: int(row["index"]) for row in csv.DictReader(file)}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no list of classes with the columns index and mid") from error
