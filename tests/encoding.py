"""Recordings as common programs write them, encoded by FFmpeg through PyAV."""

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


class Pipe(io.BytesIO):
    """A file that cannot seek back to fill in sizes, like a pipe."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError("a pipe")


class _Kept(Pipe):
    """A pipe whose content can be read after it is closed."""

    content = b""

    def write(self, part):
        self.content += bytes(part)
        return len(part)


def encode(samples, sample_rate, codec, container, *, pipe=False, **options) -> bytes:
    """Encodes float samples [n] or [n, channels] in [-1, 1], to a file or to a pipe.

    Further options are those of `_write`.
    """
    if pipe:
        file = _Kept()
        _write(file, samples, sample_rate, codec, container, **options)
        return file.content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recording")
        _write(str(path), samples, sample_rate, codec, container, **options)
        return path.read_bytes()


def _write(
    file,
    samples,
    sample_rate,
    codec,
    container,
    *,
    video=False,
    pictures=10,
    start=0,
    sample_format=None,
    options=None,
    bit_rate=128_000,
):
    """With `video`, the sound follows a few black pictures; it starts at `start` samples."""
    with av.open(file, "w", format=container, options=options or {}) as output:
        shown = output.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p") if video else None
        samples = np.asarray(samples, np.float32).reshape(len(samples), -1)
        layout = {1: "mono", 2: "stereo"}.get(samples.shape[1], f"{samples.shape[1]} channels")
        stream = output.add_stream(codec, rate=sample_rate, layout=layout)
        stream.bit_rate = bit_rate
        if sample_format:
            stream.format = sample_format
        if shown:
            for index in range(pictures):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                picture.pts = index
                output.mux(shown.encode(picture.reformat(format="yuv420p")))
            output.mux(shown.encode())
        for frame in _frames(samples, sample_rate, layout, stream, start):
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _frames(samples, sample_rate, layout, stream, start):
    # 16-bit samples, which every lossless codec keeps exactly.
    pcm = np.round(samples * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout=layout)
    # Given times, an encoder reports how much silence it adds at the start, and containers store it.
    frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), start
    resampler = av.AudioResampler(
        format=stream.format.name, layout=layout, rate=sample_rate, frame_size=stream.codec_context.frame_size or 4_096
    )
    yield from resampler.resample(frame)
    yield from resampler.resample(None)
