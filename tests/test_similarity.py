"""Search for the recordings that are most similar to a sound."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from click.testing import CliRunner
from scipy.spatial.distance import cdist

import vggish_keras as vk
from tests.conftest import quickest
from tests.fakes import FakeEngine
from vggish_keras import embedding_files
from vggish_keras.cli import main

RNG = np.random.default_rng(0)
HOP = 0.96


def recordings(count=40, dtype=np.float32):
    """Recordings of 1 to 9 examples, in folders."""
    found = []
    for index in range(count):
        values = RNG.normal(size=(RNG.integers(1, 10), 128))
        values = (60 * values + 128).clip(0, 255).astype(dtype) if dtype == np.uint8 else values.astype(dtype)
        found.append((f"{index % 3}/{index}.wav", vk.Embeddings(HOP * np.arange(len(values)), values)))
    return found


def expected(query, corpus, n):
    """By SciPy, on all pairs at once."""
    rows = []
    for name, (times, values) in corpus:
        distances = cdist([query], values.astype(float), "cosine")[0]
        best = int(np.argmin(distances))
        rows.append((name, times[best], 1 - distances[best]))
    return sorted(rows, key=lambda row: -row[2])[:n]


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet", "folder", "iterable"])
def test_matches_are_those_of_the_definition(tmp_path, suffix):
    corpus, query = recordings(), RNG.normal(size=(3, 128)).astype(np.float32)
    where = tmp_path / f"x{suffix}"
    if suffix == "folder":
        for index, recording in enumerate(corpus):
            (where / str(index % 4)).mkdir(parents=True, exist_ok=True)
            embedding_files.write(where / str(index % 4) / f"{index}.npz", [recording])
    elif suffix == "iterable":
        where = iter(corpus)
    else:
        embedding_files.write(where, corpus)
    matches = vk.search(query, where, 7)
    wanted = expected(query.mean(axis=0, dtype=float), corpus, 7)
    assert [match.recording for match in matches] == [name for name, _, _ in wanted]
    assert [match.time for match in matches] == [time for _, time, _ in wanted]
    np.testing.assert_allclose([match.similarity for match in matches], [cosine for *_, cosine in wanted], atol=1e-6)


def test_more_than_there_are_recordings():
    corpus = recordings(5)
    assert len(vk.search(corpus[0][1], corpus)) == 5
    (best,) = vk.search(vk.Embeddings(np.zeros(1), corpus[3][1].values[:1]), corpus, 1)
    assert best == ("0/3.wav", 0.0, pytest.approx(1, abs=1e-6))
    assert best.similarity <= 1


def test_rows_of_a_recording_need_not_follow_each_other(tmp_path):
    values = np.eye(4, 128, dtype=np.float32)
    mixed = [("a", 0, 0), ("b", 1, 0), ("a", 2, 1), ("b", 3, 1)]
    parts = [(name, vk.Embeddings(np.array([HOP * time]), values[row : row + 1])) for name, row, time in mixed]
    embedding_files.write(tmp_path / "x.npz", parts)
    query = values[2:3] + 0.5 * values[1:2]
    assert [match[:2] for match in vk.search(query, tmp_path / "x.npz", 2)] == [("a", HOP), ("b", 0.0)]


def test_quantized_embeddings_are_compared_between_minus_2_and_2():
    corpus = recordings(dtype=np.uint8)
    query = corpus[5][1].values[:1]
    dequantized = [(name, (times, values * (4 / 255) - 2)) for name, (times, values) in corpus]
    wanted = expected(query[0] * (4 / 255) - 2, dequantized, 3)
    matches = vk.search(query, corpus, 3)
    assert [match.recording for match in matches] == [name for name, _, _ in wanted]
    np.testing.assert_allclose([match.similarity for match in matches], [cosine for *_, cosine in wanted], atol=1e-5)
    with pytest.raises(ValueError, match=r"different spaces: expected floats, got 8-bit PCA embeddings of 0/0\.wav"):
        vk.search(query.astype(np.float32), corpus)


def test_embeddings_that_match_nothing():
    values = np.ones((4, 128), np.float32)
    values[0] = 0
    values[1, 5] = np.nan
    values[2, 7] = np.inf
    corpus = [(str(index), vk.Embeddings(np.zeros(1), values[index : index + 1])) for index in range(4)]
    assert [match.recording for match in vk.search(values[3:], corpus)] == ["3"]


@pytest.mark.parametrize(
    ("query", "n", "message"),
    [
        (np.zeros((2, 128)), 1, "must be finite and not zero"),
        (np.full((2, 128), np.nan), 1, "must be finite and not zero"),
        (np.ones((2, 64)), 1, r"expected embeddings \[n, 128\] of a query, got \[2, 64\]"),
        (np.ones((0, 128)), 1, r"got \[0, 128\]"),
        (np.ones((2, 128)), 0, "n must be a positive number"),
    ],
)
def test_invalid_arguments(query, n, message):
    with pytest.raises(ValueError, match=message):
        vk.search(query, recordings(2), n)


def test_places_without_embeddings(tmp_path):
    with pytest.raises(ValueError, match="contains no embeddings"):
        vk.search(np.ones((1, 128)), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x\.npz does not exist"):
        vk.search(np.ones((1, 128)), tmp_path / "x.npz")


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_an_index_finds_nearly_all(tmp_path, dtype):
    corpus = recordings(600, dtype)
    embedding_files.write(tmp_path / "x.npz", corpus)
    missed = 0
    for _, embeddings in corpus[:20]:
        query = embeddings.values[:1]
        exact = vk.search(query, tmp_path / "x.npz", 10)
        found = vk.search(query, tmp_path / "x.npz", 10, index=tmp_path / "x.usearch")
        assert found[0] == (exact[0].recording, exact[0].time, pytest.approx(exact[0].similarity, abs=1e-4))
        missed += len({match.recording for match in exact} - {match.recording for match in found})
    assert missed <= 10  # of 200
    before = (tmp_path / "x.usearch").stat().st_mtime_ns
    vk.search(query, tmp_path / "x.npz", 10, index=tmp_path / "x.usearch")
    assert (tmp_path / "x.usearch").stat().st_mtime_ns == before


@pytest.mark.slow
def test_an_index_finds_every_embedding(tmp_path):
    corpus = recordings(600)
    embedding_files.write(tmp_path / "x.npz", corpus)
    for name, embeddings in corpus:
        for start, query in zip(*embeddings, strict=True):
            (found,) = vk.search(query[np.newaxis], tmp_path / "x.npz", 1, index=tmp_path / "x.usearch")
            assert found[:2] == (name, start)


def test_recordings_without_embeddings_match_nothing(tmp_path):
    empty = vk.Embeddings(np.zeros(0), np.zeros((0, 128), np.float32))
    assert vk.search(np.ones((1, 128), np.float32), [("a.wav", empty)]) == []
    embedding_files.write(tmp_path / "x.csv", [("a.wav", empty)])
    with pytest.raises(ValueError, match=r"x\.csv contains no embeddings"):
        vk.search(np.ones((1, 128), np.float32), tmp_path / "x.csv", index=tmp_path / "x.usearch")


@pytest.mark.parametrize("values", [np.zeros((0, 128)), np.zeros((2, 128)), np.full((2, 128), np.nan)])
def test_an_index_of_nothing_that_can_match(tmp_path, values):
    embeddings = vk.Embeddings(HOP * np.arange(len(values)), values.astype(np.float32))
    embedding_files.write(tmp_path / "x.npz", [("a.wav", embeddings)])
    for _ in ("made", "read"):
        assert vk.search(np.ones((1, 128)), tmp_path / "x.npz", index=tmp_path / "x.usearch") == []


def test_an_index_of_long_recordings_and_of_zeros(tmp_path):
    values = np.random.default_rng(0).normal(size=(2_000, 128)).astype(np.float32)
    values[:1_500] += 5  # all of the first recording are closer to the query than those of the others
    values[1_999] = 0
    names = ["long", *map(str, range(5)), "zero"]
    parts = np.split(values, [1_500, 1_600, 1_700, 1_800, 1_900, 1_999])
    recordings = [
        (name, vk.Embeddings(HOP * np.arange(len(part)), part)) for name, part in zip(names, parts, strict=True)
    ]
    embedding_files.write(tmp_path / "x.npz", recordings)
    found = vk.search(np.ones((1, 128)), tmp_path / "x.npz", 6, index=tmp_path / "x.usearch")
    assert found[0].recording == "long"
    assert {match.recording for match in found} == set(names) - {"zero"}


def test_an_index_of_something_else(tmp_path):
    embedding_files.write(tmp_path / "x.npz", recordings(20))
    embedding_files.write(tmp_path / "y.npz", recordings(30))
    query = np.ones((1, 128), np.float32)
    vk.search(query, tmp_path / "x.npz", index=tmp_path / "x.usearch")
    os.utime(tmp_path / "y.npz", ns=(0, 0))  # whichever is older
    with pytest.raises(ValueError, match=r"x\.usearch is not an index of .*y\.npz: delete it"):
        vk.search(query, tmp_path / "y.npz", index=tmp_path / "x.usearch")
    os.utime(tmp_path / "x.npz")
    assert vk.search(query, tmp_path / "x.npz", index=tmp_path / "x.usearch")
    with pytest.raises(ValueError, match="expected 8-bit PCA embeddings, got floats"):
        vk.search(query.astype(np.uint8), tmp_path / "x.npz", index=tmp_path / "x.usearch")
    (tmp_path / "bad.usearch").write_text("no index")
    with pytest.raises(ValueError, match=r"bad\.usearch is not an index"):
        vk.search(query, tmp_path / "x.npz", index=tmp_path / "bad.usearch")
    with pytest.raises(ValueError, match=r"expected a \.usearch file"):
        vk.search(query, tmp_path / "x.npz", index=tmp_path / "x.index")
    with pytest.raises(ValueError, match="an index needs a single file of embeddings"):
        vk.search(query, recordings(3), index=tmp_path / "x.usearch")


@pytest.mark.timing
def test_a_million_embeddings_are_searched_in_a_second():
    count, size = 1_000_000, 10
    values = np.random.default_rng(0).standard_normal((count, 128), np.float32)
    times = HOP * np.arange(size)
    corpus = [(f"{start}", vk.Embeddings(times, values[start : start + size])) for start in range(0, count, size)]
    process, before, matches = psutil.Process(), psutil.Process().memory_info().rss, []
    assert quickest(lambda: matches.extend(vk.search(values[500_005:500_006], corpus)), times=3) < 2
    assert process.memory_info().rss < before + 200e6
    assert matches[0].recording == "500000"


# === The command ===


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Tones of rising pitch, embedded by the command with a quick engine."""
    from vggish_keras import embedder

    monkeypatch.chdir(tmp_path)
    engine = FakeEngine("embedding", "quantized")
    monkeypatch.setattr(embedder, "open_engine", lambda *_arguments, **_options: engine)
    Path("corpus").mkdir()
    for index in range(6):
        hz = 300 * 1.5**index
        tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(40_000) / 16_000)
        soundfile.write(f"corpus/{index}.wav", tone, 16_000)
    soundfile.write("query.wav", 0.3 * np.sin(2 * np.pi * 300 * 1.5**2 * np.arange(30_000) / 16_000), 16_000)
    return engine


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("options", [[], ["--postprocess", "quantized"]])
@pytest.mark.parametrize("output", ["saved", "saved.npz"])
def test_command_finds_the_same_tone(corpus, output, options):
    assert run("embed", "corpus", "-o", output, "--quiet", *options)[0] == 0
    status, table, errors = run("search", "query.wav", output, "-n", 2)
    assert (status, errors) == (0, "")
    lines = [line for line in table.splitlines() if ".wav" in line]
    assert len(lines) == 2
    assert "2.wav" in lines[0]
    status, text, _ = run("search", "query.wav", output, "-o", "-")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["file"] for row in rows][:1] == ["corpus/2.wav"]
    assert len(rows) == 6
    similarities = [float(row["similarity"]) for row in rows]
    assert similarities == sorted(similarities, reverse=True)
    assert run("search", "query.wav", output, "-o", "found.csv") == (0, "", "found.csv: 6 recordings\n")
    assert Path("found.csv").read_bytes().split() == text.encode().split()


