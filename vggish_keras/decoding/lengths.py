"""The length that a compressed recording declares, to compare with what was decoded.

| format | declaration of the length |
|---|---|
| FLAC, WavPack, TTA, Monkey's Audio | number of samples in the header, unless written to a pipe |
| MP3 with a Xing, Info or VBRI header | number of frames |
| MP4, M4A, MOV, 3GP | duration, sizes of the boxes; in a fragmented file, of the existing fragments |
| WebM, Matroska | duration, size of the segment, unless written to a pipe |
| WMA, ASF | duration, size of the data |
| Ogg | granule positions, mark of the last page |
| AVI | duration, size of the file |
| MP3 without such a header, ADTS (.aac), AC-3, AMR, MPEG | none: a cut between two packets goes unnoticed |
"""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, NamedTuple

from vggish_keras._errors import warn_caller
from vggish_keras.decoding.headers import MAX_MISSING_FRAMES, is_placeholder

_TOLERATED_SECONDS = 0.1
_TOLERATED_FRAMES = 2
"""Durations in containers are rounded, and often include the silence that encoders add and decoders remove."""
_EXACT_FORMATS = frozenset(["flac", "wv", "tta", "ape"])


class Length:
    """The decoded length of a recording."""

    def __init__(self) -> None:
        self.packets = self.samples = 0
        self.seconds = self.longest_frame = 0.0

    def add(self, samples: int, sample_rate: int) -> None:
        """Counts a decoded frame."""
        self.samples += samples
        self.seconds += samples / sample_rate
        self.longest_frame = max(self.longest_frame, samples / sample_rate)


class Declared(NamedTuple):
    """The declared length of a recording.

    Attributes:
        unit: "packets", "samples" or "seconds".
        amount: The declared length.
        tolerated: How much may be missing.
    """

    unit: Literal["packets", "samples", "seconds"]
    amount: float
    tolerated: float

    def missing(self, length: Length) -> bool:
        """Whether more is missing than is tolerated."""
        tolerated = self.tolerated + (_TOLERATED_FRAMES * length.longest_frame if self.unit == "seconds" else 0)
        return self.amount - float(getattr(length, self.unit)) > tolerated

    def check(self, length: Length, name: str) -> None:
        """Raises ValueError if more is missing than is tolerated, and warns if less is missing."""
        present = getattr(length, self.unit)
        described = f"{present:.10g} of {self.amount:.10g} {self.unit}"
        if self.missing(length):
            raise ValueError(f"{name} is truncated: it has {described}")
        if present < self.amount and self.unit != "seconds":
            warn_caller(f"{name} is shorter than its header declares: it has {described}")


def declared_length(file: BinaryIO, name: str, container: Any, stream: Any) -> Declared | None:
    """The length that a file opened by FFmpeg declares.

    Args:
        file: The file.
        name: The file's name in messages.
        container: PyAV's container.
        stream: Its audio stream.

    Returns:
        The length, or None if the format or the file does not declare it.

    Raises:
        ValueError: A page of an Ogg file is missing or cut off.
    """
    kind = container.format.name.split(",")[0]
    if kind in _EXACT_FORMATS and stream.duration:
        return Declared("samples", float(stream.duration * stream.time_base * stream.rate), MAX_MISSING_FRAMES)
    if kind == "mp3":
        frames = _mp3_frames(file)
        return Declared("packets", frames, 1) if frames else None  # some encoders count their own header
    if kind == "ogg":
        seconds = _ogg_seconds(_ogg_streams(file, name), float((stream.start_time or 0) * stream.time_base))
        return Declared("seconds", seconds, _TOLERATED_SECONDS) if seconds else None
    seconds = 0.0
    is_alone = len(container.streams) == 1  # ASF declares the length of the video
    if (kind in ("avi", "caf", "mov") or (kind == "asf" and is_alone)) and stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif kind in ("matroska", "flv"):
        seconds = _tagged_seconds(stream.metadata.get("DURATION", ""))
        if not seconds and is_alone:
            seconds = (container.duration or 0) / 1_000_000
        if kind == "matroska":  # where it is the end, and the sound may start late
            seconds -= max(0.0, float((stream.start_time or 0) * stream.time_base))
    return Declared("seconds", seconds, _TOLERATED_SECONDS) if seconds > 0 else None


