import io
import struct

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from vggish_keras import audio, graph_wav

RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(-(2**15), 2**15, (1_000, 2), dtype=np.int16)
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


@pytest.fixture(scope="module")
def decode():
    """One trace for all files."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def function(content):
        header = graph_wav.read_header(content)
        return graph_wav.read_samples(content, header), header.sample_rate

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


PCM = SAMPLES.tobytes()
DATA = chunk(b"data", PCM)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(wav(layout(), DATA), id="plain"),
        pytest.param(wav(layout(more=b"\0\0"), DATA), id="with an empty extension"),
        pytest.param(wav(extensible(), DATA), id="extensible"),
        pytest.param(wav(chunk(b"JUNK", b"\0" * 28), layout(), chunk(b"LIST", b"abcde"), DATA), id="odd chunk before"),
        pytest.param(wav(layout(), DATA, chunk(b"id3 ", b"abc")) + b"x", id="more after the samples"),
        pytest.param(wav(layout(), chunk(b"data", PCM + b"\1\2\3")), id="half a frame at the end"),
        pytest.param(wav(layout(), chunk(b"data", PCM, 2**32 - 1)), id="from a pipe, 2^32 - 1"),
        pytest.param(wav(layout(), chunk(b"data", PCM, 2**31 - 1)), id="from a pipe, 2^31 - 1"),
    ],
)
def test_decodes_as_libsndfile_does(decode, content):
    opened = audio.open_audio(io.BytesIO(content))
    expected = np.concatenate(list(opened.blocks))
    assert len(expected) == len(SAMPLES)
    samples, rate = decode(content)
    assert rate == opened.sample_rate == 44_100
    np.testing.assert_allclose(samples, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_any_number_of_channels(decode, channels):
    file = io.BytesIO()
    values = RNG.uniform(-1, 1, (100, channels))
    soundfile.write(file, values, 8_000, format="WAV", subtype="PCM_16")
    samples, rate = decode(file.getvalue())
    assert rate == 8_000
    np.testing.assert_allclose(samples, values.mean(axis=1), atol=2**-15)


def test_no_samples(decode):
    assert decode(wav(layout(), chunk(b"data", b"")))[0].shape == (0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it does not start as one"),
        (b"RIFF", "it does not start as one"),
        (b"RIFX" + wav(layout(), DATA)[4:], "it does not start as one"),
        (wav(), "it has no fmt chunk with a data chunk after it"),
        (wav(layout()), "it has no fmt chunk with a data chunk after it"),
        (wav(DATA, layout()), "it has no fmt chunk with a data chunk after it"),
        (wav(layout(), DATA)[:40], "it has no fmt chunk with a data chunk after it"),
        (wav(layout(bits=24), DATA), "it holds format 1 of 24 bits"),
        (wav(layout(kind=3, bits=32), DATA), "it holds format 3 of 32 bits"),
        (wav(extensible(b"\3" + PCM_GUID[1:]), DATA), "it holds format 3 of 16 bits"),
        (wav(layout(kind=0xFFFE), DATA), "it holds format 65534 of 16 bits"),
        (wav(layout(channels=0), DATA), "it has no channels"),
        (wav(layout(), DATA)[:-1], "it is truncated, with 3999 of 4000 bytes of samples"),
        (wav(layout(rate=0), DATA), "the sample rate must lie between 4000 and 192000 Hz, got 0"),
        (wav(layout(rate=3_999), DATA), "the sample rate must lie between 4000 and 192000 Hz, got 3999"),
        (wav(layout(rate=192_001), DATA), "the sample rate must lie between 4000 and 192000 Hz, got 192001"),
        (wav(layout(rate=2**32 - 1), DATA), "the sample rate must lie between 4000 and 192000 Hz, got 4294967295"),
    ],
)
def test_says_what_is_wrong(decode, content, message):
    expected = rf"\[audio must be the bytes of a 16-bit PCM WAV file: {message}\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        decode(content)


def test_mutated_files_give_samples_or_a_reason(decode):
    content = np.frombuffer(wav(layout(), chunk(b"LIST", b"abcdef"), DATA), np.uint8)
    refused = 0
    for _ in range(300):
        mutated = content.copy()
        mutated[RNG.integers(0, 60, 2)] = RNG.integers(0, 256, 2)
        try:
            samples, _ = decode(mutated[: RNG.choice([20, 50, *[len(content)] * 8])].tobytes())
        except tf.errors.InvalidArgumentError as error:
            assert "audio must be the bytes of a 16-bit PCM WAV file: " in error.message  # noqa: PT017
            refused += 1
        else:
            assert np.all(np.abs(samples) <= 1)
    assert 0 < refused < 300
