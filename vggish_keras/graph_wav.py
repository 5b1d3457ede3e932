"""16-bit PCM WAV bytes to samples inside a TensorFlow graph.

TensorFlow's own decoder knows neither WAVE_FORMAT_EXTENSIBLE nor the headers that programs write to a pipe.
"""

from typing import NamedTuple

import tensorflow as tf

from vggish_keras.audio import STREAMED_SIZE

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4_000, 192_000
"""Hz."""

_PCM, _EXTENSIBLE = 1, 0xFFFE
_EXTENSIBLE_SIZE = 40
_SAMPLE_BYTES = 2


class WavHeader(NamedTuple):
    """Where the samples of a WAV file are: int64 tensors of one shape.

    Attributes:
        sample_rate: Hz.
        channels: Samples of a frame.
        start: First byte of the samples.
        frames: Whole frames.
    """

    sample_rate: tf.Tensor
    channels: tf.Tensor
    start: tf.Tensor
    frames: tf.Tensor


def read_header(content: tf.Tensor) -> WavHeader:
    """Reads the header of a WAV file and checks it; autograph must have converted the caller.

    Args:
        content: The bytes of the file, string scalar.

    Returns:
        Its header, scalars. A program that wrote to a pipe left no size: then the samples go on to the end.

    Raises:
        tf.errors.InvalidArgumentError: While running: it is no 16-bit PCM WAV file, it is truncated, or its rate is
            out of range.
    """
    length = tf.cast(tf.strings.length(content), tf.int64)
    is_wav = (_text(content, 0) == b"RIFF") & (_text(content, 8) == b"WAVE")
    missing = tf.constant(-1, tf.int64)
    layout, layout_size, start, size = missing, missing, missing, missing
    position = tf.constant(12, tf.int64)
    while is_wav & (start < 0) & (position + 8 <= length):
        name, size = _text(content, position), _number(content, position + 4, 4)
        position += 8
        layout = tf.where(name == b"fmt ", position, layout)
        layout_size = tf.where(name == b"fmt ", size, layout_size)
        start = tf.where(name == b"data", position, start)
        position += size + size % 2  # a chunk of an odd size is followed by a byte of padding
    has_chunks = (layout >= 0) & (start >= 0)

    kind, channels, bits = (_number(content, layout + offset, 2) for offset in (0, 2, 14))
    # What stands for the format there starts with the plain format's number.
    kind = tf.where((kind == _EXTENSIBLE) & (layout_size >= _EXTENSIBLE_SIZE), _number(content, layout + 24, 2), kind)
    sample_rate = _number(content, layout + 4, 4)
    present = tf.maximum(length - start, 0)
    checks = [
        (is_wav, "it does not start as one"),
        (has_chunks, "it has no fmt chunk with a data chunk after it"),
        ((kind == _PCM) & (bits == 16), tf.strings.format("it holds format {} of {} bits", (kind, bits))),
        (channels > 0, "it has no channels"),
        (
            (size <= present) | (size >= STREAMED_SIZE),
            tf.strings.format("it is truncated, with {} of {} bytes of samples", (present, size)),
        ),
        (
            (sample_rate >= MIN_SAMPLE_RATE) & (sample_rate <= MAX_SAMPLE_RATE),
            tf.strings.format(
                f"the sample rate must lie between {MIN_SAMPLE_RATE} and {MAX_SAMPLE_RATE} Hz, got {{}}", sample_rate
            ),
        ),
    ]
    passed: list[tf.Operation] = []
    for good, reason in checks:
        with tf.control_dependencies(passed):
            message = tf.strings.join(["audio must be the bytes of a 16-bit PCM WAV file: ", reason])
            passed = [tf.debugging.Assert(good, [message])]
    with tf.control_dependencies(passed):
        sample_rate, channels = tf.identity(sample_rate), tf.identity(channels)
    frames = tf.minimum(size, present) // (_SAMPLE_BYTES * channels)
    return WavHeader(sample_rate, channels, start, frames)


def read_samples(content: tf.Tensor, header: WavHeader) -> tf.Tensor:
    """The samples of a WAV file with the header of `read_header` -> float32 [frames] in [-1, 1], channels averaged."""
    size = header.frames * header.channels * _SAMPLE_BYTES
    samples = tf.io.decode_raw(tf.strings.substr(content, header.start, size), tf.int16)
    frames = tf.reshape(samples, [header.frames, header.channels])
    return tf.reduce_mean(tf.cast(frames, tf.float32), axis=1) / 2.0**15


def _text(content: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Four bytes, or fewer where there are no more."""
    return tf.strings.substr(content, tf.minimum(tf.cast(start, tf.int32), tf.strings.length(content)), 4)


def _number(content: tf.Tensor, start: tf.Tensor, size: int) -> tf.Tensor:
    """An unsigned number of 2 or 4 bytes, int64; zeros stand in for bytes that there are not."""
    start = tf.clip_by_value(tf.cast(start, tf.int32), 0, tf.strings.length(content))
    return tf.io.decode_raw(tf.strings.substr(content, start, size), tf.int64, fixed_length=8)[0]
