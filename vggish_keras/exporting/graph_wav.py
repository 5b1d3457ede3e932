"""WAV bytes to samples as TensorFlow ops.

TensorFlow's own decoder reads only 16-bit PCM, and neither WAVE_FORMAT_EXTENSIBLE nor files written to a pipe.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from vggish_keras.decoding import ID3V1_BYTES, MAX_MISSING_FRAMES, MAX_PADDING_BYTES, TRAILERS

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4_000, 192_000
"""Hz."""
MAX_HOURS = 36
"""Longer clips have more samples than 32 bits can count."""
MAX_CHUNKS = 128
"""Chunks read before the samples, and after them: programs write at most a dozen."""

_STREAMED_SIZE = 0x7FFFF000
"""Programs that write to a pipe use sizes near 2^31 or 2^32, more than a request can hold."""
_TRAILERS = "|".join(re.escape(name.decode()) for name in sorted(TRAILERS))
_EXTENSIBLE = 0xFFFE
_FMT_SIZE, _EXTENSIBLE_SIZE = 16, 40
_CHUNK_HEADER = 8
_FORMATS = {
    1: "PCM",
    2: "Microsoft ADPCM",
    3: "float",
    6: "A-law",
    7: "mu-law",
    0x11: "IMA ADPCM",
    0x31: "GSM 6.10",
    0x40: "G.721 ADPCM",
    0x50: "MPEG",
    0x55: "MP3",
    0xFF: "AAC",
    0x161: "Windows Media Audio",
    0x2000: "AC-3",
    0xF1AC: "FLAC",
}


class WavHeader(NamedTuple):
    """The position and layout of samples in WAV files, as int64 tensors [clips].

    Attributes:
        sample_rate: Hz.
        channels: Samples per frame.
        encoding: Index into `_ENCODINGS`.
        start: First byte of the samples.
        frames: Whole frames, at least one.
    """

    sample_rate: tf.Tensor
    channels: tf.Tensor
    encoding: tf.Tensor
    start: tf.Tensor
    frames: tf.Tensor


# === Samples ===


def _integers(dtype: tf.DType) -> Callable[[tf.Tensor], tf.Tensor]:
    full_scale = 2.0 ** (8 * dtype.size - 1)
    zero = full_scale if dtype == tf.uint8 else 0.0
    return lambda content: (tf.cast(tf.io.decode_raw(content, dtype), tf.float32) - zero) / full_scale


def _decode_pcm24(content: tf.Tensor) -> tf.Tensor:
    triples = tf.reshape(tf.cast(tf.io.decode_raw(content, tf.uint8), tf.float32), [-1, 3])
    unsigned = (triples @ tf.constant([[1.0], [2.0**8], [2.0**16]]))[:, 0] / 2.0**23
    return tf.where(unsigned < 1, unsigned, unsigned - 2)


def _floats(dtype: tf.DType) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda content: tf.cast(tf.io.decode_raw(content, dtype), tf.float32)


def _companded(values: NDArray[np.float64]) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda content: tf.gather(values.astype(np.float32), tf.cast(tf.io.decode_raw(content, tf.uint8), tf.int32))


def _a_law() -> NDArray[np.float64]:
    """The values of the 256 A-law codes in [-1, 1] (ITU-T G.711)."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = code >> 4 & 7, code & 15
    size = np.where(exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, size, -size) * 8 / 2.0**15


def _mu_law() -> NDArray[np.float64]:
    """The values of the 256 mu-law codes in [-1, 1] (ITU-T G.711)."""
    code = np.arange(256) ^ 0xFF
    size = ((2 * (code & 15) + 33) << (code >> 4 & 7)) - 33
    return np.where(code & 0x80, -size, size) * 4 / 2.0**15


class _Encoding(NamedTuple):
    format: int
    bits: int
    any_bits: bool
    decode: Callable[[tf.Tensor], tf.Tensor]


