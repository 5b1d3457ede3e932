"""TFRecord files of embeddings in the formats of AudioSet and YouTube-8M."""

import glob
import itertools
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras._atomic import atomic_write
from vggish_keras._errors import counted
from vggish_keras._validation import PathLike
from vggish_keras.postprocess import dequantize
from vggish_keras.segments import read_class_names

__all__ = ["Record", "dequantize", "embedding_dataset", "read", "read_class_names", "serialize", "write"]

# The keys of AudioSet and of YouTube-8M for the same value.
_ID = ("video_id", "id")
_EMBEDDING = ("audio_embedding", "audio")
_TIMES = ("start_time_seconds", "end_time_seconds")
_CONTEXT_KINDS = {
    **dict.fromkeys(_ID, "bytes_list"),
    **dict.fromkeys(_TIMES, "float_list"),
    "labels": "int64_list",
}

_RECORDS_PER_CALL = 32
"""A call from tf.data into Python takes ten times as long as parsing a record."""
_MAX_SHUFFLED = 65_536
"""Clips in the shuffle buffer: 84 MB of ten embeddings each."""

_RECORD_HEADER = struct.Struct("<QI")
"""The length of a TFRecord and the masked CRC-32C of these 8 bytes."""
_RECORD_CHECKSUM_SIZE = 4
_MAX_RECORD_SIZE = 2**31 - 1
"""The size limit of protocol buffers in bytes."""


class Record(NamedTuple):
    """The embeddings of a clip as released with AudioSet.

    Attributes:
        video_id: The name of the clip.
        start_time_seconds: The start of the clip in its recording.
        end_time_seconds: The end of the clip in its recording.
        labels: Class indices.
        embedding: uint8 [n, 128]; `dequantize` converts it to floats.

    Examples:
        >>> embedding = np.zeros((10, 128), np.uint8)
        >>> record = vk.records.Record("clip", 30.0, 40.0, labels=(137,), embedding=embedding)
        >>> record.end_time_seconds - record.start_time_seconds
        10.0
    """

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: tuple[int, ...]
    embedding: NDArray[np.uint8]


# === Reading ===


def read(paths: PathLike | Iterable[PathLike]) -> Iterator[Record]:
    """Reads TFRecord files of SequenceExamples.

    Args:
        paths: A file, a pattern such as "corpus-*.tfrecord", whose files are sorted, or several of them. The files are
            uncompressed, in AudioSet's format or with the frame-level features of YouTube-8M. The latter have no times:
            each row covers one second.

    Yields:
        The records of one file after the other.

    Raises:
        FileNotFoundError: A file does not exist, or a pattern matches none.
        ValueError: A file is damaged or truncated, or a record does not hold the embeddings of a clip. All records
            before the damage are yielded first.

    Examples:
        >>> record = vk.records.Record("clip", 0.0, 10.0, labels=(137,), embedding=np.zeros((10, 128), np.uint8))
        >>> vk.records.write("clips.tfrecord", [record])
        >>> for record in vk.records.read("clips.tfrecord"):
        ...     print(record.video_id, record.labels, record.embedding.shape)
        clip (137,) (10, 128)
    """
    for path in _find_files(paths):
        yield from _read_file(path)


