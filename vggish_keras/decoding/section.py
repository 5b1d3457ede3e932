"""Part of a file, as a file."""

import io
from typing import Any, BinaryIO


class Section(io.RawIOBase):
    """Part of a file with its own position, for decoders that accept Python's file objects.

    A position beyond either end, as in a damaged header, becomes that end.

    Args:
        file: The file, which stays open.
        start: Where the part begins.
        size: Bytes of the part; None for all bytes up to the end of the file.
        prefix: Bytes to read before the part.
    """

    def __init__(self, file: BinaryIO, start: int = 0, size: int | None = None, prefix: bytes = b"") -> None:
        super().__init__()
        self._file, self._start, self._prefix = file, start, prefix
        self._size = len(prefix) + (max(0, file.seek(0, io.SEEK_END) - start) if size is None else size)
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position, counted from the start of the part."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position, as in any file."""
        self._position = min(max(0, offset + (0, self._position, self._size)[whence]), self._size)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads at most as many bytes as the buffer holds."""
        wanted = memoryview(buffer)[: self._size - self._position]
        if self._position < len(self._prefix):
            read = min(len(wanted), len(self._prefix) - self._position)
            wanted[:read] = self._prefix[self._position : self._position + read]
            self._position += read
            return read
        self._file.seek(self._start + self._position - len(self._prefix))
        if hasattr(self._file, "readinto"):
            read = self._file.readinto(wanted)
        else:
            content = self._file.read(len(wanted))
            read = len(content)
            wanted[:read] = content
        self._position += read
        return read