_ENCODINGS = (
    _Encoding(1, 16, False, _integers(tf.int16)),
    _Encoding(1, 8, False, _integers(tf.uint8)),
    _Encoding(1, 24, False, _decode_pcm24),
    _Encoding(1, 32, False, _integers(tf.int32)),
    _Encoding(3, 32, False, _floats(tf.float32)),
    _Encoding(3, 64, False, _floats(tf.float64)),
    _Encoding(6, 8, True, _companded(_a_law())),
    _Encoding(7, 8, True, _companded(_mu_law())),
)
_ACCEPTED = "8-, 16-, 24- or 32-bit PCM, 32- or 64-bit float, A-law or mu-law samples"


def read_samples(audio: tf.Tensor, headers: WavHeader, clip: tf.Tensor) -> tf.Tensor:
    """Decodes one of several WAV files.

    Args:
        audio: The bytes of the files, string [clips].
        headers: Their headers.
        clip: The index of the file to decode, integer scalar.

    Returns:
        float32 [frames], the mean of the channels; integers and companded samples scaled to [-1, 1].

    Raises:
        tf.errors.InvalidArgumentError: While running: a sample is not finite.
    """
    header = WavHeader(*[field[clip] for field in headers])
    frame = header.channels * tf.gather(_sample_bytes(), header.encoding)
    content = tf.strings.substr(audio[clip], header.start, header.frames * frame)
    branches = [lambda decode=encoding.decode: decode(content) for encoding in _ENCODINGS]
    samples = tf.switch_case(tf.cast(header.encoding, tf.int32), branches)
    mono = tf.reduce_mean(tf.reshape(samples, [header.frames, header.channels]), axis=1)
    finite = tf.reduce_all(tf.math.is_finite(mono))
    message = tf.strings.join(["audio[", tf.strings.as_string(clip), "] has samples that are not finite"])
    with tf.control_dependencies([tf.debugging.Assert(finite, [message])]):
        return tf.identity(mono)