def _find_files(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    files = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        name = os.fspath(path)
        if os.path.isfile(name):
            files.append(Path(name))
        elif glob.has_magic(name):
            matches = sorted(match for match in map(Path, glob.glob(name, recursive=True)) if match.is_file())
            if not matches:
                raise FileNotFoundError(f"no TFRecord file matches {name}")
            files += matches
        else:
            raise FileNotFoundError(f"TFRecord file {name} does not exist")
    return files


def _read_file(path: Path) -> Iterator[Record]:
    count, damage = 0, None
    try:
        for _ in _record_offsets(path):
            count += 1
    except ValueError as error:
        damage = error
    index = -1
    try:
        records = tf.data.TFRecordDataset(os.fsencode(path)).take(count)
        for index, serialized in enumerate(records.as_numpy_iterator()):
            yield _parse_record(path, index, serialized)
    except tf.errors.DataLossError as error:
        offset = next(itertools.islice(_record_offsets(path), index + 1, None))
        raise _damage_error(path, index + 1, offset, "does not match its checksum") from error
    if damage is not None:
        raise damage


def _record_offsets(path: Path) -> Iterator[int]:
    """Yields the offset of each record; raises ValueError at the first whose length exceeds the file.

    TensorFlow does neither: it allocates the length before it reads, and so crashes; and it ignores an incomplete
    header at the end of the file.
    """
    offset, size = 0, path.stat().st_size
    with path.open("rb") as file:
        for index in itertools.count():
            header = file.read(_RECORD_HEADER.size)
            if not header:
                return
            if len(header) < _RECORD_HEADER.size:
                raise _damage_error(path, index, offset, "is truncated")
            length, checksum = _RECORD_HEADER.unpack(header)
            end = offset + len(header) + length + _RECORD_CHECKSUM_SIZE
            if checksum != _masked_crc32c(header[:8]):
                raise _damage_error(path, index, offset, "has a length that does not match its checksum")
            if end > size:
                raise _damage_error(
                    path, index, offset, f"has a length of {counted(length, 'byte')}, which exceeds the file"
                )
            if length > _MAX_RECORD_SIZE:
                reason = f"has a length of {length} bytes, which exceeds the limit of {_MAX_RECORD_SIZE}"
                raise _damage_error(path, index, offset, reason)
            yield offset
            file.seek(end)
            offset = end


def _damage_error(path: Path, index: int, offset: int, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged or not a TFRecord file: record {index} at byte {offset} {reason}")


def _masked_crc32c(data: bytes) -> int:
    """Computes the checksum of TFRecord files: CRC-32C, rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ 0x82F63B78 * (value & 1)
    return value


_CRC32C_TABLE = [_crc32c_table_entry(value) for value in range(256)]


def _parse_record(path: PathLike, index: int, serialized: bytes, num_classes: int | None = None) -> Record:
    """Parses a record; if `num_classes` is given, the record must be usable for training."""
    try:
        record = _parse(serialized)
        if num_classes is not None and not len(record.embedding):
            raise ValueError("the record has no embeddings")
        if num_classes is not None and not all(0 <= label < num_classes for label in record.labels):
            raise ValueError(f"labels must be between 0 and {num_classes - 1}, got {record.labels}")
        return record
    except ValueError as error:
        raise ValueError(f"{path}, record {index}: {error}") from error


def _parse(serialized: bytes) -> Record:
    from google.protobuf.message import DecodeError

    try:
        example = tf.train.SequenceExample.FromString(serialized)
    except DecodeError as error:
        raise ValueError("not a SequenceExample") from error
    context, lists = example.context.feature, example.feature_lists.feature_list
    for key, kind in _CONTEXT_KINDS.items():
        if key in context and context[key].WhichOneof("kind") not in (None, kind):
            raise ValueError(f"{key} must be of type {kind}")
    names = [name for key in _ID if key in context for name in context[key].bytes_list.value]
    if not names:
        raise ValueError(f"missing {' or '.join(_ID)}")
    found = [lists[key].feature for key in _EMBEDDING if key in lists]
    if not found:
        raise ValueError(f"missing {' or '.join(_EMBEDDING)}")
    filled = [rows for rows in found if rows]
    if len(filled) > 1:
        raise ValueError(f"expected {' or '.join(_EMBEDDING)}, got both")
    values = [row.bytes_list.value for rows in filled for row in rows]
    if any(len(value) != 1 or len(value[0]) != params.EMBEDDING_SIZE for value in values):
        raise ValueError(f"each row of the embedding must be {params.EMBEDDING_SIZE} bytes")
    embedding = [value[0] for value in values]

    def seconds(key: str, default: float) -> float:
        values = context[key].float_list.value if key in context else ()
        return values[0] if values else default

    start, end = _TIMES
    return Record(
        names[0].decode(errors="surrogateescape"),
        seconds(start, 0.0),
        seconds(end, float(len(embedding))),
        tuple(context["labels"].int64_list.value) if "labels" in context else (),
        np.frombuffer(b"".join(embedding), np.uint8).reshape(-1, params.EMBEDDING_SIZE),
    )


def embedding_dataset(
    paths: PathLike | Iterable[PathLike],
    num_classes: int = 527,
    batch_size: int | None = 32,
    shuffle: bool = False,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Creates a dataset of embeddings and labels for `model.fit`.

    Args:
        paths: Files or patterns, as in `read`.
        num_classes: The number of classes. Labels must be smaller.
        batch_size: Clips per batch; None for unbatched clips.
        shuffle: True shuffles the files and, in a buffer of 65,536, the clips, anew in each epoch.
        seed: The seed for shuffling; None for a different order in each run.

    Returns:
        A tf.data.Dataset of known length, of (embedding, labels): float32 [batch, n, 128] in [-2, 2] and float32
        [batch, num_classes] of zeros and ones. Shorter clips are padded to the longest in the batch with rows of zeros.
        No embedding has such a row, so `keras.layers.Masking` recognizes the padding.

    Raises:
        FileNotFoundError: A file does not exist, or a pattern matches none.
        ValueError: A file is truncated, or the length of a record is damaged.
        tf.errors.InvalidArgumentError: While iterating: `read` rejects a record, or a record has no embeddings or a
            label that is not below `num_classes`.
        tf.errors.DataLossError: While iterating: a record does not match its checksum.

    Examples:
        >>> record = vk.records.Record("clip", 0.0, 10.0, labels=(137,), embedding=np.zeros((10, 128), np.uint8))
        >>> vk.records.write("clips.tfrecord", [record])
        >>> dataset = vk.records.embedding_dataset("clips.tfrecord", num_classes=527)
        >>> for embedding, labels in dataset:
        ...     print(embedding.shape, labels.shape)
        (1, 10, 128) (1, 527)
    """
    files = _find_files(paths)
    count = sum(1 for file in files for _ in _record_offsets(file))

    def parse(path: bytes, chunk: int, serialized: NDArray[np.object_]) -> tuple[NDArray[Any], NDArray[Any]]:
        numbered = enumerate(serialized, _RECORDS_PER_CALL * chunk)
        records = [_parse_record(os.fsdecode(path), index, one, num_classes) for index, one in numbered]
        rows = [record.embedding.tobytes() for record in records]
        labels = [np.array(record.labels, np.int64).tobytes() for record in records]
        return np.array(rows, object), np.array(labels, object)

    def chunks(path: tf.Tensor) -> tf.data.Dataset:
        serialized = tf.data.TFRecordDataset(path).batch(_RECORDS_PER_CALL)
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
    if shuffle:
        records = records.shuffle(max(1, len(files)), seed)
    records = records.flat_map(chunks).map(parsed, tf.data.AUTOTUNE).unbatch()
    if shuffle:
        records = records.shuffle(max(1, min(count, _MAX_SHUFFLED)), seed)
    records = records.map(decode, tf.data.AUTOTUNE)
    records = records.apply(tf.data.experimental.assert_cardinality(count))
    if batch_size is not None:
        records = records.padded_batch(batch_size)
    return records.prefetch(tf.data.AUTOTUNE)


# === Writing ===


def write(path: PathLike, records: Iterable[Record]) -> None:
    """Writes a TFRecord file in AudioSet's format; it only appears once it is complete.

    Args:
        path: The file. An existing file is replaced.
        records: The records to write.

    Raises:
        ValueError: An embedding is not uint8 [n, 128].
        OSError: The file cannot be written.

    Examples:
        >>> record = vk.records.Record("clip", 0.0, 10.0, labels=(137,), embedding=np.zeros((10, 128), np.uint8))
        >>> vk.records.write("clips.tfrecord", [record])
        >>> len(list(vk.records.read("clips.tfrecord")))
        1
    """
    path = Path(path)
    try:
        with atomic_write(path) as partial, tf.io.TFRecordWriter(os.fsencode(partial)) as writer:
            for record in records:
                writer.write(serialize(record))
    except tf.errors.OpError as error:  # such as a full disk
        raise OSError(f"cannot write {path}: {error.message}") from error


def serialize(record: Record) -> bytes:
    """Serializes a record as `write` does.

    Args:
        record: The record.

    Returns:
        The bytes of a SequenceExample. Equal records have equal bytes.

    Raises:
        ValueError: The embedding is not uint8 [n, 128].

    Examples:
        >>> record = vk.records.Record("clip", 0.0, 10.0, labels=(137,), embedding=np.zeros((10, 128), np.uint8))
        >>> example = tf.train.SequenceExample.FromString(vk.records.serialize(record))
        >>> example.context.feature["labels"].int64_list.value[0]
        137
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
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized
