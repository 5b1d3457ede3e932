import gc
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vggish_keras.audio import mono_blocks, open_audio

STEREO = np.random.default_rng(0).uniform(-0.5, 0.5, (30_000, 2)).astype(np.float32)


def read(source, sample_rate=None):
    audio = open_audio(source, sample_rate)
    blocks = list(audio.blocks)
    assert all(block.dtype == np.float32 for block in blocks)
    return np.concatenate(blocks), audio.sample_rate


def encoded(format="WAV", subtype="PCM_16", samples=STEREO, sample_rate=44_100) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format=format, subtype=subtype)
    return file.getvalue()


# === Files ===


@pytest.mark.parametrize(
    ("format", "subtype", "error"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("FLAC", "PCM_16", 2**-15),
        ("AIFF", "PCM_16", 2**-15),
        ("OGG", "VORBIS", None),
        ("MP3", "MPEG_LAYER_III", None),
    ],
)
def test_formats(tmp_path, format, subtype, error):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(30_000) / 44_100)
    stereo = np.stack([tone, 0.5 * tone], axis=1).astype(np.float32)
    path = tmp_path / f"a file.{format.lower()}"
    path.write_bytes(encoded(format, subtype, stereo))
    samples, sample_rate = read(path)
    assert sample_rate == 44_100
    if error:
        np.testing.assert_allclose(samples, 0.75 * tone, atol=error)
    else:  # lossy, and an encoder may add silence at both ends
        middle = samples[5_000:25_000]
        hz = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * 44_100 / len(middle)
        assert abs(hz - 440) < 3
        np.testing.assert_allclose(np.abs(middle).max(), 0.375, rtol=0.05)
    np.testing.assert_array_equal(read(str(path))[0], samples)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read(file)[0], samples)


@pytest.mark.reference
def test_real_recordings(reference):
    for name, rate, seconds in (
        ("speech_16k_mono.wav", 16_000, 4.0),
        ("music_44k_stereo.ogg", 44_100, 10.0),
        ("field_44k_mono.mp3", 44_100, 17.6),
    ):
        path = reference / "audio" / name
        samples, sample_rate = read(path)
        expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
        assert sample_rate == rate
        assert abs(len(samples) / rate - seconds) < 0.05
        # The expected values come from libsndfile's decoders; FFmpeg's round differently.
        np.testing.assert_allclose(samples, expected.mean(axis=1), atol=2e-6)


def test_long_files_are_read_in_blocks(tmp_path):
    path = tmp_path / "long.wav"
    samples = np.random.default_rng(1).uniform(-1, 1, 300_000).astype(np.float32)
    path.write_bytes(encoded("WAV", "FLOAT", samples))
    blocks = list(open_audio(path).blocks)
    assert max(map(len, blocks)) <= 65_536
    np.testing.assert_array_equal(np.concatenate(blocks), samples)


def test_a_pipe_that_cannot_seek():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError("a pipe")

    np.testing.assert_array_equal(read(Pipe(encoded()))[0], read(io.BytesIO(encoded()))[0])


def test_file_objects_are_read_from_their_position():
    content = encoded()
    file = io.BytesIO(b"something before" + content)
    file.seek(16)
    np.testing.assert_array_equal(read(file)[0], read(io.BytesIO(content))[0])
    with pytest.raises(ValueError, match="file object cannot be read as audio: no bytes are left to read"):
        read(file)
    with pytest.raises(TypeError, match="is open in text mode: open it in binary mode"):
        read(io.StringIO("text"))


def test_file_whose_seek_returns_nothing():
    """As `tf.io.gfile.GFile`."""

    class File(io.BytesIO):
        def seek(self, *position):
            super().seek(*position)

    np.testing.assert_array_equal(read(File(encoded()))[0], read(io.BytesIO(encoded()))[0])


def open_files():
    """What the descriptors of this process refer to."""
    folder = Path("/proc/self/fd")
    descriptors = folder.iterdir() if folder.is_dir() else ()
    return [os.readlink(descriptor) for descriptor in descriptors if descriptor.is_symlink()]


def test_no_file_is_left_open(tmp_path):
    (tmp_path / "good.wav").write_bytes(encoded())
    (tmp_path / "text.wav").write_bytes(b"not audio")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(5):
            read(tmp_path / "good.wav")
            with pytest.raises(ValueError, match="cannot be read"):
                read(tmp_path / "text.wav")
        gc.collect()
    assert not [name for name in open_files() if name.startswith(str(tmp_path))]


