"""Find the recordings named by files, folders and patterns."""

import codecs
import functools
import glob
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vggish_keras._validation import PathLike, file_suffix

_logger = logging.getLogger(__name__)

_PLAIN = ".wav .wave .rf64 .bw64 .w64 .aif .aiff .aifc .au .snd .caf .voc .sph .nist"
_COMPRESSED = ".flac .mp3 .mp2 .ogg .oga .opus .spx .aac .m4a .m4b .wma .amr .awb .ac3 .eac3 .dts .ape"
_LESS_COMMON = ".tta .wv .mpc .tak .mka .weba .8svx .avr .ircam .paf .pvf .sf .xi"
_VIDEO = ".mp4 .m4v .mov .3gp .3g2 .mkv .webm .ogv .wmv .asf .avi .flv .mpg .mpeg .mts .m2ts .vob"
AUDIO_SUFFIXES = frozenset(f"{_PLAIN} {_COMPRESSED} {_LESS_COMMON} {_VIDEO}".split())
"""Suffixes of the files that are embedded from a folder: those of the formats that `decoding` reads, unless most files
with the suffix are not audio (.mat, .ts)."""

_OUTPUT_FILES = ("vggish.json", "vggish-keras.json", "failures.csv")
"""Written by `vggish embed` into a folder, besides .npz files."""


class Recordings(NamedTuple):
    """Recordings to embed.

    Attributes:
        paths: Each file once, as it was named or found.
        folder: Their common folder; the paths below it are unique.
        left_out: Number of other files in the folders, by suffix.
    """

    paths: list[Path]
    folder: Path
    left_out: Mapping[str, int] = {}

    def relative_path(self, path: Path) -> Path:
        """The path of a recording relative to `folder`, without `..`."""
        return Path(os.path.relpath(_absolute(path), self.folder))


def find_recordings(
    arguments: Iterable[PathLike],
    listed: Iterable[PathLike] = (),
    output: PathLike | None = None,
) -> Recordings:
    """Finds the recordings named by files, folders and patterns.

    Args:
        arguments: Files, of any suffix and not checked for existence; folders, which are searched recursively for audio
            files, except for hidden entries and links to folders; or shell patterns, in which ** matches any number of
            folders, including linked ones. A file named - must be written as ./-.
        listed: Files and folders whose names are never patterns.
        output: The output, whose files are not recordings: a folder that is not searched, or a file.

    Returns:
        The recordings in the order of the arguments, sorted within each folder and pattern. A file that is named
        several times, also through links to its folder, is returned once.

    Raises:
        ValueError: No arguments, a folder or a pattern without audio files, or the argument -.
        OSError: A folder cannot be read.
    """
    search = _Search(output)
    for argument in arguments:
        search.add_argument(os.fspath(argument))
    for name in listed:
        search.add_named(os.fspath(name))
    return search.recordings()


class _Search:
    """Collects recordings, each identified by its name and the real path of its folder."""

    def __init__(self, output: PathLike | None) -> None:
        self._output = None if output is None else Path(os.path.abspath(output))
        self._output_is_folder = self._output is not None and (self._output.is_dir() or not self._output.suffix)
        self._paths: dict[str, Path] = {}
        self._others: dict[str, Path] = {}
        self._roots: set[str] = set()
        self._real_path = functools.cache(os.path.realpath)

    def recordings(self) -> Recordings:
        if not self._paths:
            raise ValueError("no inputs given")
        others = [path for entry, path in self._others.items() if entry not in self._paths]
        return Recordings(list(self._paths.values()), Path(os.path.commonpath(self._roots)), _count_suffixes(others))

    def add_argument(self, name: str) -> None:
        if name == "-":
            raise ValueError("expected a file, folder or pattern, got -: for a file named -, use ./-")
        if os.path.lexists(name) or not glob.has_magic(name):
            self.add_named(name)
        else:
            self._add_pattern(name)

    def add_named(self, name: str) -> None:
        if not os.path.isdir(name):
            self._add([Path(name)], os.path.dirname(name))
        elif found := self._in_folder(name):
            self._add(found, name)
        else:
            left_out = describe_left_out(_count_suffixes(self._others.values()))
            raise ValueError(f"no audio files in {name}" + (f" ({left_out})" if left_out else ""))

    def _add_pattern(self, pattern: str) -> None:
        found: list[Path] = []
        for match in sorted(_matches(pattern)):
            if os.path.isdir(match):
                found += self._in_folder(match)
            elif file_suffix(match) in AUDIO_SUFFIXES or not self._is_output(Path(match)):
                found.append(Path(match))
        if not found:
            raise ValueError(f"no file matches {pattern}")
        shortest: dict[str, Path] = {}
        for path in sorted(found, key=lambda path: len(path.parts)):
            shortest.setdefault(self._entry(path), path)
        parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
        self._add([path for path in found if path == shortest[self._entry(path)]], os.path.join("", *parts))

    def _add(self, found: Iterable[Path], root: str) -> None:
        self._roots.add(_absolute(root))
        for path in found:
            self._paths.setdefault(self._entry(path), path)
            self._roots.add(os.path.dirname(_absolute(path)))  # a pattern with .. may match files outside its root

    def _is_output(self, path: Path) -> bool:
        """Whether a file that is no recording was written into the output folder, or as or beside the output file."""
        if self._output is None:
            return False
        output, path = self._output, Path(os.path.abspath(path))
        if self._output_is_folder:
            return path.is_relative_to(output) and (path.suffix == ".npz" or path.name in _OUTPUT_FILES)
        shard = rf"{re.escape(output.stem)}-\d{{5}}-of-\d{{5}}{re.escape(output.suffix)}"
        name = rf"({re.escape(output.name)}|{shard})(\..*)?"
        return path.parent == output.parent and re.fullmatch(name, path.name) is not None

    def _in_folder(self, folder: str) -> list[Path]:
        audio = []
        for path in _files(folder, self._output):
            if file_suffix(path) in AUDIO_SUFFIXES:
                audio.append(path)
            elif not self._is_output(path):
                _logger.debug("left out %s: not a suffix of audio or video files", path)
                self._others[self._entry(path)] = path
        return sorted(audio)

    def _entry(self, path: Path) -> str:
        return os.path.join(self._real_path(path.parent), path.name)


def _count_suffixes(files: Iterable[Path]) -> Counter[str]:
    return Counter(map(file_suffix, files))


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Describes `Recordings.left_out`, as in "left out: 3 .txt, 1 .pdf"; empty if no file was left out."""
    counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    described = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in counts)
    return f"left out: {described}" if counts else ""


def _absolute(path: PathLike) -> str:
    """An absolute path without `..`, resolved through links as the system does."""
    parts = Path(path).parts
    if ".." in parts:
        end = len(parts) - parts[::-1].index("..")
        path = os.path.join(os.path.realpath(os.path.join(*parts[:end])), *parts[end:])
    return os.path.abspath(path)


def _matches(pattern: str) -> Iterator[str]:
    """Like `glob.glob`, but ** visits each folder once, even if links lead back to it."""
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
    """Yields a folder and its subfolders, except hidden ones; folders behind links come last."""
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


def _files(folder: str, output: PathLike | None) -> Iterator[Path]:
    """Yields all files in a folder and its subfolders, except hidden ones and those in the output folder."""
    skipped = None if output is None else os.path.abspath(output)

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        kept = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in kept if os.path.abspath(os.path.join(parent, name)) != skipped]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def read_list(file: BinaryIO) -> list[str]:
    """Reads one path per line, or NUL-separated paths as written by `find -print0`."""
    content = file.read().removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]