def _tagged_seconds(tag: str) -> float:
    """Seconds in a Matroska tag such as 00:00:10.008000000."""
    try:
        hours, minutes, seconds = map(float, tag.split(":"))
    except ValueError:
        return 0.0
    return 3_600 * hours + 60 * minutes + seconds


# === MP3 ===


def _mp3_frames(file: BinaryIO) -> int:
    """The number of frames in a Xing, Info or VBRI header, or 0."""
    file.seek(0)
    start = 0
    tag = file.read(10)
    while tag[:3] == b"ID3" and len(tag) == 10:
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
        file.seek(start)
        tag = file.read(10)
    file.seek(start)
    frame = file.read(4_096)
    for magic, flags, frames in ((b"Xing", 4, 8), (b"Info", 4, 8), (b"VBRI", None, 14)):
        position = frame.find(magic, 0, 200)
        if position >= 0 and len(frame) >= position + frames + 4:
            if flags is not None and not frame[position + flags + 3] & 1:
                return 0
            return int(struct.unpack_from(">I", frame, position + frames)[0])
    return 0


# === Ogg ===

_AUDIO_HEADERS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_FIRST_PAGE, _LAST_PAGE = 2, 4


class _OggStream:
    """A logical stream, as its pages describe it."""

    def __init__(self, serial: int, packet: bytes) -> None:
        self.serial = serial
        self.rate, self.delay = _ogg_rate(packet)
        self.sequence = -1
        self.first = self.last = 0
        self.has_end = False


def _ogg_rate(packet: bytes) -> tuple[int, int]:
    """Granules per second of the stream that starts with this packet, and the number of granules before its sound."""
    if packet.startswith(b"OpusHead"):
        return 48_000, int.from_bytes(packet[10:12], "little")
    if packet.startswith(b"\x7fFLAC"):
        return int.from_bytes(packet[27:30], "big") >> 4, 0
    offset = 36 if packet.startswith(b"Speex") else 12
    return int.from_bytes(packet[offset : offset + 4], "little"), 0


def _ogg_streams(file: BinaryIO, name: str) -> list[_OggStream]:
    """The successive sound streams that make up the first audio stream of an Ogg file."""
    links: list[_OggStream] = []
    for flags, granule, serial, sequence, position, packet in _ogg_pages(file, name):
        current = links[-1] if links else None
        if flags & _FIRST_PAGE:
            # Parallel streams start together, before the first page of data.
            parallel = current is not None and current.sequence <= 0 and not current.has_end
            if not parallel and packet.startswith(_AUDIO_HEADERS):
                links.append(_OggStream(serial, packet))
                current = links[-1]
        if current is None or serial != current.serial:
            continue
        if current.sequence >= 0 and sequence != current.sequence + 1:
            raise ValueError(f"{name} is damaged: page {current.sequence + 1} is missing at byte {position}")
        current.sequence = sequence
        if 0 < granule < 2**63:
            current.first = current.first or granule
            current.last = granule
        current.has_end = bool(flags & _LAST_PAGE)
    if links and not links[-1].has_end:
        warn_caller(f"{name}: the last page is not marked as the last: the end may be missing")
    return links


def _ogg_pages(file: BinaryIO, name: str) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """Flags, granule position, serial and sequence number, position and first bytes of each page."""
    length = file.seek(0, 2)
    position = 0
    while position < length:
        file.seek(position)
        header = file.read(27)
        if header[:4] != b"OggS":
            following = _next_page(file, position)
            if following is None:
                return  # bytes after the end
            position = following
            continue
        table = file.read(header[26]) if len(header) == 27 else b""
        body = position + 27 + len(table)
        if len(header) < 27 or len(table) < header[26] or body + sum(table) > length:
            raise ValueError(f"{name} is truncated: its last page, at byte {position}, is cut off")
        _, flags, granule, serial, sequence = struct.unpack_from("<BBQII", header, 4)
        packet = file.read(48) if flags & _FIRST_PAGE else b""
        yield flags, granule, serial, sequence, position, packet
        position = body + sum(table)


