"""Which recordings a command line means."""

import codecs
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist"),
    *(".flac", ".mp3", ".ogg", ".oga", ".opus"),
)
"""Of the files that are taken from folders."""


class Recordings(NamedTuple):
    """Recordings to embed.

    Attributes:
        paths: Each file once, as it was named or found.
        folder: What they have in common: their paths below it are unique.
    """

    paths: list[Path]
    folder: Path

    def below(self, path: Path) -> Path:
        """The path of one of the recordings below `folder`."""
        return Path(os.path.relpath(path, self.folder))


def find_recordings(
    arguments: Iterable[str | os.PathLike[str]], listed: Iterable[str | os.PathLike[str]] = ()
) -> Recordings:
    """Finds the recordings that files, folders and patterns name.

    Args:
        arguments: Files, of any suffix and taken unseen; folders, whose audio files are taken with those of the folders
            in them, but for hidden ones and links to folders; or patterns as of a shell, where ** stands for any
            folders.
        listed: Files and folders that are no patterns, whatever their names.

    Returns:
        The recordings in the order of the arguments, those of a folder or a pattern sorted. A file that is named twice
        counts once.

    Raises:
        ValueError: Nothing is named, a folder or a pattern has no audio file.
        OSError: A folder cannot be read.
    """
    paths: dict[str, Path] = {}
    roots = []

    def add(found: Iterable[Path], root: str) -> None:
        roots.append(os.path.abspath(root))
        for path in found:
            paths.setdefault(os.path.abspath(path), path)

    def add_named(name: str) -> None:
        if not os.path.isdir(name):
            add([Path(name)], os.path.dirname(name))
        elif found := _in_folder(name):
            add(found, name)
        else:
            raise ValueError(f"no audio files in {name}")

    for argument in arguments:
        name = os.fspath(argument)
        if os.path.lexists(name) or not glob.has_magic(name):
            add_named(name)
            continue
        matches = sorted(glob.glob(name, recursive=True))
        found = [path for match in matches for path in (_in_folder(match) if os.path.isdir(match) else [Path(match)])]
        if not found:
            raise ValueError(f"no file matches {name}")
        parts = Path(name).parts
        plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        add(found, os.path.join("", *parts[:plain]))
    for argument in listed:
        add_named(os.fspath(argument))
    if not paths:
        raise ValueError("no recordings are named")
    return Recordings(list(paths.values()), Path(os.path.commonpath(roots)))


def _in_folder(folder: str) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error

    def walk() -> Iterator[Path]:
        for parent, folders, files in os.walk(folder, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                    yield Path(parent, name)

    return sorted(walk())


def read_list(file: BinaryIO) -> list[str]:
    """The paths in a list, a line each; or, as names may hold line ends, each ended by a NUL as of `find -print0`."""
    content = file.read().removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]