def test_paths_that_are_not_valid_text(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.wav"))
    path.write_bytes(encoded())
    assert len(read(path)[0]) == len(STEREO)


def test_wav_of_unknown_length():
    """As written to a pipe, with the largest possible sizes in the header."""
    content = bytearray(encoded())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert len(read(io.BytesIO(content))[0]) == len(STEREO)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not audio at all, but text" * 20, "cannot be read as audio: it is not in a known audio format"),
        (encoded()[:30], "cannot be read as audio"),
        (encoded()[:43], "cannot be read as audio: it has no 'data' chunk"),
        (encoded()[:44], "is truncated: it has 0 of 120000 bytes"),
        (encoded()[:5_000], "is truncated: it has 4956 of 120000 bytes"),
        (encoded("RF64")[:60_000], "is truncated: it has 59896 of 120000 bytes"),
        (encoded("W64")[:60_000], "is truncated: it has 59896 of 120000 bytes"),
        (encoded("AU")[:60_000], "is truncated: it has 59976 of 120000 bytes"),
        (encoded("FLAC")[:50_000], "is damaged after 12288 samples"),
        (encoded("MP3", "MPEG_LAYER_III")[:100], "cannot be read as audio: it is not in a known audio format"),
        (encoded(samples=STEREO[:0]), "holds no samples"),
    ],
)
def test_invalid_files_are_named(tmp_path, content, message):
    path = tmp_path / "some recording.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"some recording.bin {message}"):
        read(path)
    file = io.BytesIO(content)
    with pytest.raises(ValueError, match=f"file object {message}"):
        read(file)


def test_float_file_that_is_not_finite(tmp_path):
    samples = STEREO.copy()
    samples[20_000, 1] = np.inf
    (tmp_path / "x.wav").write_bytes(encoded("WAV", "FLOAT", samples))
    with pytest.raises(ValueError, match=r"x\.wav: sample 20000 is inf, not a finite number"):
        read(tmp_path / "x.wav")


def test_sources_that_are_not_audio_files(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.wav cannot be read as audio: the file is empty"):
        read(tmp_path / "empty.wav")
    (tmp_path / "x.raw").write_bytes(b"123")
    with pytest.raises(FileNotFoundError, match=r"no audio file at .*nothing\.wav"):
        read(tmp_path / "nothing.wav")
    with pytest.raises(ValueError, match="is not a file"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"x\.raw cannot be read as audio"):
        read(tmp_path / "x.raw")
    with pytest.raises(TypeError, match="expected a path, a binary file object or an array, got int"):
        read(3)
    with pytest.raises(TypeError, match=r"or an array, got bytes: pass io\.BytesIO\(source\) if it is a file, or np"):
        read(encoded())
    for url in ("https://example.org/a.wav", "gs://bucket/a.wav"):
        with pytest.raises(ValueError, match=f"expected a file, got the URL {url}: download it first"):
            read(url)
    with pytest.raises(ValueError, match="sample_rate must be None for a file, which has its own, got 8000"):
        read(tmp_path / "x.raw", 8_000)


# === Channels ===


def test_a_single_channel_is_read(tmp_path):
    path = tmp_path / "stereo.wav"
    path.write_bytes(encoded("WAV", "FLOAT"))
    for index in (0, 1):
        expected = STEREO[:, index]
        np.testing.assert_array_equal(np.concatenate(list(open_audio(path, channels=index).blocks)), expected)
        np.testing.assert_array_equal(np.concatenate(list(open_audio(STEREO, 16_000, index).blocks)), expected)
    with pytest.raises(
        ValueError, match=r"stereo\.wav: expected a channel index below 2, the number of channels, got 2"
    ):
        list(open_audio(path, channels=2).blocks)
    mono = STEREO[:, 0]
    np.testing.assert_array_equal(np.concatenate(list(open_audio(mono, 16_000, 0).blocks)), mono)
    with pytest.raises(ValueError, match="expected a channel index below 1, the number of channels, got 1"):
        list(open_audio(mono, 16_000, 1).blocks)


@pytest.mark.parametrize("channels", [-1, "left", 1.0, True, None])
def test_invalid_channels_raise(channels):
    with pytest.raises(ValueError, match='channels must be "mix" or the index of a channel, got'):
        open_audio(STEREO, 16_000, channels)


def test_channels_that_cancel_each_other_raise_a_warning(tmp_path):
    path = tmp_path / "inverted.wav"
    left = STEREO[:, 0]
    path.write_bytes(encoded("WAV", "FLOAT", np.stack([left, -0.99 * left], axis=1)))
    with pytest.warns(UserWarning, match=r"inverted\.wav: the channels cancel each other in the mean") as caught:
        read(path)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(open_audio(path, channels=0).blocks)
        read(np.stack([left, -0.9 * left], axis=1), 16_000)  # a twentieth remains
        read(np.stack([left, 0 * left], axis=1), 16_000)
        read(np.zeros((100, 2)), 16_000)


# === Arrays ===


@pytest.mark.parametrize(
    ("dtype", "lowest", "middle", "highest"),
    [
        (np.int8, -128, 0, 127),
        (np.uint8, 0, 128, 255),
        (np.int16, -(2**15), 0, 2**15 - 1),
        (np.int32, -(2**31), 0, 2**31 - 1),
    ],
)
def test_pcm_is_scaled_by_its_dtype(dtype, lowest, middle, highest):
    samples, _ = read(np.array([lowest, middle, highest], dtype), 16_000)
    assert samples[:2].tolist() == [-1, 0]
    assert 0.99 < samples[2] <= 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_not_scaled(dtype):
    samples, sample_rate = read(np.array([-1, 0.5, 1.25], dtype), 44_100)
    assert samples.tolist() == [-1, 0.5, 1.25]
    assert sample_rate == 44_100


def test_channels_are_averaged():
    np.testing.assert_allclose(read(STEREO, 16_000)[0], STEREO.mean(axis=1), atol=1e-7)
    pcm = np.array([[2**15 - 1, 2**15 - 1], [100, 300]], np.int16)
    np.testing.assert_allclose(read(pcm, 16_000)[0], [1 - 2**-15, 200 / 2**15])


def test_long_arrays_are_read_in_blocks():
    blocks = list(open_audio(np.tile(STEREO, (7, 1)), 16_000).blocks)
    assert max(map(len, blocks)) <= 65_536
    np.testing.assert_allclose(np.concatenate(blocks), np.tile(STEREO.mean(axis=1), 7), atol=1e-7)


def test_an_empty_array_has_no_samples():
    assert read(np.zeros(0), 16_000)[0].shape == (0,)


def test_peaks_far_above_1_raise_one_warning():
    with pytest.warns(UserWarning, match=r"should be in \[-1, 1\] but reach 3e\+04; is this unscaled") as caught:
        read(np.array([3, -30_000.0]), 16_000)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(np.array([1.5, -2.0]), 16_000)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((2, 16_000)), ValueError, r"expected shape \[samples, channels\], got \(2, 16000\)"),
        (np.zeros((5, 0)), ValueError, r"expected shape \[samples, channels\], got \(5, 0\)"),
        (np.zeros((1, 2, 3)), ValueError, r"expected shape \[samples\] or \[samples, channels\], got \(1, 2, 3\)"),
        (np.array(1.0), ValueError, r"expected shape \[samples\]"),
        (np.array([0.0, np.nan]), ValueError, "sample 1 is nan, not a finite number"),
        (np.array([0.0, -np.inf]), ValueError, "sample 1 is -inf"),
        (np.array([0.0, 1e300]), ValueError, "sample 1 is inf"),
        (np.zeros(3, np.int64), TypeError, "got int64"),
        (np.zeros(3, bool), TypeError, "got bool"),
        (np.zeros(3, complex), TypeError, "got complex128"),
    ],
)
def test_invalid_arrays_raise(array, error, message):
    with pytest.raises(error, match=message):
        read(array, 16_000)


