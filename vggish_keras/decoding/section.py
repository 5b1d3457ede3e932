"""Part of a file, as a file."""

import io
from typing import Any, BinaryIO


class Section(io.RawIOBase):
    """Part of a file, with a position of its own, for decoders that take Python's files.

    A position beyond either end, which a damaged header may ask for, becomes that end.

    Args:
        file: The file, which stays open.
        start: Where the part begins.
        size: Bytes of the part; None goes to the end of the file.
        prefix: Bytes that come before it.
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
        """Moves the position as any file does."""
        self._position = min(max(0, offset + (0, self._position, self._size)[whence]), self._size)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads up to as many bytes as the buffer holds."""
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