def _sample_bytes() -> tf.Tensor:
    return tf.constant([encoding.bits // 8 for encoding in _ENCODINGS], tf.int64)


# === Headers ===


def read_headers(audio: tf.Tensor) -> WavHeader:
    """Reads and checks the headers of WAV files.

    Call it only from code that AutoGraph converts.

    A `data` chunk extends to the end of the bytes if its size is 0, too small, or the placeholder of a program that
    wrote to a pipe. Its size is trusted if it is followed by chunks up to the end of the bytes, an ID3 tag, less than
    4 kB of zeros, or fewer bytes than a chunk's header. Up to 16 frames may be missing.

    Args:
        audio: The bytes of the files, string [clips].

    Returns:
        Their headers.

    Raises:
        tf.errors.InvalidArgumentError: While running: a file is not a WAV file of an accepted encoding, is truncated,
            has no samples or too many chunks, or its sample rate is out of range.
    """
    length = tf.cast(tf.strings.length(audio), tf.int64)
    is_wav = (_text(audio, tf.zeros_like(length)) == b"RIFF") & (_text(audio, tf.fill(tf.shape(length), 8)) == b"WAVE")
    fmt_start, fmt_size, start, size, has_more = _find_chunks(audio, length, is_wav)
    present = tf.maximum(length - start, 0)
    size, has_more_after, repeated = _true_size(audio, length, start, size)

    kind, channels, block, bits = (_number(audio, fmt_start + offset, 2) for offset in (0, 2, 12, 14))
    bits = tf.where((bits == 24) & (block == 4 * channels), tf.constant(32, bits.dtype), bits)
    # The extensible sub-format starts with the code of the plain format.
    kind = tf.where((kind == _EXTENSIBLE) & (fmt_size >= _EXTENSIBLE_SIZE), _number(audio, fmt_start + 24, 2), kind)
    sample_rate = _number(audio, fmt_start + 4, 4)
    matches = _matching_encodings(kind, bits)
    encoding = tf.argmax(matches, axis=1)
    frame_bytes = channels * tf.gather(_sample_bytes(), encoding)

    checks: list[tuple[tf.Tensor, list[Any]]] = [
        (is_wav, ["it has no RIFF WAVE header"]),
        (~(has_more | has_more_after), [f"it has more than {MAX_CHUNKS} chunks"]),
        ((fmt_start >= 0) & (start >= 0), ["it has no fmt chunk followed by a data chunk"]),
        (
            fmt_size >= _FMT_SIZE,
            ["its fmt chunk has ", fmt_size, f" bytes instead of at least {_FMT_SIZE}"],
        ),
        (tf.reduce_any(matches, axis=1), ["it has format ", kind, _format_name(kind), " with ", bits, " bits"]),
        (channels > 0, ["it has no channels"]),
        (~repeated, ["it holds several concatenated files"]),
        (
            (size <= present) | ((present > 0) & (size - present <= MAX_MISSING_FRAMES * frame_bytes)),
            ["it is truncated, with ", present, " of ", size, " bytes of samples"],
        ),
        (tf.minimum(size, present) >= frame_bytes, ["it holds no samples"]),
        (
            (sample_rate >= MIN_SAMPLE_RATE) & (sample_rate <= MAX_SAMPLE_RATE),
            [f"the sample rate must be between {MIN_SAMPLE_RATE} and {MAX_SAMPLE_RATE} Hz, got ", sample_rate],
        ),
        (size <= MAX_HOURS * 3_600 * sample_rate * frame_bytes, [f"it is longer than {MAX_HOURS} hours"]),
    ]
    with tf.control_dependencies(_require_all(checks)):
        frame_bytes = tf.identity(frame_bytes)
        frames = tf.minimum(size, present) // frame_bytes
        return WavHeader(*map(tf.identity, (sample_rate, channels, encoding, start, frames)))


def _matching_encodings(kind: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """The encodings that fit a format and bits per sample, bool [clips, encodings]."""
    formats = tf.constant([encoding.format for encoding in _ENCODINGS], tf.int64)
    widths = tf.constant([encoding.bits for encoding in _ENCODINGS], tf.int64)
    any_bits = tf.constant([encoding.any_bits for encoding in _ENCODINGS])
    return (kind[:, tf.newaxis] == formats) & ((bits[:, tf.newaxis] == widths) | any_bits)


def _require_all(checks: list[tuple[tf.Tensor, list[Any]]]) -> list[tf.Operation]:
    """Asserts conditions one after the other, so that the first that fails is reported."""
    passed: list[tf.Operation] = []
    for passes, reason in checks:
        with tf.control_dependencies(passed):
            passed = [_require(passes, reason)]
    return passed


def _require(passes: tf.Tensor, reason: list[Any]) -> tf.Operation:
    """Asserts a condition [clips], and reports the first clip that fails it; tensors in the reason are [clips]."""

    def message() -> tf.Tensor:
        clip = tf.where(~passes)[0, 0]
        words = [word if isinstance(word, str) else _as_text(word[clip]) for word in reason]
        return tf.strings.join(
            ["audio[", tf.strings.as_string(clip), f"] must be the bytes of a WAV file with {_ACCEPTED}: ", *words]
        )

    all_pass = tf.reduce_all(passes)
    return tf.debugging.Assert(all_pass, [tf.cond(all_pass, lambda: tf.constant(""), message)])


def _as_text(value: tf.Tensor) -> tf.Tensor:
    return value if value.dtype == tf.string else tf.strings.as_string(value)


def _format_name(kind: tf.Tensor) -> tf.Tensor:
    """The name of each format as " (name)"; empty for rare formats."""
    names = tf.constant(["", *(f" ({name})" for name in _FORMATS.values())])
    return tf.gather(names, tf.argmax(kind[:, tf.newaxis] == tf.constant([-1, *_FORMATS], tf.int64), axis=1))


def _find_chunks(audio: tf.Tensor, length: tf.Tensor, is_wav: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Finds the fmt chunk of each file and the data chunk after it.

    Returns:
        The start and size of each fmt chunk's content, the same for the data chunk, -1 where a chunk is missing; and
        whether a file has more chunks than are read.
    """
    missing = -tf.ones_like(length)
    fmt_start, fmt_size, start, size = missing, missing, missing, missing
    position = tf.fill(tf.shape(length), tf.constant(12, tf.int64))
    searching = is_wav & (position + _CHUNK_HEADER <= length)
    chunks = tf.constant(0)
    while (chunks < MAX_CHUNKS) & tf.reduce_any(searching):
        name, chunk_size, after = _chunk(audio, position)
        is_fmt, is_data = searching & (name == b"fmt "), searching & (name == b"data")
        fmt_start = tf.where(is_fmt, position + _CHUNK_HEADER, fmt_start)
        fmt_size = tf.where(is_fmt, chunk_size, fmt_size)
        start = tf.where(is_data, position + _CHUNK_HEADER, start)
        size = tf.where(is_data, chunk_size, size)
        position = after
        searching = searching & ~is_data & (position + _CHUNK_HEADER <= length)
        chunks += 1
    return fmt_start, fmt_size, start, size, searching


def _true_size(audio: tf.Tensor, length: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Corrects the size of each data chunk, by the rules of `decoding.headers`.

    Returns:
        The bytes of samples, whether a file has more chunks than are read, and whether a second file follows.
    """
    present = tf.maximum(length - start, 0)
    first = start + size + size % 2
    doubtful = (start >= 0) & (size < present)
    position, walking = first, doubtful & (first + _CHUNK_HEADER <= length)
    repeated, cut_off = tf.zeros_like(walking), tf.zeros_like(walking)
    chunks = tf.constant(0)
    while (chunks < MAX_CHUNKS) & tf.reduce_any(walking):
        name, _, after = _chunk(audio, position)
        walking = walking & tf.strings.regex_full_match(name, "[ -~]{4}")
        repeated = repeated | (walking & (name == b"RIFF"))
        cut_off = cut_off | (walking & (after > length + 1) & tf.strings.regex_full_match(name, _TRAILERS))
        position = tf.where(walking, after, position)
        walking = walking & (position + _CHUNK_HEADER <= length)
        chunks += 1

    left = tf.where(doubtful, tf.maximum(length - position, 0), 0)
    rest = tf.strings.substr(
        audio, tf.cast(length - left, tf.int32), tf.cast(tf.minimum(left, MAX_PADDING_BYTES), tf.int32)
    )
    is_padding = (left < MAX_PADDING_BYTES) & tf.strings.regex_full_match(rest, r"\x00*")
    is_tag = (left == ID3V1_BYTES) & (tf.strings.substr(rest, 0, 3) == b"TAG")
    # The last chunk may lack its padding byte.
    ended = cut_off | ((position <= length + 1) & ((left < _CHUNK_HEADER) | is_padding | is_tag))
    trusted = tf.where(size == 0, ended & (position > first), ended)
    return tf.where((size >= _STREAMED_SIZE) | (doubtful & ~trusted), present, size), walking, repeated


def _chunk(audio: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The name and size of the chunk at a position, and the position after it."""
    size = _number(audio, position + 4, 4)
    return (
        _text(audio, position),
        size,
        position + _CHUNK_HEADER + size + size % 2,
    )  # chunks of odd size have a padding byte


def _text(audio: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Four bytes of each file, fewer at its end."""
    return _cut(audio, start, 4)


def _number(audio: tf.Tensor, start: tf.Tensor, size: int) -> tf.Tensor:
    """An unsigned number of 2 or 4 bytes in each file, int64; missing bytes read as zero."""
    return tf.io.decode_raw(_cut(audio, start, size), tf.int64, fixed_length=8)[:, 0]


def _cut(audio: tf.Tensor, start: tf.Tensor, size: int) -> tf.Tensor:
    start = tf.clip_by_value(tf.cast(start, tf.int64), 0, tf.cast(tf.strings.length(audio), tf.int64))
    return tf.strings.substr(audio, start, tf.fill(tf.shape(start), tf.constant(size, tf.int64)))