def _next_page(file: BinaryIO, position: int) -> int | None:
    overlap = b""
    size = 256  # doubled below: small gaps are frequent, and large ones should also be searched quickly
    file.seek(position)
    while block := file.read(size):
        found = (overlap + block).find(b"OggS")
        if found >= 0:
            return position - len(overlap) + found
        position += len(block)
        overlap = block[-3:]
        size = min(2 * size, 1 << 20)
    return None


def _ogg_seconds(streams: list[_OggStream], start: float) -> float:
    """Seconds that the granule positions declare; for streams after the first, without their first page."""
    seconds = 0.0
    for index, stream in enumerate(streams):
        if stream.rate:
            begin = start + stream.delay / stream.rate if index == 0 else max(stream.first, stream.delay) / stream.rate
            seconds += max(0.0, stream.last / stream.rate - begin)
    return seconds


# === Containers of chunks ===


def check_extents(file: BinaryIO, name: str) -> None:
    """Compares the sizes of a container's outermost parts with the file's size.

    Args:
        file: A seekable file.
        name: The file's name in messages.

    Raises:
        ValueError: The file ends before a part does, or a second file follows.
    """
    file.seek(0)
    magic = file.read(16)
    if magic[4:8] in _MP4_BOXES:
        _check_parts(file, name, _mp4_boxes(file), unique=b"moov")
    elif magic == _ASF_HEADER:
        _check_parts(file, name, _asf_objects(file), unique=_ASF_HEADER)
    elif magic[:4] == b"\x1aE\xdf\xa3":
        _check_parts(file, name, _matroska_elements(file))
    elif magic[:4] == b"RIFF" and magic[8:12] == b"AVI ":
        (size,) = struct.unpack_from("<I", magic, 4)
        _check_parts(file, name, iter([(b"RIFF", 0, 0 if is_placeholder(size) else size + 8)]))


def _check_parts(
    file: BinaryIO, name: str, parts: Iterator[tuple[bytes, int, int]], unique: bytes | None = None
) -> None:
    """Checks parts of (kind, position, size); a part of the unique kind must not occur twice."""
    length = file.seek(0, 2)
    seen = False
    for kind, position, size in parts:
        if position + size > length:
            raise ValueError(f"{name} is truncated: it has {length} of {position + size} bytes")
        if kind == unique:
            if seen:
                raise ValueError(f"{name} holds several concatenated files: split it")
            seen = True


_MP4_BOXES = frozenset(b"ftyp styp moov mdat moof mfra sidx ssix free skip wide uuid meta udta pdin emsg prft".split())


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    length, position = file.seek(0, 2), 0
    while position < length:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return
        size, kind = struct.unpack_from(">I4s", header)
        if kind not in _MP4_BOXES:
            return  # bytes after the end
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack_from(">Q", header, 8)
        if size < 8:  # 0: to the end of the file
            return
        yield kind, position, size
        position += size


_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _asf_objects(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    length, position = file.seek(0, 2), 0
    while position < length:
        file.seek(position)
        header = file.read(24)
        if len(header) < 24 or header[:16] not in (_ASF_HEADER, _ASF_DATA):
            return  # an index, which is not required, or bytes after the end
        (size,) = struct.unpack_from("<Q", header, 16)
        if size < 24:  # unknown, as in broadcasts
            return
        yield header[:16], position, size
        position += size


def _matroska_elements(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    length, position = file.seek(0, 2), 0
    for _ in range(2):  # the header and the segment
        file.seek(min(position, length))
        header = file.read(12)
        width = 9 - header[4].bit_length() if len(header) > 4 else 9
        if len(header) < 4 + width:
            return
        size = int.from_bytes(header[4 : 4 + width], "big") - (1 << 7 * width)
        if size == (1 << 7 * width) - 1:  # unknown
            return
        yield header[:4], position, 4 + width + size
        position += 4 + width + size
