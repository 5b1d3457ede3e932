"""The position and encoding of samples in containers of plain samples: WAV, W64, AIFF, AU, CAF.

The headers are not left to libsndfile, which trusts wrong sizes and loops forever on some malformed chunks.
"""

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from vggish_keras._errors import counted, warn_caller

_MAX_CHUNKS = 10_000
MAX_MISSING_FRAMES = 16
"""Some programs count a header as samples."""
MAX_PADDING_BYTES = 4_096
_MAX_KEPT_CHUNK_BYTES = 4_096
TRAILERS = frozenset(
    b"LIST,id3 ,ID3 ,bext,iXML,_PMX,JUNK,PAD ,FLLR,cue ,smpl,PEAK,fact,afsp,MARK,INST,APPL,NAME,AUTH,ANNO,COMT,(c) "
    b",info,uuid,free".split(b",")
)
"""Chunks that often follow the samples in WAV, AIFF and CAF files; the last chunk may be cut off."""
ID3V1_BYTES = 128

# W64 has GUIDs that start with the names of WAV's chunks; this is the GUID of "riff".
_W64_MAGIC = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_WAV_MAGICS = (b"RIFF", b"RIFX", b"RF64", b"BW64")


class Header(NamedTuple):
    """The header of a container of plain samples.

    Attributes:
        sample_rate: Hz.
        channels: Samples per frame.
        encoding: libsndfile's name for the encoding of a sample, such as "PCM_16"; None for encodings not read here.
        big_endian: Whether the most significant byte of a sample comes first.
        frame_bytes: Bytes per frame; 1 if `encoding` is None and frames have no fixed size.
        start: Position of the first sample in the file.
        size: Bytes of samples.
        is_mpeg: Whether the samples are MPEG audio.
        minimal_header: For WAV files, a header without optional chunks, for decoders that read it again.
    """

    sample_rate: int
    channels: int
    encoding: str | None
    big_endian: bool
    frame_bytes: int
    start: int
    size: int
    is_mpeg: bool = False
    minimal_header: bytes = b""


def read_header(file: BinaryIO, name: str) -> Header | None:
    """Reads the header of a container of plain samples and compares its sizes with the file.

    A size is replaced if it is too small, zero or the placeholder of a program that wrote to a pipe: the samples then
    extend to the end of the file. A size is trusted if the samples are followed by chunks up to the end of the file, by
    an ID3 tag, or by less than 4 kB of zeros.

    Args:
        file: A seekable file.
        name: The file's name in messages.

    Returns:
        The header; None for other kinds of files.

    Raises:
        ValueError: The header is damaged, the file ends before its header says, or a second file follows in it.
    """
    file.seek(0)
    magic = file.read(16)
    try:
        if magic[:4] in _WAV_MAGICS and magic[8:12] == b"WAVE":
            return _read_wav(file, name, magic[:4])
        if magic == _W64_MAGIC:
            return _read_w64(file, name)
        if magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC"):
            return _read_aiff(file, name)
        if magic[:4] in (b".snd", b"dns."):
            return _read_au(file, name, magic[:4])
        if magic[:4] == b"caff":
            return _read_caf(file, name)
    except struct.error as error:
        raise ValueError(f"{name} cannot be read as audio: its header is cut off") from error
    return None


# === Chunks ===


class _Layout(NamedTuple):
    """The layout of chunks: the start of the first, the struct of a name and a size, and what sizes include."""

    start: int
    header: str
    alignment: int = 2
    size_counts_header: bool = False


class _Chunk(NamedTuple):
    name: bytes
    start: int
    size: int


def _chunks(file: BinaryIO, layout: _Layout) -> Iterator[_Chunk]:
    header = struct.Struct(layout.header)
    length, position = file.seek(0, 2), layout.start
    for _ in range(_MAX_CHUNKS):
        if position >= length:
            return
        file.seek(position)
        content = file.read(header.size)
        if len(content) < header.size:
            return
        name, size = header.unpack(content)
        if layout.size_counts_header:
            size -= header.size
        yield _Chunk(name, position + header.size, size)
        if size < 0:
            return
        position += header.size + size + -size % layout.alignment