def test_an_array_needs_a_sample_rate():
    with pytest.raises(ValueError, match="an array needs a sample_rate"):
        read(STEREO)
    for sample_rate in (0, -1, 16_000.5, "fast"):
        with pytest.raises(ValueError, match="sample_rate must be a whole number of Hz"):
            read(STEREO, sample_rate)
    with pytest.raises(TypeError, match="got list"):
        open_audio([0.1, 0.2], 16_000)


class AudioDecoder:
    """As newer versions of datasets return it: it has the keys of a dictionary, but is not a mapping."""

    def get_all_samples(self):
        raise AssertionError

    def __getitem__(self, key):
        return {"array": STEREO.T, "sampling_rate": 8_000}[key]


def test_dictionaries_of_hugging_face():
    mono = STEREO[:, 0]
    for array, expected in ((mono, mono), (mono.tolist(), mono), (STEREO.T, STEREO.mean(axis=1))):
        samples, sample_rate = read({"path": "x.wav", "array": array, "sampling_rate": 8_000})
        np.testing.assert_allclose(samples, expected, atol=1e-7)
        assert sample_rate == 8_000
    np.testing.assert_allclose(read(AudioDecoder())[0], STEREO.mean(axis=1), atol=1e-7)
    with pytest.raises(ValueError, match=r"needs the keys \"array\" and \"sampling_rate\", got \['bytes', 'path'\]"):
        read({"bytes": b"", "path": None})
    with pytest.raises(ValueError, match="sample_rate must be None for a dictionary, which has its own, got 8000"):
        read({"array": mono, "sampling_rate": 8_000}, 8_000)


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_blocks_of_bytes_raise_an_error_that_says_how_to_convert_them(convert):
    blocks = mono_blocks([convert(b"1234")], "stream")
    with pytest.raises(TypeError, match=r"stream: got \w+: convert it, such as np\.frombuffer\(block, np\.int16\)"):
        next(blocks)


def test_a_file_with_an_impossible_sample_rate(tmp_path):
    content = bytearray(encoded())
    content[24:28] = (200_000_000).to_bytes(4, "little")
    (tmp_path / "fast.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"fast\.wav: sample_rate must be a whole number of Hz from 1 to 768,000"):
        read(tmp_path / "fast.wav")