def test_command_refuses_embeddings_of_different_weights(corpus):
    run("embed", "corpus", "-o", "saved", "--quiet")
    options = Path("saved/vggish.json")
    options.write_text(json.dumps({**json.loads(options.read_text()), "weights": "sha256:0"}))
    status, _, errors = run("search", "query.wav", "saved")
    assert (status, "saved was made with weights sha256:0, the query with fake" in errors) == (1, True)


def test_command_warns_of_unknown_weights(corpus):
    embedding_files.write("x.npz", recordings(3))
    status, _, errors = run("search", "query.wav", "x.npz")
    assert (status, errors.startswith("Warning: x.npz does not state its weights")) == (0, True)


@pytest.mark.parametrize(("name", "value", "now"), [("channels", 1, "mix"), ("dtype", "bfloat16", "float32")])
def test_command_warns_of_different_options(corpus, name, value, now):
    embedding_files.write("x.npz", recordings(3), {"weights": "fake", name: value})
    status, _, errors = run("search", "query.wav", "x.npz")
    assert (status, errors) == (0, f"Warning: x.npz was made with {name} {value}, the query with {now}\n")


def test_command_reports_a_query_shorter_than_an_example(corpus):
    embedding_files.write("x.npz", recordings(3), {"weights": "fake", "padding": "valid"})
    soundfile.write("short.wav", np.zeros(8_000), 16_000)
    status, _, errors = run("search", "short.wav", "x.npz")
    assert (status, errors) == (1, "Error: short.wav is shorter than an example (0.975 s)\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.tfrecord", "expected an .npz, .csv or .parquet file, got x.tfrecord"), ("corpus", "contains no embeddings")],
)
def test_command_checks_the_corpus_before_it_loads_the_network(corpus, monkeypatch, name, message):
    monkeypatch.setattr("vggish_keras.cli.search.open_embedder", None)
    Path("x.tfrecord").touch()
    status, _, errors = run("search", "query.wav", name)
    assert (status, message in errors) == (1, True)


def test_embed_and_search_print_no_control_characters_of_names(corpus):
    name = "a\x1b[2J\n.wav"
    Path("corpus/2.wav").rename(f"corpus/{name}")
    shown = r"corpus/a\x1b[2J\x0a.wav"
    assert f"{shown}: 2 embeddings" in run("embed", f"corpus/{name}")[1]
    assert run("embed", "corpus", "-o", "saved", "--quiet")[0] == 0
    assert shown in run("search", "query.wav", "saved", "-n", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.wav", "saved"], 1, "no audio file at missing.wav"),
        (["query.wav", "missing.npz"], 1, "missing.npz does not exist"),
        (["query.wav", "corpus"], 1, "corpus contains no embeddings"),
        (["query.wav", "saved", "-o", "x.txt"], 2, "expected a .csv file in an existing folder"),
        (["query.wav", "saved", "-n", "0"], 2, "is not in the range"),
    ],
)
def test_wrong_arguments_of_the_command(corpus, arguments, status, message):
    got, output, errors = run("search", *arguments)
    assert (got, output) == (status, "")
    assert message in " ".join(errors.split())
