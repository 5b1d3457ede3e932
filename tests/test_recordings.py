import io
import os
from pathlib import Path

import pytest

from vggish_keras.recordings import AUDIO_SUFFIXES, describe_left_out, find_recordings, read_list


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b/2.wav",
        "b/1.FLAC",
        "b/deep/3.mp3",
        "a/1.wav",
        "a/notes.txt",
        "a/.hidden.wav",
        ".git/4.wav",
        "5.ogg",
    ):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("arguments", "found", "folder"),
    [
        (["."], ["5.ogg", "a/1.wav", "b/1.FLAC", "b/2.wav", "b/deep/3.mp3"], "."),
        (["b"], ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3"], "b"),
        (["b", "a"], ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3", "a/1.wav"], "."),
        (["b/2.wav", "b"], ["b/2.wav", "b/1.FLAC", "b/deep/3.mp3"], "b"),
        (["a/notes.txt", "missing.wav"], ["a/notes.txt", "missing.wav"], "."),
        (["b/*.*"], ["b/1.FLAC", "b/2.wav"], "b"),
        (["b/**/*.mp3", "a/1.wav"], ["b/deep/3.mp3", "a/1.wav"], "."),
        (["[ab]"], ["a/1.wav", "b/1.FLAC", "b/2.wav", "b/deep/3.mp3"], "."),
        (["5.ogg"], ["5.ogg"], "."),
        (["b/../a/1.wav", "a/1.wav"], ["b/../a/1.wav"], "a"),
    ],
)
def test_files_folders_and_patterns(arguments, found, folder):
    recordings = find_recordings(arguments)
    assert list(map(str, recordings.paths)) == list(map(str, map(Path, found)))
    assert recordings.folder == Path(folder).resolve()
    below = [recordings.relative_path(path) for path in recordings.paths]
    assert len(set(below)) == len(below)
    assert all(
        (recordings.folder / name).resolve() == path.resolve()
        for name, path in zip(below, recordings.paths, strict=True)
    )


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("pattern", "output", "found"),
    [
        ("*.ogg", ".", ["5.ogg"]),
        ("b/*", "b", ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3"]),
        ("[b]", "b", ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3"]),
        ("a/*", "out", ["a/1.wav", "a/notes.txt"]),
        ("a/*", ".", ["a/1.wav", "a/notes.txt"]),
        ("a/*", "a/notes", ["a/1.wav", "a/notes.txt"]),
        ("a/*", "a/notes.csv", ["a/1.wav", "a/notes.txt"]),
        ("a/*", "a/notes.txt", ["a/1.wav"]),
    ],
)
def test_patterns_find_all_recordings_wherever_the_output_is(pattern, output, found):
    assert list(map(str, find_recordings([pattern], output=output).paths)) == found


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("output", "files"),
    [
        ("b/set.csv", ["set.csv", "set.csv.failures.csv", "set.csv.unfinished", "set.csv.vggish.json"]),
        ("b/set.tfrecord", ["set-00000-of-00002.tfrecord", "set-00001-of-00002.tfrecord", "set.tfrecord.vggish.json"]),
        ("b/out", ["out/vggish.json", "out/2.wav.npz", "out/deep/3.mp3.npz"]),
        ("b", ["vggish.json", "2.wav.npz", "deep/3.mp3.npz"]),
    ],
)
def test_files_of_the_output_are_no_recordings(output, files):
    before = find_recordings(["b/**/*"])
    for name in files:
        Path("b", name).parent.mkdir(exist_ok=True)
        Path("b", name).touch()
    for inputs in (["b/**/*"], ["b"]):
        again = find_recordings(inputs, output=output)
        assert (sorted(again.paths), again.left_out) == (sorted(before.paths), {})


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no inputs given"),
        (["-"], r"expected a file, folder or pattern, got -: for a file named -, use \./-"),
        (["empty"], "no audio files in empty"),
        (["*.xyz"], r"no file matches \*\.xyz"),
    ],
)
def test_no_recordings_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_recordings(arguments)


def test_counts_other_files_in_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deep").mkdir()
    for name in ("x.wav", "deep/y.M4A", "a.txt", "b.TXT", "deep/c.txt", "d.pdf", "README", ".hidden"):
        Path(name).touch()
    for arguments, counts in ((["."], {".txt": 3, ".pdf": 1, "": 1}), (["d*p", "x.wav"], {".txt": 1})):
        recordings = find_recordings(arguments)
        assert sorted(map(str, recordings.paths)) == ["deep/y.M4A", "x.wav"]
        assert recordings.left_out == counts
    assert describe_left_out({".txt": 3, ".pdf": 1, "": 1}) == "left out: 3 .txt, 1 without a suffix, 1 .pdf"
    assert describe_left_out({}) == ""
    Path("x.wav").unlink()
    Path("deep/y.M4A").unlink()
    with pytest.raises(ValueError, match=r"no audio files in \. \(left out: 3 \.txt, 1 without a suffix, 1 \.pdf\)"):
        find_recordings(["."])


