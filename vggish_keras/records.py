"""AudioSet's and YouTube-8M's TFRecord files of embeddings, read and written."""

import collections
import itertools
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vggish_keras import params
from vggish_keras._atomic import atomic_write
from vggish_keras._validation import PathLike

# AudioSet's name and YouTube-8M's of the same thing.
_ID = ("video_id", "id")
_EMBEDDING = ("audio_embedding", "audio")
_TIMES = ("start_time_seconds", "end_time_seconds")
_CONTEXT_KINDS = {
    **dict.fromkeys(_ID, "bytes_list"),
    **dict.fromkeys(_TIMES, "float_list"),
    "labels": "int64_list",
}

_RECORDS_AT_A_TIME = 32
"""A call from tf.data into Python costs ten times what parsing a record does."""

_RECORD_HEADER = struct.Struct("<QI")
"""Of a TFRecord: its length and the masked CRC-32C of these 8 bytes."""
_RECORD_CHECKSUM_SIZE = 4
_MAX_RECORD_SIZE = 2**31 - 1
"""Bytes of the longest protocol buffer."""


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
        path: An uncompressed file as AudioSet released them; or one of YouTube-8M's frame-level features, which have no
            times: there a row is a second.

    Yields:
        Its records.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or ends within a record, or a record does not hold a clip's embeddings. Whole
            records before the damage are yielded first.
    """
    path = _existing(path)
    count, damage = 0, None
    try:
        for count, _ in enumerate(_offsets(path), 1):  # noqa: B007
            pass
    except ValueError as error:
        damage = error
    index = -1
    try:
        records = tf.data.TFRecordDataset(os.fsencode(path)).take(count)
        for index, serialized in enumerate(records.as_numpy_iterator()):
            yield _parse_of_file(path, index, serialized)
    except tf.errors.DataLossError as error:
        offset = next(itertools.islice(_offsets(path), index + 1, None))
        raise _damaged(path, index + 1, offset, "does not match its checksum") from error
    if damage is not None:
        raise damage


def _existing(path: PathLike) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no TFRecord file at {path}")
    return path


def _offsets(path: Path) -> Iterator[int]:
    """The offset of each record, and a ValueError at the first whose length the file cannot hold.

    TensorFlow allocates what a length claims before it reads, and so would crash; and it takes the beginning of a
    record for the end of the file.
    """
    offset, size = 0, path.stat().st_size
    with path.open("rb") as file:
        for index in itertools.count():
            header = file.read(_RECORD_HEADER.size)
            if not header:
                return
            if len(header) < _RECORD_HEADER.size:
                raise _damaged(path, index, offset, "is cut off")
            length, checksum = _RECORD_HEADER.unpack(header)
            end = offset + len(header) + length + _RECORD_CHECKSUM_SIZE
            if checksum != _masked_crc32c(header[:8]):
                raise _damaged(path, index, offset, "has a length that does not match its checksum")
            if end > size:
                raise _damaged(path, index, offset, f"has a length of {length} bytes, which is beyond the file's end")
            if length > _MAX_RECORD_SIZE:
                raise _damaged(
                    path, index, offset, f"has a length of {length} bytes, which is beyond {_MAX_RECORD_SIZE}"
                )
            yield offset
            file.seek(end)
            offset = end


def _damaged(path: Path, records: int, offset: int, reason: str) -> ValueError:
    place = f"the record at byte {offset} {reason}"
    return ValueError(f"{path} is damaged after {records} records, or no TFRecord file: {place}")


def _masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C, rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ 0x82F63B78 * (value & 1)
    return value


_CRC32C = [_crc32c_of_byte(value) for value in range(256)]


def _parse_of_file(path: PathLike, index: int, serialized: bytes, num_classes: int | None = None) -> Record:
    """Parses a record; with `num_classes` it must be one to train with."""
    try:
        record = _parse(serialized)
        if num_classes is not None and not len(record.embedding):
            raise ValueError("a record has no embeddings")
        if num_classes is not None and not all(0 <= label < num_classes for label in record.labels):
            raise ValueError(f"a label must be an index of the {num_classes} classes, got {record.labels}")
        return record
    except ValueError as error:
        raise ValueError(f"{path}, record {index}: {error}") from error


def _parse(serialized: bytes) -> Record:
    from google.protobuf.message import DecodeError

    try:
        example = tf.train.SequenceExample.FromString(serialized)
    except DecodeError as error:
        raise ValueError("it is no SequenceExample") from error
    context, lists = example.context.feature, example.feature_lists.feature_list
    for key, kind in _CONTEXT_KINDS.items():
        if key in context and context[key].WhichOneof("kind") not in (None, kind):
            raise ValueError(f"its {key} must be of type {kind}")
    names = [name for key in _ID if key in context for name in context[key].bytes_list.value]
    found = [lists[key].feature for key in _EMBEDDING if key in lists]
    if not names or not found:
        raise ValueError(f"it has no {' or '.join(_ID)}, or no {' or '.join(_EMBEDDING)}")
    filled = [rows for rows in found if rows]
    if len(filled) > 1:
        raise ValueError(f"it has both {' and '.join(_EMBEDDING)}, expected one of them")
    values = [row.bytes_list.value for rows in filled for row in rows]
    if any(len(value) != 1 or len(value[0]) != params.EMBEDDING_SIZE for value in values):
        raise ValueError(f"a row of its embedding is not {params.EMBEDDING_SIZE} bytes")
    embedding = [value[0] for value in values]

    def seconds(key: str, otherwise: float) -> float:
        values = context[key].float_list.value if key in context else ()
        return values[0] if values else otherwise

    start, end = _TIMES
    return Record(
        names[0].decode(errors="surrogateescape"),
        seconds(start, 0.0),
        seconds(end, float(len(embedding))),
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
        ValueError: A file ends within a record, or its records cannot be separated.
        tf.errors.InvalidArgumentError: While reading: a record that `read` refuses, one without embeddings, or a label
            beyond `num_classes`.
        tf.errors.DataLossError: While reading: a record that does not match its checksum.
    """
    files = list(map(_existing, [paths] if isinstance(paths, (str, os.PathLike)) else paths))
    for file in files:
        collections.deque(_offsets(file), 0)

    def parse(path: bytes, chunk: int, serialized: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbered = enumerate(serialized, _RECORDS_AT_A_TIME * chunk)
        records = [_parse_of_file(os.fsdecode(path), index, one, num_classes) for index, one in numbered]
        rows = [record.embedding.tobytes() for record in records]
        labels = [np.array(record.labels, np.int64).tobytes() for record in records]
        return np.array(rows, object), np.array(labels, object)

    def chunks(path: tf.Tensor) -> Any:
        serialized = tf.data.TFRecordDataset(path).batch(_RECORDS_AT_A_TIME)
        return serialized.enumerate().map(lambda chunk, records: (path, chunk, records))

    def parsed(*chunk: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows, labels = tf.numpy_function(parse, chunk, [tf.string, tf.string], stateful=False)
        return tf.ensure_shape(rows, [None]), tf.ensure_shape(labels, [None])

    def decode(rows: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        embedding = tf.reshape(tf.io.decode_raw(rows, tf.uint8), [-1, params.EMBEDDING_SIZE])
        one_hot = tf.one_hot(tf.io.decode_raw(labels, tf.int64), num_classes)
        return dequantize(embedding), tf.reduce_max(tf.pad(one_hot, [[0, 1], [0, 0]]), axis=0)

    names = tf.constant(list(map(os.fsencode, files)), tf.string)
    records = tf.data.Dataset.from_tensor_slices(names)
    records = records.flat_map(chunks).map(parsed, tf.data.AUTOTUNE).unbatch().map(decode, tf.data.AUTOTUNE)
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
        with atomic_write(path) as aside, tf.io.TFRecordWriter(os.fspath(aside)) as writer:
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
