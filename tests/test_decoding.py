"""Every recording is read completely, or an error names it: by kind of file and by kind of damage."""

import io
import os
import re
import struct
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from tests.encoding import encode
from vggish_keras.audio import open_audio

RATE = 16_000
SAMPLES = (0.5 * np.random.default_rng(0).uniform(-1, 1, 30_000)).astype(np.float32)
PCM = np.round(SAMPLES * 2**15).astype(np.int16)
EXPECTED = PCM / np.float32(2**15)


def read(content: bytes) -> np.ndarray:
    blocks = list(open_audio(io.BytesIO(content)).blocks)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def plain(format, subtype="PCM_16", endian="FILE", samples=PCM, sample_rate=RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format=format, subtype=subtype, endian=endian)
    return file.getvalue()


def patched(content: bytes, position: int, form: str, value: int) -> bytes:
    return content[:position] + struct.pack(form, value) + content[position + struct.calcsize(form) :]


# === Formats ===

UNREADABLE = {"MPEG_LAYER_III", "DWVW_12", "DWVW_16", "DWVW_24"}
"""Left to FFmpeg, or written by libsndfile but not readable by it."""
# Noise reveals a wrong scale, sign or byte order.
READ_BY_LIBSNDFILE = [
    (format, subtype, endian)
    for format in sorted(soundfile.available_formats().keys() - {"RAW", "OGG", "MP3", "FLAC", "SD2", "SDS", "HTK"})
    for subtype in sorted(soundfile.available_subtypes(format).keys() - UNREADABLE)
    for endian in ("LITTLE", "BIG", "FILE")
    if soundfile.check_format(format, subtype, endian) and not (format == "XI" and endian != "FILE")
]


@pytest.mark.parametrize(("format", "subtype", "endian"), READ_BY_LIBSNDFILE)
def test_plain_samples_equal_libsndfile_exactly(format, subtype, endian):
    try:
        content = plain(format, subtype, endian, SAMPLES)
    except soundfile.LibsndfileError:
        pytest.skip("libsndfile does not write it")
    expected, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    opened = open_audio(io.BytesIO(content))
    assert opened.sample_rate == rate
    np.testing.assert_array_equal(np.concatenate(list(opened.blocks)), expected)


def test_file_that_shrinks_while_it_is_read_raises(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(plain("WAV"))
    blocks = open_audio(path).blocks
    os.truncate(path, 44 + 10_000)
    with pytest.raises(ValueError, match=rf"x\.wav is truncated: it has 10000 of {2 * PCM.size} bytes"):
        list(blocks)


def test_files_may_return_fewer_bytes_than_requested():
    class Slow(io.BytesIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:999])

    blocks = list(open_audio(Slow(plain("WAV"))).blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), EXPECTED)


@pytest.mark.parametrize("format", ["VOC", "NIST", "SVX", "AVR", "MAT4", "MAT5", "WVE", "MPC2K"])
def test_truncated_files_of_rare_formats_raise(format):
    subtype = "ALAW" if format == "WVE" else "PCM_16"
    with pytest.raises(ValueError, match=r"file object is truncated: it has \d+ "):
        read(plain(format, subtype)[:-10_000])


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("flac", "flac", {}),
        ("flac", "flac", {"pipe": True}),
        ("alac", "ipod", {"sample_format": "s16p"}),
        ("wavpack", "wv", {"sample_format": "s16p"}),
        ("tta", "tta", {"sample_format": "s16"}),
        ("pcm_s16le", "wav", {"pipe": True}),
        ("pcm_s16le", "w64", {"pipe": True}),
        ("pcm_s16be", "aiff", {"pipe": True}),
        ("pcm_s16be", "caf", {"pipe": True}),
        ("pcm_s16be", "au", {"pipe": True}),
        ("pcm_s16le", "matroska", {}),
        ("pcm_s16le", "mov", {}),
        ("pcm_s16le", "avi", {}),
    ],
)
def test_lossless_formats_keep_samples_exactly(codec, container, options):
    np.testing.assert_array_equal(read(encode(EXPECTED, RATE, codec, container, **options)), EXPECTED)


