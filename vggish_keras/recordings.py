"""Which recordings a command line means."""

import codecs
import functools
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
        """The path of one of the recordings below `folder`, without `..`."""
        return Path(os.path.relpath(_absolute(path), self.folder))


def find_recordings(
    arguments: Iterable[str | os.PathLike[str]],
    listed: Iterable[str | os.PathLike[str]] = (),
    output: str | os.PathLike[str] | None = None,
) -> Recordings:
    """Finds the recordings that files, folders and patterns name.

    Args:
        arguments: Files, of any suffix and taken unseen; folders, whose audio files are taken with those of the folders
            in them, but for hidden ones and links to folders; or patterns as of a shell, where ** stands for any
            folders, those behind links included. The file - is named ./-, because - alone is no file.
        listed: Files and folders that are no patterns, whatever their names.
        output: A folder that is not searched when it lies in a folder that is.

    Returns:
        The recordings in the order of the arguments, those of a folder or a pattern sorted. A file that is named twice
        counts once, by whatever links to its folder.

    Raises:
        ValueError: Nothing is named, a folder or a pattern has no audio file, or an argument is -.
        OSError: A folder cannot be read.
    """
    paths: dict[str, Path] = {}
    roots = set()
    others: set[Path] = set()
    real = functools.cache(os.path.realpath)

    def entry(path: Path) -> str:
        return os.path.join(real(path.parent), path.name)

    def in_folder(folder: str) -> list[Path]:
        files = list(_files(folder, output))
        audio = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
        others.update(set(files).difference(audio))
        return sorted(audio)

    def add(found: Iterable[Path], root: str) -> None:
        roots.add(_absolute(root))
        for path in found:
            paths.setdefault(entry(path), path)
            roots.add(os.path.dirname(_absolute(path)))  # a pattern may lead out of its root by ..

    def add_named(name: str) -> None:
        if not os.path.isdir(name):
            add([Path(name)], os.path.dirname(name))
        elif found := in_folder(name):
            add(found, name)
        else:
            left_out = describe_left_out(_count_suffixes(others))
            raise ValueError(f"no audio files in {name}" + (f" ({left_out})" if left_out else ""))

    for argument in arguments:
        name = os.fspath(argument)
        if name == "-":
            raise ValueError("got the input -, expected a file, a folder or a pattern: a file of this name is ./-")
        if os.path.lexists(name) or not glob.has_magic(name):
            add_named(name)
            continue
        matches = sorted(_matches(name))
        found = [path for match in matches for path in (in_folder(match) if os.path.isdir(match) else [Path(match)])]
        if not found:
            raise ValueError(f"no file matches {name}")
        parts = Path(name).parts
        plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        shortest: dict[str, Path] = {}
        for path in sorted(found, key=lambda path: len(path.parts)):
            shortest.setdefault(entry(path), path)
        add([path for path in found if path == shortest[entry(path)]], os.path.join("", *parts[:plain]))
    for argument in listed:
        add_named(os.fspath(argument))
    if not paths:
        raise ValueError("no recordings are named")
    left_out = {entry(path): path for path in others if entry(path) not in paths}
    return Recordings(list(paths.values()), Path(os.path.commonpath(roots)), _count_suffixes(left_out.values()))


def _count_suffixes(files: Iterable[Path]) -> Counter[str]:
    return Counter(path.suffix.lower() for path in files)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Words for `Recordings.left_out`, such as "left out: 3 .txt, 1 .pdf"; empty if no file was left out."""
    counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    described = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in counts)
    return f"left out: {described}" if counts else ""


def _absolute(path: str | os.PathLike[str]) -> str:
    """An absolute path without `..`, which after a link leads elsewhere than to the folder before it."""
    parts = Path(path).parts
    if ".." in parts:
        end = len(parts) - parts[::-1].index("..")
        path = os.path.join(os.path.realpath(os.path.join(*parts[:end])), *parts[end:])
    return os.path.abspath(path)


def _matches(pattern: str) -> Iterator[str]:
    """As `glob.glob`, but ** takes each folder once, also where links lead to it again."""
    parts = [*Path(pattern).parts, *([""] if pattern.endswith(os.sep) else [])]
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    index = parts.index("**")
    after = parts[index + 1 :] or ["*"]
    for top in glob.glob(str(Path(*parts[:index]))):
        for folder in _folders(top):
            yield from _matches(os.path.join(glob.escape(folder), *after))


def _folders(top: str) -> Iterator[str]:
    """A folder and those in it, but for hidden ones: first all that are reached without links."""
    tops, seen = [top], set()
    for start in tops:
        for parent, folders, _ in os.walk(start):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if (real := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(real)
            tops += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
            yield parent


def _files(folder: str, output: str | os.PathLike[str] | None) -> Iterator[Path]:
    """All files of a folder and those in it, but for hidden ones and those in the output folder."""
    skipped = None if output is None else os.path.abspath(output)

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        kept = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in kept if os.path.abspath(os.path.join(parent, name)) != skipped]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def read_list(file: BinaryIO) -> list[str]:
    """The paths in a list, a line each; or, as names may hold line ends, each ended by a NUL as of `find -print0`."""
    content = file.read().removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]
