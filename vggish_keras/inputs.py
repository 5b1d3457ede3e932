"""Which recordings a command line means."""

import codecs
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

_PLAIN = ".wav .wave .rf64 .bw64 .w64 .aif .aiff .aifc .au .snd .caf .voc .sph .nist"
_COMPRESSED = ".flac .mp3 .mp2 .ogg .oga .opus .spx .aac .m4a .m4b .wma .amr .awb .ac3 .eac3 .dts .ape"
_LESS_COMMON = ".tta .wv .mpc .tak .mka .weba"
_VIDEO = ".mp4 .m4v .mov .3gp .3g2 .mkv .webm .ogv .wmv .asf .avi .flv .mpg .mpeg .mts .m2ts .vob"
AUDIO_SUFFIXES = frozenset(f"{_PLAIN} {_COMPRESSED} {_LESS_COMMON} {_VIDEO}".split())
"""Suffixes of the files that are taken from folders: those of the formats that `decoding` reads."""


class Recordings(NamedTuple):
    """Recordings to embed.

    Attributes:
        paths: Each file once, as it was named or found.
        folder: What they have in common: their paths below it are unique.
        left_out: How many other files the folders hold, by suffix.
    """

    paths: list[Path]
    folder: Path
    left_out: Mapping[str, int] = {}

    def below(self, path: Path) -> Path:
        """The path of one of the recordings below `folder`."""
        return Path(os.path.relpath(path, self.folder))


def find_recordings(
    arguments: Iterable[str | os.PathLike[str]],
    listed: Iterable[str | os.PathLike[str]] = (),
    output: str | os.PathLike[str] | None = None,
) -> Recordings:
    """Finds the recordings that files, folders and patterns name.

    Args:
        arguments: Files, of any suffix and taken unseen; folders, whose audio files are taken with those of the folders
            in them, but for hidden ones and links to folders; or patterns as of a shell, where ** stands for any
            folders.
        listed: Files and folders that are no patterns, whatever their names.
        output: A folder that is not searched when it lies in a folder that is.

    Returns:
        The recordings in the order of the arguments, those of a folder or a pattern sorted. A file that is named twice
        counts once.

    Raises:
        ValueError: Nothing is named, a folder or a pattern has no audio file.
        OSError: A folder cannot be read.
    """
    paths: dict[str, Path] = {}
    roots = []
    left_out: Counter[str] = Counter()

    def add(found: Iterable[Path], root: str) -> None:
        roots.append(os.path.abspath(root))
        for path in found:
            paths.setdefault(os.path.abspath(path), path)

    def add_named(name: str) -> None:
        if not os.path.isdir(name):
            add([Path(name)], os.path.dirname(name))
        elif found := _in_folder(name, left_out, output):
            add(found, name)
        else:
            others = describe_left_out(left_out)
            raise ValueError(f"no audio files in {name}" + (f" ({others})" if others else ""))

    for argument in arguments:
        name = os.fspath(argument)
        if os.path.lexists(name) or not glob.has_magic(name):
            add_named(name)
            continue
        matches = sorted(glob.glob(name, recursive=True))
        found = [
            path
            for match in matches
            for path in (_in_folder(match, left_out, output) if os.path.isdir(match) else [Path(match)])
        ]
        if not found:
            raise ValueError(f"no file matches {name}")
        parts = Path(name).parts
        plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        add(found, os.path.join("", *parts[:plain]))
    for argument in listed:
        add_named(os.fspath(argument))
    if not paths:
        raise ValueError("no recordings are named")
    return Recordings(list(paths.values()), Path(os.path.commonpath(roots)), left_out)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Words for `Recordings.left_out`, such as "left out: 3 .txt, 1 .pdf"; empty if no file was left out."""
    counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return (
        "left out: " + ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in counts)
        if counts
        else ""
    )


def _in_folder(folder: str, left_out: Counter[str], output: str | os.PathLike[str] | None) -> list[Path]:
    skipped = None if output is None else os.path.abspath(output)

    def fail(error: OSError) -> None:
        raise error

    def walk() -> Iterator[Path]:
        for parent, folders, files in os.walk(folder, onerror=fail):
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".") and os.path.abspath(os.path.join(parent, name)) != skipped
            ]
            for name in files:
                suffix = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    continue
                if suffix in AUDIO_SUFFIXES:
                    yield Path(parent, name)
                else:
                    left_out[suffix] += 1

    return sorted(walk())


def read_list(file: BinaryIO) -> list[str]:
    """The paths in a list, a line each; or, as names may hold line ends, each ended by a NUL as of `find -print0`."""
    content = file.read().removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]