def test_flac_of_24_bits_equals_libsndfile_exactly():
    content = plain("FLAC", "PCM_24", samples=SAMPLES)
    np.testing.assert_array_equal(read(content), soundfile.read(io.BytesIO(content), dtype="float32")[0])


@pytest.mark.parametrize("channels", [8, 9, 24])
def test_each_of_many_channels_is_read(channels):
    """FFmpeg stores channels beyond the eighth elsewhere."""
    samples = np.resize(EXPECTED, (3_000, channels))
    content = encode(samples, RATE, "wavpack", "wv", sample_format="s16p")
    for index in (0, channels - 1):
        blocks = list(open_audio(io.BytesIO(content), channels=index).blocks)
        np.testing.assert_array_equal(np.concatenate(blocks), samples[:, index])


LOSSY = [
    ("libmp3lame", "mp3", {}),
    ("libmp3lame", "mp3", {"pipe": True}),
    ("mp2", "mp2", {}),
    ("libopus", "ogg", {}),
    ("libopus", "webm", {}),
    ("libopus", "webm", {"pipe": True}),
    ("aac", "adts", {}),
    ("aac", "mp4", {}),
    ("aac", "ipod", {}),
    ("aac", "3gp", {}),
    ("aac", "mov", {}),
    ("aac", "mp4", {"options": {"movflags": "faststart"}}),
    ("aac", "mp4", {"pipe": True, "options": {"movflags": "frag_keyframe+empty_moov"}}),
    ("aac", "matroska", {}),
    ("aac", "flv", {}),
    ("aac", "mpegts", {}),
    ("wmav2", "asf", {}),
    ("ac3", "ac3", {}),
    ("libopencore_amrnb", "amr", {"bit_rate": 12_200}),
    ("libmp3lame", "wav", {}),
    ("adpcm_ms", "wav", {}),
    ("libmp3lame", "avi", {"video": True}),
    ("aac", "mp4", {"video": True}),
    ("aac", "matroska", {"video": True}),
]
RATES = {"libopus": 48_000, "libopencore_amrnb": 8_000, "ac3": 48_000}


def lossy(codec, container, options, seconds=3.0) -> bytes:
    rate = RATES.get(codec, RATE)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return encode(tone, rate, codec, container, **options)


