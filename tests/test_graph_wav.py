import io
import re
import struct
import warnings

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from vggish_keras import audio
from vggish_keras.exporting import graph_wav

RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(-(2**15), 2**15, (1_000, 2), dtype=np.int16)
ACCEPTED = (
    r"audio\[0\] must be the bytes of a WAV file with 8-, 16-, 24- or 32-bit PCM, .* float, A-law or mu-law samples"
)
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


@pytest.fixture(scope="module")
def decode():
    """One trace for all files."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def function(content):
        audio = content[tf.newaxis]
        headers = graph_wav.read_headers(audio)
        return graph_wav.read_samples(audio, headers, tf.constant(0)), headers.sample_rate[0]

    yield function
    assert function.experimental_get_tracing_count() == 1


def chunk(name, content, size=None):
    return name + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


def layout(kind=1, channels=2, rate=44_100, bits=16, more=b""):
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, rate * frame % 2**32, frame, bits) + more)


def wav(*chunks):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extensible(guid=PCM_GUID):
    return layout(0xFFFE, more=struct.pack("<HHI", 22, 16, 3) + guid)


def data(content, size=None):
    return chunk(b"data", content, size)


PCM = SAMPLES.tobytes()
DATA = data(PCM)
LIST = chunk(b"LIST", b"INFOabcde")


# === Encodings ===


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
def test_every_encoding_equals_libsndfile(decode, file_format, subtype):
    file = io.BytesIO()
    samples = np.concatenate([RNG.uniform(-1, 1, 1_001), [-1, 1, 0]])
    soundfile.write(file, samples, 22_050, format=file_format, subtype=subtype)
    file.seek(0)
    expected = soundfile.read(file, dtype="float32")[0]
    assert len(expected) == len(samples)
    got, rate = decode(file.getvalue())
    assert rate == 22_050
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("kind", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (6, 8), (7, 8), (6, 16)])
def test_every_code_equals_libsndfile(decode, kind, bits):
    """All 8-bit values; for longer integers, every value of each byte."""
    codes = np.arange(256, dtype=np.uint8)
    content = np.concatenate(
        [np.stack([np.roll(codes, turn * index) for index in range(3)]) for turn in (0, 1, 7, 128)]
    )
    content = wav(layout(kind, 1, bits=bits), data(content.tobytes()))
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    np.testing.assert_array_equal(decode(content)[0], expected)


def test_24_bits_in_32(decode):
    """As in the decoder of files; libsndfile reads noise."""
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 44_100, 8 * 44_100, 8, 24))
    content = wav(fmt, data((SAMPLES.astype(np.int32) << 16).tobytes()))
    expected = np.concatenate(list(audio.open_audio(io.BytesIO(content)).blocks))
    np.testing.assert_allclose(decode(content)[0], expected, atol=1e-7)
    np.testing.assert_allclose(expected, SAMPLES.mean(axis=1) / 2**15, atol=1e-7)


# === Headers ===


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(wav(layout(), DATA), id="plain"),
        pytest.param(wav(layout(more=b"\0\0"), DATA), id="with an empty extension"),
        pytest.param(wav(extensible(), DATA), id="extensible"),
        pytest.param(wav(chunk(b"JUNK", b"\0" * 28), layout(), chunk(b"LIST", b"abcde"), DATA), id="odd chunk before"),
        pytest.param(wav(layout(), data(PCM + b"\1\2\3")), id="half a frame at the end"),
        pytest.param(wav(layout(), data(PCM, 2**32 - 1)), id="from a pipe, 2^32 - 1"),
        pytest.param(wav(layout(), data(PCM, 2**31 - 1)), id="from a pipe, 2^31 - 1"),
    ],
)
def test_plain_files_equal_libsndfile(decode, content):
    opened = audio.open_audio(io.BytesIO(content))
    expected = np.concatenate(list(opened.blocks))
    assert len(expected) == len(SAMPLES)
    samples, rate = decode(content)
    assert rate == opened.sample_rate == 44_100
    np.testing.assert_allclose(samples, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("content", "frames"),
    [
        pytest.param(wav(layout(), data(PCM), LIST, LIST), 1_000, id="chunks after the samples"),
        pytest.param(wav(layout(), data(PCM), LIST)[:-1], 1_000, id="last chunk without its padding"),
        pytest.param(wav(layout(), data(PCM), LIST) + b"x", 1_000, id="a byte after the last chunk"),
        pytest.param(wav(layout(), data(PCM)) + b"abcdefg", 1_000, id="fewer bytes than a chunk header"),
        pytest.param(wav(layout(), data(PCM), LIST) + bytes(100), 1_000, id="zeros after chunks"),
        pytest.param(wav(layout(), data(PCM)) + bytes(100), 1_000, id="zeros after the samples"),
        pytest.param(wav(layout(channels=1, bits=8), data(PCM[:3_999]), LIST), 3_999, id="an odd size"),
        pytest.param(wav(layout(), data(PCM, 4)), 1_000, id="too small"),
        pytest.param(wav(layout(), data(PCM, 2_000)), 1_000, id="half"),
        pytest.param(wav(layout(), data(PCM, 3_992)), 1_000, id="two frames fewer"),
        pytest.param(wav(layout(), data(PCM, 0)), 1_000, id="zero"),
        pytest.param(wav(layout(), data(bytes(4_000), 0)), 1_000, id="zero, and silence"),
        pytest.param(wav(layout(), data(PCM, 0x7FFFF000)), 1_000, id="the smallest placeholder"),
        pytest.param(wav(layout(), data(PCM + LIST[:-2], 4_000)), 1_000, id="half of a common chunk"),
        # The bytes after the samples start like a chunk, but do not end at the end of the file.
        pytest.param(wav(layout(), data(PCM + b"ABCD" + LIST[4:-2], 4_000)), 1_004, id="half of an unknown chunk"),
        pytest.param(wav(layout(), data(PCM)) + b"TAG" + bytes(125), 1_000, id="an ID3 tag"),
        pytest.param(wav(layout(), data(PCM)) + bytes(4_096), 2_024, id="more zeros than padding"),
        pytest.param(wav(layout(), DATA)[:-64], 984, id="sixteen frames are missing"),
    ],
)
def test_samples_end_at_the_declared_size_or_at_the_end(decode, content, frames):
    assert len(decode(content)[0]) == frames
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing frames
        assert sum(map(len, audio.open_audio(io.BytesIO(content)).blocks)) == frames


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_any_number_of_channels(decode, channels):
    file = io.BytesIO()
    values = RNG.uniform(-1, 1, (100, channels))
    soundfile.write(file, values, 8_000, format="WAV", subtype="PCM_16")
    samples, rate = decode(file.getvalue())
    assert rate == 8_000
    np.testing.assert_allclose(samples, values.mean(axis=1), atol=2**-15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no RIFF WAVE header"),
        (b"RIFF", "it has no RIFF WAVE header"),
        (b"RIFX" + wav(layout(), DATA)[4:], "it has no RIFF WAVE header"),
        (wav(), "it has no fmt chunk followed by a data chunk"),
        (wav(layout()), "it has no fmt chunk followed by a data chunk"),
        (wav(DATA, layout()), "it has no fmt chunk followed by a data chunk"),
        (wav(layout(), DATA)[:40], "it has no fmt chunk followed by a data chunk"),
        (wav(chunk(b"fmt ", b"\1\0" * 7), DATA), "its fmt chunk has 14 bytes instead of at least 16"),
        (wav(layout(bits=12), DATA), r"it has format 1 \(PCM\) with 12 bits"),
        (wav(layout(bits=64), DATA), r"it has format 1 \(PCM\) with 64 bits"),
        (wav(layout(kind=2, bits=4), DATA), r"it has format 2 \(Microsoft ADPCM\) with 4 bits"),
        (wav(layout(kind=17, bits=4), DATA), r"it has format 17 \(IMA ADPCM\) with 4 bits"),
        (wav(layout(kind=0x55, bits=0), DATA), r"it has format 85 \(MP3\) with 0 bits"),
        (wav(layout(kind=0x1234), DATA), "it has format 4660 with 16 bits"),
        (wav(extensible(b"\3" + PCM_GUID[1:]), DATA), r"it has format 3 \(float\) with 16 bits"),
        (wav(layout(kind=0xFFFE), DATA), "it has format 65534 with 16 bits"),
        (wav(layout(channels=0), DATA), "it has no channels"),
        (wav(layout(), DATA)[:-65], "it is truncated, with 3935 of 4000 bytes of samples"),
        (wav(layout(), DATA, LIST)[: -len(LIST) - 65], "it is truncated, with 3935 of 4000 bytes of samples"),
        (wav(layout(), data(b"", 64)), "it is truncated, with 0 of 64 bytes of samples"),
        (2 * wav(layout(), DATA), "it holds several concatenated files"),
        (wav(layout(), DATA, LIST) + wav(layout(), DATA), "it holds several concatenated files"),
        (wav(layout(), data(PCM, 0x7FFFEFFF)), "it is truncated, with 4000 of 2147479551 bytes of samples"),
        (wav(layout(), data(b"")), "it holds no samples"),
        (wav(layout(), data(b""), LIST), "it holds no samples"),
        (wav(layout(), data(b"abc")), "it holds no samples"),
        (wav(layout(), data(b"", 2**32 - 1)), "it holds no samples"),
        (wav(*[LIST] * 127, layout(), DATA), "it has more than 128 chunks"),
        (wav(layout(), DATA, *[LIST] * 129), "it has more than 128 chunks"),
        (wav() + bytes(10**6), "it has more than 128 chunks"),
        (wav(layout(rate=0), DATA), "the sample rate must be between 4000 and 192000 Hz, got 0"),
        (wav(layout(rate=3_999), DATA), "the sample rate must be between 4000 and 192000 Hz, got 3999"),
        (wav(layout(rate=192_001), DATA), "the sample rate must be between 4000 and 192000 Hz, got 192001"),
        (wav(layout(rate=2**32 - 1), DATA), "the sample rate must be between 4000 and 192000 Hz, got 4294967295"),
    ],
)
def test_errors_name_the_cause(decode, content, message):
    expected = rf"\[{ACCEPTED}: {message}\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        decode(content)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite(decode, value):
    content = wav(layout(3, bits=64), data(np.array([[0, 0], [0, value], [0, 0]]).tobytes()))
    message = r"\[audio\[0\] has samples that are not finite\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(content)


def test_the_maximum_number_of_chunks(decode):
    assert len(decode(wav(*[LIST] * 126, layout(), DATA, *[LIST] * 128))[0]) == 1_000


def test_errors_name_the_first_invalid_clip():
    invalid = wav(layout(bits=12), DATA)
    audio = tf.constant([wav(layout(), DATA), invalid, wav(layout(bits=20), DATA)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"audio\[1\] must be .* it has format 1 \(PCM\) with 12 "):
        tf.function(graph_wav.read_headers)(audio)


def test_mutated_files_return_samples_or_raise(decode):
    content = np.frombuffer(wav(layout(), chunk(b"LIST", b"abcdef"), DATA), np.uint8)
    rejected = 0
    for _ in range(300):
        mutated = content.copy()
        mutated[RNG.integers(0, 60, 2)] = RNG.integers(0, 256, 2)
        try:
            samples, _ = decode(mutated[: RNG.choice([20, 50, *[len(content)] * 8])].tobytes())
        except tf.errors.InvalidArgumentError as error:
            assert re.search(f"{ACCEPTED}: ", error.message)  # noqa: PT017
            rejected += 1
        else:
            assert np.all(np.abs(samples) <= 1)
    assert 0 < rejected < 300