def _find_chunks(file: BinaryIO, name: str, layout: _Layout, wanted: dict[bytes, str]) -> dict[str, _Chunk]:
    """Finds the first chunk of each wanted name, up to the samples, and returns them by their keys in `wanted`."""
    found: dict[str, _Chunk] = {}
    for chunk in _chunks(file, layout):
        key = wanted.get(chunk.name)
        if key is not None:
            found.setdefault(key, chunk)
        if found.keys() >= {"format", "samples"}:
            break
    for key in ("format", "samples"):
        if key not in found:
            names = " or ".join(repr(chunk[:4].decode()) for chunk, called in wanted.items() if called == key)
            raise ValueError(f"{name} cannot be read as audio: it has no {names} chunk")
    return found


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


# === Sizes ===


def is_placeholder(size: int) -> bool:
    """Whether a size means "unknown": programs that write to a pipe use values near 2^31, 2^32 or 2^63."""
    return size < 0 or 2**31 - 4096 <= size <= 2**31 or 2**32 - 4096 <= size <= 2**32 or size >= 2**63 - 4096


def _resolve_size(
    file: BinaryIO, name: str, start: int, declared: int, frame_bytes: int, layout: _Layout | None
) -> int:
    """The actual number of bytes of samples, whatever the header declares; see `read_header`."""
    length = file.seek(0, 2)
    present = max(0, length - start)
    if declared < 0 or (is_placeholder(declared) and declared > present):
        return present
    if declared > present:
        if declared - present > MAX_MISSING_FRAMES * frame_bytes or not present:
            raise ValueError(f"{name} is truncated: it has {present} of {counted(declared, 'byte')}")
        warn_caller(f"{name}: the header declares {counted(declared, 'byte')} of samples, the file has {present}")
        return present
    return declared if _ends_at(file, name, start, declared, length, layout) else present


def _ends_at(file: BinaryIO, name: str, start: int, size: int, length: int, layout: _Layout | None) -> bool:
    """Whether the declared size is right: the bytes after it are not samples."""
    end = start + size
    if layout is None:
        return size > 0 and _is_padding(file, end, length)
    padding = (end - layout.start) % layout.alignment
    # Some programs omit the padding byte.
    return any(_is_trailer(file, name, first, size, length, layout) for first in {end + padding, end})


def _is_trailer(file: BinaryIO, name: str, first: int, size: int, length: int, layout: _Layout) -> bool:
    """Whether a chain of chunks leads from `first` to the end of the file; at least one chunk if `size` is 0."""
    position = first
    for chunk in _chunks(file, layout._replace(start=first)):
        label = chunk.name[:4]
        if label in (*_WAV_MAGICS, b"FORM", b"caff", b"riff"):
            raise ValueError(f"{name} holds several concatenated files: split it")
        if not all(32 <= byte < 127 for byte in label):
            break
        position = chunk.start + chunk.size
        if chunk.size < 0 or position > length:
            return label in TRAILERS
    return _is_padding(file, position, length, struct.calcsize(layout.header)) and (size > 0 or position > first)


def _is_padding(file: BinaryIO, position: int, length: int, header_bytes: int = 1) -> bool:
    """Whether only zeros, an ID3 tag or less than a chunk's header follow, or nothing."""
    rest = _read_at(file, position, MAX_PADDING_BYTES)
    is_zero = length - position < MAX_PADDING_BYTES and not rest.strip(b"\0")
    return length - position < header_bytes or is_zero or (rest[:3] == b"TAG" and length - position == ID3V1_BYTES)


# === WAV and W64 ===

_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_MPEG = (0x50, 0x55)
_FLOATS = {4: "FLOAT", 8: "DOUBLE"}
_INTEGERS = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}