@pytest.mark.parametrize(("codec", "container", "options"), LOSSY)
def test_lossy_formats_and_videos(codec, container, options):
    content = lossy(codec, container, options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = read(content)
    rate = RATES.get(codec, RATE)
    # Encoders add up to two frames, if the container does not store how much they add.
    assert 2.95 * rate < len(samples) < 3.13 * rate
    middle = samples[rate : 2 * rate]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440
    np.testing.assert_allclose(np.sqrt(np.mean(middle**2)), 0.5 / np.sqrt(2), rtol=0.2)


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize(("codec", "container"), [("pcm_s16le", "matroska"), ("flac", "matroska")])
def test_sound_that_starts_late_is_not_truncated(codec, container, video):
    """The declared length of Matroska is the end."""
    content = encode(EXPECTED, RATE, codec, container, video=video, start=RATE // 2)
    np.testing.assert_array_equal(read(content), EXPECTED)


def test_sound_of_a_longer_video_is_not_truncated():
    """ASF declares the length of the whole."""
    alone = encode(EXPECTED, RATE, "wmav2", "asf", video=True)
    pictures = 25 * (len(EXPECTED) // RATE + 5)
    assert len(read(encode(EXPECTED, RATE, "wmav2", "asf", video=True, pictures=pictures))) == len(read(alone))


@pytest.mark.parametrize(("channels", "sample_rate"), [(2, RATE), (1, 22_050)])
def test_later_streams_of_ogg_that_differ_raise(channels, sample_rate):
    """Each stream is a single page of data."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)
    first = plain("OGG", "VORBIS", samples=tone)
    second = plain("OGG", "VORBIS", samples=np.stack([tone] * channels, axis=1), sample_rate=sample_rate)
    with pytest.raises(ValueError, match="its channels or sample rate change: split it"):
        read(first + second)


def test_the_content_decides_not_the_suffix(tmp_path):
    for name, content in (("mp3.wav", plain("MP3", "MPEG_LAYER_III")), ("wav.mp3", plain("WAV"))):
        (tmp_path / name).write_bytes(content)
        assert sum(map(len, open_audio(tmp_path / name).blocks)) == len(PCM)


def test_the_first_of_several_streams_is_read():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for stream, value in zip(streams, (8_000, -8_000), strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, 1_000), value, np.int16), format="s16", layout="mono")
            frame.sample_rate = RATE
            output.mux(stream.encode(frame))
    np.testing.assert_array_equal(read(file.getvalue()), np.full(1_000, 8_000 / 2**15, np.float32))


def test_a_video_without_sound_raises():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(picture.reformat(format="yuv420p")), *stream.encode()]:
            output.mux(packet)
    with pytest.raises(ValueError, match="file object cannot be read as audio: it has no audio stream"):
        read(file.getvalue())


def test_a_playlist_does_not_open_other_files(tmp_path):
    (tmp_path / "x.wav").write_bytes(plain("WAV"))
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'x.wav'}\n")
    with pytest.raises(ValueError, match="it is not in a known audio format"):
        open_audio(tmp_path / "list.m3u8")


# === Sizes in the headers of plain samples ===

SIZES = {
    "WAV": (plain("WAV"), [(4, "<I"), (40, "<I")]),
    "RIFX": (plain("WAV", endian="BIG"), [(4, ">I"), (40, ">I")]),
    "RF64": (plain("RF64"), [(20, "<Q"), (28, "<Q"), (36, "<Q")]),
    "W64": (plain("W64"), [(16, "<Q"), (plain("W64").index(b"data") + 16, "<Q")]),
    "AIFF": (plain("AIFF"), [(4, ">I"), (22, ">I"), (42, ">I")]),
    "AU": (plain("AU"), [(8, ">I")]),
    "CAF": (plain("CAF"), [(plain("CAF").index(b"data") + 4, ">Q")]),
}


@pytest.mark.parametrize("container", SIZES)
@pytest.mark.parametrize("kind", ["right", "zero", "too small", "placeholder"])
def test_samples_beyond_a_wrong_size_are_read(container, kind):
    content, fields = SIZES[container]
    for position, form in fields:
        (right,) = struct.unpack_from(form, content, position)
        value = {
            "right": right,
            "zero": 0,
            "too small": right // 3,
            "placeholder": 2 ** (8 * struct.calcsize(form)) - 1,
        }
        content = patched(content, position, form, value[kind])
    np.testing.assert_array_equal(read(content), EXPECTED)


@pytest.mark.parametrize("container", SIZES)
def test_truncated_files_raise(container):
    with pytest.raises(ValueError, match=r"file object is truncated: it has \d+ of \d+ bytes"):
        read(SIZES[container][0][:-10_000])


@pytest.mark.parametrize("container", SIZES)
def test_a_few_missing_samples_raise_a_warning(container):
    """Some programs declare more samples than they write."""
    message = r"file object: the header declares \d+ bytes of samples, the file has \d+"
    with pytest.warns(UserWarning, match=message) as caught:
        samples = read(SIZES[container][0][:-16])
    assert caught[0].filename == __file__  # the caller
    np.testing.assert_array_equal(samples, EXPECTED[:-8])


CHUNKS = {
    "WAV": b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0",
    "RIFX": b"LIST" + struct.pack(">I", 12) + b"INFOISFT\0\0\0\0",
    "RF64": b"id3 " + struct.pack("<I", 10) + b"ID3\3\0\0\0\0\0\0",
    "AIFF": b"ANNO" + struct.pack(">I", 4) + b"text",
    "CAF": b"info" + struct.pack(">q", 4) + b"\0\0\0\0",
}


@pytest.mark.parametrize(
    ("container", "rest"),
    [
        *CHUNKS.items(),
        *((container, chunk + b"junk" + chunk[4:]) for container, chunk in CHUNKS.items()),
        *((container, chunk[:-2]) for container, chunk in CHUNKS.items()),  # cut off, but not read as samples
        *((container, b"TAG" + bytes(125)) for container in SIZES),
        *((container, bytes(1_000)) for container in SIZES),
    ],
)
def test_bytes_after_the_samples_are_not_read_as_samples(container, rest):
    np.testing.assert_array_equal(read(SIZES[container][0] + rest), EXPECTED)


@pytest.mark.parametrize("container", [name for name in SIZES if name != "AU"])
def test_concatenated_plain_files_raise(container):
    with pytest.raises(ValueError, match="file object holds several concatenated files: split it"):
        read(2 * SIZES[container][0])


def test_an_au_file_is_read_to_its_end():
    """Its header allows nothing after the samples, so the second header is read as samples as well."""
    assert len(read(2 * SIZES["AU"][0])) > 2 * len(PCM)


def test_a_chunk_larger_than_the_file_ends_the_search():
    """The inner size of this LIST chunk sends libsndfile 1.2.2 into an infinite loop."""
    header = b"RIFF" + struct.pack("<I", 108) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    content = header + b"LIST" + struct.pack("<I", 0x7FFFFFF0) + b"INFOabcd" + struct.pack("<I", 0xFFFFFFF8) + b"x" * 60
    with pytest.raises(ValueError, match="file object cannot be read as audio: it has no 'data' chunk"):
        read(content)


@pytest.mark.parametrize("frame_bytes", [0, 2, 3, 8])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "PCM_24", "FLOAT", "ALAW"])
def test_a_wrong_frame_size_of_a_wav_file_is_ignored(subtype, frame_bytes):
    if (subtype, frame_bytes) == ("PCM_24", 8):
        pytest.skip("24 bits in 32")
    content = plain("WAV", subtype, samples=SAMPLES)
    np.testing.assert_array_equal(read(patched(content, 32, "<H", frame_bytes)), read(content))


def test_a_wav_file_of_24_bits_in_32():
    samples = (PCM.astype(np.int32) << 16) + 256
    content = patched(plain("WAV", "PCM_32", samples=samples), 34, "<H", 24)
    np.testing.assert_array_equal(read(content), samples / np.float32(2**31))


@pytest.mark.parametrize(("subtype", "packet_bytes"), [("PCM_16", 5), ("ALAW", 4), ("ULAW", 3)])
def test_a_wrong_packet_size_of_a_caf_file_raises(subtype, packet_bytes):
    content = plain("CAF", subtype, samples=np.stack([PCM, PCM], axis=1))
    damaged = patched(content, content.index(b"desc") + 12 + 16, ">I", packet_bytes)
    with pytest.raises(ValueError, match=f"file object .*its packets of {packet_bytes} bytes do not fit 2 channels"):
        read(damaged)


@pytest.mark.parametrize("subtype", ["PCM_16", "IMA_ADPCM"])
def test_metadata_does_not_reach_libsndfile(subtype):
    content = plain("WAV", subtype)
    position = content.index(b"data")
    metadata = b"LIST" + struct.pack("<I", 72) + b"INFOabcd" + struct.pack("<I", 0xFFFFFFF8) + b"x" * 60
    np.testing.assert_array_equal(read(content[:position] + metadata + content[position:]), read(content))


@pytest.mark.parametrize(
    "content",
    [
        patched(plain("AIFF"), 28, ">H", 0x7FFF),  # a sample rate of 2^16384
        patched(plain("AIFF"), 20, ">H", 0),  # no channels
        patched(plain("AU"), 20, ">I", 0),
        patched(plain("WAV"), 22, "<H", 0),
        patched(plain("WAV"), 22, "<H", 2_000),
        b"\x1aE\xdf\xa3\3",
        b"\x1aE\xdf\xa3\0\0\0\0\0\0\0\0",
    ],
)
def test_errors_for_impossible_headers_name_the_file(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"^file object") as raised:
            read(content)
    assert type(raised.value).__name__ in ("ValueError", "UnsupportedError")


def test_the_search_for_chunks_is_bounded():
    with pytest.raises(ValueError, match="it has no 'fmt ' chunk"):
        read(b"RIFF\0\0\0\0WAVE" + bytes(1_000_000))


@pytest.mark.slow
def test_a_wav_file_of_more_than_4_gigabytes(tmp_path):
    """As written by FFmpeg, with both sizes 2^32 - 1."""
    path = tmp_path / "long.wav"
    header = bytearray(plain("WAV", samples=PCM[:0]))
    header[4:8] = header[40:44] = b"\xff\xff\xff\xff"
    frames = 2_500_000_000
    with path.open("wb") as file:
        file.write(header)
        file.seek(44 + 2 * (frames - len(PCM)))
        file.write(PCM.tobytes())
    count, last = 0, np.zeros(0)
    for block in open_audio(path).blocks:
        count += len(block)
        last = np.concatenate([last, block])[-len(PCM) :]
    assert count == frames
    np.testing.assert_array_equal(last, EXPECTED)


# === The length of compressed recordings ===


def mp3(**options) -> bytes:
    return lossy("libmp3lame", "mp3", options)


def opus() -> bytes:
    return lossy("libopus", "ogg", {})


def vorbis(seconds=3) -> bytes:
    return plain("OGG", "VORBIS", samples=np.resize(SAMPLES, seconds * RATE))


def flac(**options) -> bytes:
    return encode(EXPECTED, RATE, "flac", "flac", **options)


def ogg_pages(content: bytes) -> list[bytes]:
    starts = [i for i in range(len(content)) if content.startswith(b"OggS", i)]
    return [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]


SECONDS = {"mp3": 3.0, "opus": 3.0, "vorbis": 3.0, "flac": len(PCM) / RATE}
MAKERS = {"mp3": mp3, "opus": opus, "vorbis": vorbis, "flac": flac}


@pytest.mark.parametrize("kind", ["whole", "junk after the end", "twice"])
@pytest.mark.parametrize("format", MAKERS)
def test_streams_are_read_to_their_end(format, kind):
    content = MAKERS[format]()
    content = {"whole": content, "junk after the end": content + b"<html>" * 90, "twice": 2 * content}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about MP3, which does not mark its end: skipped bytes are tested below
        opened = open_audio(io.BytesIO(content))
        seconds = sum(map(len, opened.blocks)) / opened.sample_rate
    assert seconds == pytest.approx(SECONDS[format] * (2 if kind == "twice" else 1), abs=0.15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mp3()[:-10_000], r"is truncated: it has \d+ of 86 packets"),
        (opus()[:-10_000], r"is truncated: its last page, at byte \d+, is cut off"),
        (vorbis()[:-2_000], r"is truncated: its last page, at byte \d+, is cut off"),
        (
            b"".join(page for index, page in enumerate(ogg_pages(opus())) if index != 3),
            r"is damaged: page 3 is missing at byte \d+",
        ),
        (flac()[:-3_000], "is damaged after|is truncated: it has"),
        (lossy("wmav2", "asf", {})[:-20_000], r"is truncated: it has \d+ of \d+ bytes"),
        (lossy("aac", "mp4", {})[:-9_000], r"is truncated: it has \d+ of \d+ bytes"),
        (
            lossy("aac", "mp4", {"options": {"movflags": "faststart"}})[:-9_000],
            r"is truncated: it has \d+ of \d+ bytes",
        ),
        (lossy("libopus", "webm", {})[:-9_000], r"is truncated: it has \d+ of \d+ bytes"),
        (lossy("libmp3lame", "avi", {"video": True})[:-9_000], r"is truncated: it has \d+ of \d+ bytes"),
        (lossy("libmp3lame", "wav", {})[:-9_000], r"is truncated: it has \d+ of \d+ bytes"),
        (lossy("aac", "adts", {})[:-100], r"is damaged after \d+ samples"),
        (encode(EXPECTED, RATE, "tta", "tta", sample_format="s16")[:-5_000], "is damaged after|is truncated"),
        (encode(EXPECTED, RATE, "wavpack", "wv", sample_format="s16p")[:-5_000], "is damaged after|is truncated"),
        (2 * lossy("aac", "mp4", {}), "holds several concatenated files: split it"),
        (2 * lossy("wmav2", "asf", {}), "holds several concatenated files: split it"),
        (2 * lossy("aac", "flv", {}), "holds several concatenated files: split it"),
        (2 * encode(EXPECTED, RATE, "tta", "tta", sample_format="s16"), "holds several concatenated files: split it"),
        (mp3()[:100], "cannot be read as audio: it is not in a known audio format, or its header is damaged"),
        (flac()[:60], "holds no samples|cannot be read as audio"),
        (mp3() + encode(EXPECTED, 22_050, "libmp3lame", "mp3"), "changes its sample rate"),
    ],
)
def test_errors_name_what_is_missing(content, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=f"^file object {message}"):
            read(content)


def overwritten(content: bytes, size: int = 2_000) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(size) + content[middle + size :]


HOLED = {
    "MP3": mp3(),
    "MP3 without a frame count": mp3(pipe=True),
    "Opus": opus(),
    "Vorbis": vorbis(),
    "FLAC": flac(),
    "FLAC of unknown length": flac(pipe=True),
    "ADTS": lossy("aac", "adts", {}),
    "MP4": lossy("aac", "mp4", {}),
    "WebM": lossy("libopus", "webm", {}),
    "Matroska": lossy("aac", "matroska", {}),
    "WMA": lossy("wmav2", "asf", {}),
    "WavPack": encode(EXPECTED, RATE, "wavpack", "wv", sample_format="s16p"),
}


@pytest.mark.parametrize("format", HOLED)
def test_a_hole_in_the_middle_is_an_error_or_a_warning(format):
    """A recording is never silently shortened."""
    content = HOLED[format]
    middle = len(content) // 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read(content[:middle] + bytes(2_000) + content[middle + 2_000 :])
            messages = [str(warning.message) for warning in caught]
        except ValueError as error:
            messages = [str(error)]
    assert any(re.match("file object( is damaged| is truncated|: skipped)", message) for message in messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mp3() + b"<html>" * 90, "file object: skipped 540 bytes that are not audio"),
        (
            b"".join(ogg_pages(opus())[:-1]),
            "file object: the last page is not marked as the last: the end may be missing",
        ),
    ],
)
def test_possibly_missing_samples_raise_a_warning(content, message):
    with pytest.warns(UserWarning, match=message):
        assert len(read(content)) > RATE


def test_tags_at_both_ends_of_an_mp3_are_ignored():
    tag = b"ID3\4\0\0\0\0\2\0" + bytes(256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(tag + mp3() + b"TAG" + bytes(125)), read(mp3()))


def test_a_frame_count_that_is_one_too_high_raises_a_warning():
    """Some encoders count their own header as a frame."""
    content = mp3()
    position = content.index(b"Info" if b"Info" in content else b"Xing") + 8
    (frames,) = struct.unpack_from(">I", content, position)
    with pytest.warns(
        UserWarning, match=f"is shorter than its header declares: it has {frames} of {frames + 1} packets"
    ):
        assert len(read(patched(content, position, ">I", frames + 1))) > 2.9 * RATE
    with pytest.raises(ValueError, match=f"truncated: it has {frames} of {frames + 9} packets"):
        read(patched(content, position, ">I", frames + 9))


# === Rates and names ===


@pytest.mark.parametrize("rate", [1, 99])
def test_files_with_very_low_rates_raise(rate):
    with pytest.raises(
        ValueError, match=f"declares a sample rate of {rate} Hz, below 100; .* pass the samples as an array"
    ):
        read(patched(plain("WAV"), 24, "<I", rate))
    assert sum(map(len, open_audio(EXPECTED, rate).blocks)) == len(EXPECTED)


def test_errors_name_the_file_and_decoders_print_nothing(tmp_path, capfd):
    for name, content in (
        ("a.mp3", mp3()[:-10_000]),
        ("b.m4a", lossy("aac", "mp4", {})[:5_000]),
        ("c.mp3", b"\xff\xfb" * 99),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            list(open_audio(tmp_path / name).blocks)
    assert capfd.readouterr() == ("", "")


# === Published recordings that other decoders read only in part ===


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "seconds"),
    [("vbr_no_header.mp3", 40.072), ("unknown_length.flac", 6.0), ("chained.ogg", 10.01), ("clip.m4a", 6.02)],
)
def test_odd_recordings_are_read_completely(reference: Path, name, seconds):
    opened = open_audio(reference / "odd_recordings" / name)
    assert sum(map(len, opened.blocks)) / opened.sample_rate == pytest.approx(seconds, abs=0.01)


@pytest.mark.reference
def test_the_endless_list_raises(reference: Path):
    with pytest.raises(ValueError, match=r"endless_list\.wav cannot be read as audio"):
        open_audio(reference / "odd_recordings" / "endless_list.wav")
