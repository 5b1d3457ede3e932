"""Compressed audio and containers, including video files, read by FFmpeg's libraries through PyAV."""

import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vggish_keras._errors import counted, warn_caller
from vggish_keras.decoding import lengths
from vggish_keras.decoding.plain import BLOCK_FRAMES, UnsupportedError
from vggish_keras.decoding.section import Section

# All formats that hold sound, but none that opens further files, such as playlists.
_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,"
    "tak,tta,w64,wav,wv"
)
_MAX_PLANES = 7
"""PyAV 17 reads beyond the end of a planar frame with more channels."""
_LOSSLESS = frozenset(["flac", "wavpack", "tta", "ape", "tak"])
"""Codecs whose packets carry a checksum that FFmpeg ignores by default."""
_STOPS_AFTER_FIRST_FILE = frozenset(["ape", "flv", "mpc", "mpc8", "tak", "tta", "wv"])
"""Formats in which FFmpeg stops at the end of the first of several concatenated files."""
_SYNC_WORDS = {"mp3": 0xFFE0, "aac": 0xFFF0, "ac3": 0x0B77, "eac3": 0x0B77}
"""The bits that start each packet, for formats that consist only of packets."""


def open_compressed(file: BinaryIO, name: str) -> tuple[int, Iterator[NDArray[Any]]]:
    """Opens a file that FFmpeg reads, at its first audio stream.

    Args:
        file: The file, seekable.
        name: The file's name in messages.

    Returns:
        The sample rate in Hz, and blocks [frames, channels] of float32, float64, int16, int32 or uint8.

    Raises:
        UnsupportedError: FFmpeg does not know the format or the codec.
        ValueError: The file is not audio, or it is damaged. While reading: it is damaged, ends before its header says,
            changes its sample rate, or holds no samples. See `lengths` for formats that do not declare a length.
    """
    import av

    lengths.check_extents(file, name)
    try:
        container = av.open(Section(file), options={"format_whitelist": _FORMATS}, metadata_errors="replace")
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        raise _unknown(name) from error
    try:
        if not container.streams.audio:
            raise ValueError(f"{name} cannot be read as audio: it has no audio stream")
        frames = iter(_Frames(container, file, name))
        first = next(frames)
    except BaseException:
        container.close()
        raise
    # The decoded stream, for example HE-AAC, may have a sample rate other than the one in the header.
    return first.sample_rate, _blocks(container, itertools.chain([first], frames), name)


def _unknown(name: str) -> UnsupportedError:
    reason = "it is not in a known audio format, or its header is damaged"
    return UnsupportedError(f"{name} cannot be read as audio: {reason}")


def _blocks(container: Any, frames: Iterator[Any], name: str) -> Iterator[NDArray[Any]]:
    """Joins frames into blocks large enough for fast processing."""
    with container:
        waiting: list[NDArray[Any]] = []
        count = 0
        sample_rate = None
        for frame in frames:
            sample_rate = sample_rate or frame.sample_rate
            if frame.sample_rate != sample_rate:
                raise ValueError(
                    f"{name} changes its sample rate from {sample_rate} to {frame.sample_rate} Hz: split the file"
                )
            samples = _as_array(frame, name)
            channels = samples.shape[1]
            if waiting and waiting[0].shape[1] != channels:
                yield np.concatenate(waiting)
                waiting, count = [], 0
            waiting.append(samples)
            count += len(samples)
            if count >= BLOCK_FRAMES:
                yield np.concatenate(waiting)
                waiting, count = [], 0
        if waiting:
            yield np.concatenate(waiting)