def _read_wav(file: BinaryIO, name: str, magic: bytes) -> Header:
    big_endian = magic == b"RIFX"
    layout = _Layout(12, ">4sI" if big_endian else "<4sI")
    wanted = {b"fmt ": "format", b"data": "samples", b"ds64": "sizes", b"fact": "count"}
    chunks = _find_chunks(file, name, layout, wanted)
    declared = chunks["samples"].size
    if "sizes" in chunks and is_placeholder(declared):
        declared = struct.unpack("<8xQ", _read_at(file, chunks["sizes"].start, 16))[0]
    header = _wave_header(file, name, layout, chunks, declared, big_endian)
    return header._replace(minimal_header=_minimal_header(file, chunks, header.size, big_endian))


def _minimal_header(file: BinaryIO, chunks: dict[str, _Chunk], size: int, big_endian: bool) -> bytes:
    """A WAV header with only the required chunks, up to the samples; sizes too large for WAV are reduced."""
    number = struct.Struct(">I" if big_endian else "<I")
    kept = b""
    for key in ("format", "count"):
        if key in chunks and chunks[key].size <= _MAX_KEPT_CHUNK_BYTES:
            chunk = chunks[key]
            kept += chunk.name + number.pack(chunk.size) + _read_at(file, chunk.start, chunk.size + chunk.size % 2)
    size = min(size, 2**32 - 1)
    start = b"RIFX" if big_endian else b"RIFF"
    return start + number.pack(min(size + len(kept) + 12, 2**32 - 1)) + b"WAVE" + kept + b"data" + number.pack(size)


def _read_w64(file: BinaryIO, name: str) -> Header:
    layout = _Layout(40, "<16sQ", alignment=8, size_counts_header=True)
    guid = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
    chunks = _find_chunks(file, name, layout, {b"fmt " + guid: "format", b"data" + guid: "samples"})
    return _wave_header(file, name, layout, chunks, chunks["samples"].size, big_endian=False)


def _wave_header(
    file: BinaryIO, name: str, layout: _Layout, chunks: dict[str, _Chunk], declared: int, big_endian: bool
) -> Header:
    order = ">" if big_endian else "<"
    content = _read_at(file, chunks["format"].start, min(chunks["format"].size, 40))
    kind, channels, sample_rate, frame_bytes = struct.unpack_from(order + "HHI4xH", content)
    (bits,) = struct.unpack_from(order + "H", content, 14) if len(content) >= 16 else (0,)
    if kind == _EXTENSIBLE and len(content) == 40:
        (kind,) = struct.unpack_from(order + "H", content, 24)
    sample_bytes = math.ceil(bits / 8)
    # Some programs write a wrong size of frames; it is used only to recognize 24 bits in 32.
    if sample_bytes == 3 and frame_bytes == 4 * channels:
        sample_bytes = 4
    encoding = None
    if kind == _PCM:
        encoding = "PCM_U8" if sample_bytes == 1 else _INTEGERS.get(sample_bytes)
    elif kind == _FLOAT:
        encoding = _FLOATS.get(sample_bytes)
    elif kind in (_ALAW, _ULAW):
        encoding, sample_bytes = ("ALAW" if kind == _ALAW else "ULAW"), 1
    frame_bytes = sample_bytes * channels if encoding and channels else 1
    start = chunks["samples"].start
    size = _resolve_size(file, name, start, declared, frame_bytes, layout)
    return Header(sample_rate, channels, encoding, big_endian, frame_bytes, start, size, is_mpeg=kind in _MPEG)


# === AIFF ===

_AIFC_ENCODINGS = {
    **dict.fromkeys([b"NONE", b"twos", b"in24", b"in32"], (_INTEGERS, True)),
    b"sowt": (_INTEGERS, False),
    b"raw ": ({1: "PCM_U8"}, True),
    **dict.fromkeys([b"fl32", b"FL32", b"fl64", b"FL64"], (_FLOATS, True)),
    **dict.fromkeys([b"alaw", b"ALAW"], ({1: "ALAW", 2: "ALAW"}, True)),
    **dict.fromkeys([b"ulaw", b"ULAW"], ({1: "ULAW", 2: "ULAW"}, True)),
}