@pytest.mark.parametrize(
    "suffix", [".wav", ".m4a", ".mp4", ".webm", ".wma", ".aac", ".3gp", ".amr", ".mkv", ".opus", ".mov", ".8svx", ".sf"]
)
def test_folders_are_searched_for_audio_and_video_files(suffix):
    assert suffix in AUDIO_SUFFIXES


def test_name_of_existing_file_is_not_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[x].wav", "x.wav"):
        Path(name).touch()
    assert find_recordings(["[x].wav"]).paths == [Path("[x].wav")]


@pytest.mark.usefixtures("tree")
def test_listed_names_are_not_patterns():
    for name in ("b/x[1].wav", "b/x1.wav"):
        Path(name).touch()
    listed = ["b/x[1].wav", "b/missing [2].wav", "a"]
    assert list(map(str, find_recordings(["b/x1.wav"], listed).paths)) == ["b/x1.wav", *listed[:2], "a/1.wav"]


@pytest.mark.usefixtures("tree")
def test_pattern_matching_folder_finds_its_audio_files():
    (Path("a") / "docs").mkdir()
    assert list(map(str, find_recordings(["a/*"]).paths)) == ["a/1.wav", "a/notes.txt"]
    with pytest.raises(ValueError, match="no file matches a/d"):
        find_recordings(["a/d*"])


@pytest.mark.usefixtures("tree")
def test_unreadable_folder_raises(monkeypatch):
    def forbid(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    scandir = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", forbid)  # because root can read everything
        with pytest.raises(PermissionError, match="b/deep"):
            find_recordings(["b"])


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("b/**/*.*", ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3"]),
        ("b/**/**/*.*", ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3"]),
        ("b/**", ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3"]),
        ("b/*", ["b/1.FLAC", "b/2.wav", "b/deep/3.mp3"]),
        ("**/*.mp3", ["b/deep/3.mp3"]),
        ("b/**/up/../*.ogg", ["b/up/../5.ogg"]),
    ],
)
def test_link_cycles_name_each_file_once(pattern, found):
    for name in ("b/up", "b/deep/back", "b/deep/once more"):
        Path(name).symlink_to(Path("b").resolve())
    assert list(map(str, find_recordings([pattern]).paths)) == found


@pytest.mark.usefixtures("tree")
def test_patterns_follow_links_out_of_the_folder():
    Path("b/deep/other").symlink_to(Path("a").resolve())
    assert list(map(str, find_recordings(["b/**/*.wav"]).paths)) == ["b/2.wav", "b/deep/other/1.wav"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("arguments", "listed", "folder", "below"),
    [
        (["b/deep/*/../../2.wav"], [], "b", ["2.wav"]),
        (["b/*/../../a/1.wav", "b/2.wav"], [], ".", ["a/1.wav", "b/2.wav"]),
        (["b/../a/*.wav"], [], "a", ["1.wav"]),
        (["b/2.wav"], ["b/deep/../../5.ogg"], ".", ["b/2.wav", "5.ogg"]),
        # a/link points to b/deep.
        (["a/link/../2.wav", "a/2.wav"], [], ".", ["b/2.wav", "a/2.wav"]),
        (["a/link/../*.wav", "b/2.wav"], [], "b", ["2.wav"]),
        (["a/link/3.mp3", "b"], [], ".", ["a/link/3.mp3", "b/1.FLAC", "b/2.wav"]),
    ],
)
def test_recordings_are_below_their_common_folder(arguments, listed, folder, below):
    """So every output is in the output folder, and no two outputs share a path."""
    Path("b/deep/x").mkdir()
    Path("a/link").symlink_to(Path("b/deep").resolve())
    recordings = find_recordings(arguments, listed)
    assert recordings.folder == Path(folder).resolve()
    assert [str(recordings.relative_path(path)) for path in recordings.paths] == below


def test_read_list():
    assert read_list(io.BytesIO(b"a b.wav\n\r\nc.wav\r\n\xff.wav")) == ["a b.wav", "c.wav", os.fsdecode(b"\xff.wav")]
    assert read_list(io.BytesIO(b"line\nend.wav\0b.wav\0")) == ["line\nend.wav", "b.wav"]
    assert read_list(io.BytesIO(b"")) == []
    assert read_list(io.BytesIO(b"\xef\xbb\xbfa.wav\n")) == ["a.wav"]