def _as_array(frame: Any, name: str) -> NDArray[Any]:
    """The samples of a frame, [frames, channels]."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels <= _MAX_PLANES:
        return np.asarray(frame.to_ndarray()).T
    interleaved = _interleaved(frame, name) if frame.format.is_planar else frame
    return np.asarray(interleaved.to_ndarray()).reshape(-1, channels)


def _interleaved(frame: Any, name: str) -> Any:
    import av

    try:
        (joined,) = av.AudioResampler(frame.format.packed.name, frame.layout, frame.sample_rate).resample(frame)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as audio: it has {frame.layout.nb_channels} channels") from error
    return joined


class _Frames:
    """The decoded frames of a file. At the end, its length is compared with the length that its header declares."""

    def __init__(self, container: Any, file: BinaryIO, name: str) -> None:
        self._container, self._file, self._name = container, file, name
        self._stream = container.streams.audio[0]
        self._format = container.format.name.split(",")[0]
        self._length = lengths.Length()
        self._declared = lengths.declared_length(file, name, container, self._stream)
        self._skipped = self._end = 0
        self._next_pts: int | None = None

    def __iter__(self) -> Iterator[Any]:
        import av

        if self._stream.codec_context is None:
            raise UnsupportedError(f"{self._name} cannot be read as audio: its codec is unknown")
        if self._stream.codec_context.name in _LOSSLESS:
            self._stream.codec_context.options = {"err_detect": "crccheck+explode"}
        demuxed = self._container.demux(self._stream)
        while True:
            try:
                packet = next(demuxed, None)
            # In a damaged file a stream may appear that PyAV does not know.
            except (av.FFmpegError, IndexError) as error:
                if isinstance(error, av.error.PatchWelcomeError):
                    raise self._damaged(ValueError("its channels or sample rate change: split it")) from error
                if not self._declared or self._declared.missing(self._length):
                    raise self._damaged(error) from error
                warn_caller(f"{self._name}: the bytes after its declared end are not audio")
                break
            if packet is None:
                break
            yield from self._decode(packet)
        self._check()

    def _decode(self, packet: Any) -> Iterator[Any]:
        import av

        self._note_position(packet)
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if self._starts_as_audio(packet):
                raise self._damaged(error) from error
            self._skipped += packet.size
            return
        self._length.packets += packet.size > 0
        for frame in frames:
            self._check_order(frame)
            self._length.add(frame.samples, frame.sample_rate)
            yield frame

    def _starts_as_audio(self, packet: Any) -> bool:
        """False for bytes between packets, such as tags, which FFmpeg returns as packets if there is no container."""
        sync = _SYNC_WORDS.get(self._format)
        return sync is None or not packet.size or int.from_bytes(bytes(packet)[:2], "big") & sync == sync

    def _note_position(self, packet: Any) -> None:
        """Counts skipped bytes, for formats whose packets follow each other without gaps."""
        if packet.size and packet.pos is not None:
            if self._format in _SYNC_WORDS and 0 < self._end < packet.pos:
                self._skipped += packet.pos - self._end
            self._end = packet.pos + packet.size

    def _check_order(self, frame: Any) -> None:
        """Finds missing frames by their numbers in FLAC, where FFmpeg silently skips frames it does not recognize."""
        if self._format == "flac" and frame.pts is not None:
            if self._next_pts is not None and frame.pts > self._next_pts:
                raise self._damaged(ValueError(f"it lacks {counted(frame.pts - self._next_pts, 'sample')}"))
            self._next_pts = frame.pts + frame.samples

    def _damaged(self, error: Exception) -> ValueError:
        reason = str(getattr(error, "strerror", None) or error)
        return ValueError(f"{self._name} is damaged after {counted(self._length.samples, 'sample')}: {reason}")

    def _check(self) -> None:
        if self._declared:
            self._declared.check(self._length, self._name)
        if not self._length.samples:
            # FFmpeg only guesses formats that have no header.
            raise _unknown(self._name) if self._format in _SYNC_WORDS else ValueError(f"{self._name} holds no samples")
        if self._format in _STOPS_AFTER_FIRST_FILE and self._is_repeated():
            raise ValueError(f"{self._name} holds several concatenated files: split it")
        if self._skipped:
            warn_caller(f"{self._name}: skipped {counted(self._skipped, 'byte')} that are not audio")

    def _is_repeated(self) -> bool:
        self._file.seek(0)
        magic = self._file.read(4)
        self._file.seek(self._end)
        return magic in self._file.read(1_024)