def _read_aiff(file: BinaryIO, name: str) -> Header:
    layout = _Layout(12, ">4sI")
    chunks = _find_chunks(file, name, layout, {b"COMM": "format", b"SSND": "samples"})
    content = _read_at(file, chunks["format"].start, min(chunks["format"].size, 22))
    channels, frames, bits, exponent, mantissa = struct.unpack_from(">HIHHQ", content)
    exponent = (exponent & 0x7FFF) - 16383 - 63  # the sample rate is an 80-bit float
    sample_rate = round(math.ldexp(mantissa, exponent)) if exponent <= 0 else 0
    kind = content[18:22] if len(content) == 22 else b"NONE"
    encodings, big_endian = _AIFC_ENCODINGS.get(kind, ({}, True))
    sample_bytes = math.ceil(bits / 8)
    encoding = encodings.get(sample_bytes)
    if encoding in ("ALAW", "ULAW"):
        sample_bytes = 1
    frame_bytes = max(1, channels * sample_bytes) if encoding else 1
    (offset,) = struct.unpack(">I4x", _read_at(file, chunks["samples"].start, 8))
    start = chunks["samples"].start + 8 + offset
    declared = chunks["samples"].size
    if declared and not is_placeholder(declared):
        declared = max(0, declared - 8 - offset)
    size = _resolve_size(file, name, start, declared, frame_bytes, layout)
    if encoding and frames - size // frame_bytes > MAX_MISSING_FRAMES and not is_placeholder(frames):
        raise ValueError(f"{name} is truncated: it has {size // frame_bytes} of {counted(frames, 'sample')}")
    return Header(sample_rate, channels, encoding, big_endian, frame_bytes, start, size)


# === AU ===

_AU_ENCODINGS = {
    **{1: ("ULAW", 1), 2: ("PCM_S8", 1), 3: ("PCM_16", 2), 4: ("PCM_24", 3), 5: ("PCM_32", 4)},
    **{6: ("FLOAT", 4), 7: ("DOUBLE", 8), 27: ("ALAW", 1)},
}


def _read_au(file: BinaryIO, name: str, magic: bytes) -> Header:
    big_endian = magic == b".snd"
    fields = struct.unpack(">5I" if big_endian else "<5I", _read_at(file, 4, 20))
    start, declared, kind, sample_rate, channels = fields
    encoding, sample_bytes = _AU_ENCODINGS.get(kind, (None, 1))
    frame_bytes = max(1, sample_bytes * channels)
    size = _resolve_size(file, name, start, declared, frame_bytes, None)
    return Header(sample_rate, channels, encoding, big_endian, frame_bytes, start, size)


# === CAF ===


def _read_caf(file: BinaryIO, name: str) -> Header:
    layout = _Layout(8, ">4sq", alignment=1)
    chunks = _find_chunks(file, name, layout, {b"desc": "format", b"data": "samples"})
    content = _read_at(file, chunks["format"].start, 32)
    rate, kind, flags, packet_bytes, frames_per_packet, channels, _bits = struct.unpack(">d4s5I", content)
    is_float, little_endian = bool(flags & 1), bool(flags & 2)
    sample_bytes = packet_bytes // channels if channels else 0
    encoding = None
    if frames_per_packet == 1 and kind == b"lpcm":
        encoding = (_FLOATS if is_float else _INTEGERS).get(sample_bytes)
    elif kind in (b"alaw", b"ulaw"):
        encoding, sample_bytes = kind.decode().upper(), 1
    if encoding and packet_bytes != sample_bytes * channels:
        fits = f"its packets of {packet_bytes} bytes do not fit {counted(channels, 'channel')}"
        raise ValueError(f"{name} cannot be read as audio: {fits}")
    start = chunks["samples"].start + 4  # after an edit count
    declared = chunks["samples"].size
    size = _resolve_size(file, name, start, declared - 4 if declared >= 4 else declared, packet_bytes or 1, layout)
    sample_rate = round(rate) if math.isfinite(rate) else 0
    return Header(sample_rate, channels, encoding, not little_endian, packet_bytes or 1, start, size)
