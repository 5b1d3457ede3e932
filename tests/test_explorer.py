"""Points, neighbors, layouts, quality lists and the file of `vggish explore`. tests/test_explorer_page.py opens it."""

import base64
import csv
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

import vggish_keras as vk
from tests.fakes import FakeEngine
from vggish_keras.cli import main
from vggish_keras.explorer import layout, neighbors, sounds
from vggish_keras.explorer.points import collect_points

SAMPLE_RATE = 16_000


def normal(rows, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, (rows, 128)).astype(np.float32)


def named(vectors):
    """A recording of one example for each vector."""
    return [(f"{index}.wav", vk.Embeddings(np.zeros(1), vectors[index : index + 1])) for index in range(len(vectors))]


def read_page(path):
    """The data of a page."""
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', Path(path).read_text(), re.DOTALL)[1])


def unpack(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


# === Points ===


def test_points_are_means_or_examples():
    values = normal(5)
    recordings = [("a", vk.Embeddings(np.arange(3.0), values[:3])), ("b", vk.Embeddings(np.arange(2.0), values[3:]))]
    means = collect_points(recordings, examples=False)
    assert means.names == ["a", "b"]
    np.testing.assert_allclose(means.vectors, [values[:3].mean(axis=0), values[3:].mean(axis=0)], atol=1e-6)
    examples = collect_points(recordings, examples=True)
    assert examples.names == ["a", "a", "a", "b", "b"]
    assert examples.times.tolist() == [0, 1, 2, 0, 1]
    np.testing.assert_array_equal(examples.vectors, values)


def test_kinds_of_embeddings_are_not_mixed():
    mixed = [("a", np.zeros((1, 128), np.float32)), ("b", np.zeros((1, 128), np.uint8))]
    recordings = [(name, vk.Embeddings(np.zeros(1), values)) for name, values in mixed]
    with pytest.raises(ValueError, match="expected floats, got 8-bit PCA embeddings of b"):
        collect_points(recordings, examples=False)
    with pytest.raises(ValueError, match="expected floats, got 8-bit PCA embeddings of b"):
        vk.search(np.ones((1, 128), np.float32), recordings)


def test_quantized_embeddings_are_the_values_they_stand_for():
    levels = np.array([[0, 128, 255] + 125 * [0]], np.uint8)
    points = collect_points([("a", vk.Embeddings(np.zeros(1), levels))], examples=True)
    np.testing.assert_allclose(points.vectors, vk.records.dequantize(levels), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((0, 128)), "no embeddings to explore"),
        (np.full((1, 128), np.nan), "a.wav: embeddings must be finite"),
        (np.zeros((1, 64)), r"a.wav: expected embeddings \[n, 128\], got \[1, 64\]"),
    ],
)
def test_embeddings_that_cannot_be_shown(tmp_path, values, message):
    embeddings = vk.Embeddings(np.zeros(len(values)), values)
    with pytest.raises(ValueError, match=message):
        vk.explore([("a.wav", embeddings)], tmp_path / "x.html")
    assert not list(tmp_path.iterdir())


# === Neighbors ===


def test_neighbors_are_those_of_scikit_learn(monkeypatch):
    vectors = normal(200)
    monkeypatch.setattr(neighbors, "_VALUES_PER_BLOCK", 200 * 30)
    found = neighbors.nearest(vectors)
    distances, indices = NearestNeighbors(n_neighbors=11, metric="cosine").fit(vectors).kneighbors(vectors)
    np.testing.assert_array_equal(found.indices, indices[:, 1:])
    np.testing.assert_allclose(found.similarities, 1 - distances[:, 1:], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_points_have_fewer_neighbors(count):
    found = neighbors.nearest(normal(count))
    assert found.indices.shape == (count, count - 1)
    assert neighbors.outliers(found) == []


def test_planted_duplicates_and_outliers_are_found_and_no_others():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(mean, 0.3, (80, 128)) for mean in rng.normal(size=(3, 128))])
    clean = neighbors.nearest(vectors.astype(np.float32))
    assert neighbors.near_duplicates(clean) == []
    assert neighbors.outliers(clean) == []
    vectors[10] = vectors[100]  # a copy
    vectors[20] = 1.7 * vectors[150] + rng.normal(0, 1e-3, 128)  # a louder one
    vectors[30], vectors[40] = rng.normal(size=(2, 128))
    planted = neighbors.nearest(vectors.astype(np.float32))
    assert [pair[:2] for pair in neighbors.near_duplicates(planted)] == [(10, 100), (20, 150)]
    assert set(neighbors.outliers(planted)) == {30, 40}


def test_zero_vectors_and_equal_vectors():
    vectors = np.ones((40, 128), np.float32)
    vectors[0] = 0
    found = neighbors.nearest(vectors)
    assert np.isfinite(found.similarities).all()
    assert neighbors.outliers(found) == [0]


# === Layout ===


@pytest.mark.parametrize("kind", [pytest.param("umap", marks=pytest.mark.slow), "pca"])  # UMAP is compiled first
def test_kinds_lie_apart_and_a_page_can_be_made_again(kind):
    kinds = np.repeat(np.arange(3), 30)
    vectors = normal(90, mean=0) * 0.3 + normal(3, seed=5)[kinds]
    positions = layout.arrange(vectors, kind, seed=0)
    assert positions.shape == (90, 2)
    assert np.abs(positions).max() == pytest.approx(1)
    nearest = cdist(positions, positions) + 10 * np.eye(90)
    assert np.array_equal(kinds[nearest.argmin(axis=1)], kinds)
    np.testing.assert_array_equal(layout.arrange(vectors, kind, seed=0), positions)
    if kind == "umap":
        assert len({layout.clusters(positions)[index] for index in (0, 30, 60)}) == 3


@pytest.mark.parametrize("vectors", [normal(1), normal(2), np.ones((60, 128), np.float32)], ids=["one", "two", "equal"])
def test_layout_of_unusual_sets(vectors):
    positions = layout.arrange(vectors, None, seed=0)
    assert positions.shape == (len(vectors), 2)
    assert np.isfinite(positions).all()
    assert set(layout.clusters(positions)) <= {"none", "cluster 1"}


# === Sounds ===


def write(path, samples, sample_rate=SAMPLE_RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate)
    return path


def test_silence_clipping_and_unreadable_files(tmp_path):
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 440 * time)
    paths = [
        write(tmp_path / "tone.wav", 0.5 * tone),
        write(tmp_path / "full.wav", 0.99 * tone),
        write(tmp_path / "quiet.wav", 0.003 * tone),
        write(tmp_path / "silent.wav", 0.0005 * tone),
        write(tmp_path / "zero.wav", 0 * tone),
        write(tmp_path / "clipped.wav", (3 * tone).clip(-1, 1)),
        tmp_path / "missing.wav",
    ]
    heard = list(sounds.listen(paths))
    assert [sound.is_silent for sound in heard] == [False, False, False, True, True, False, False]
    assert [sound.is_clipped for sound in heard] == [False, False, False, False, False, True, False]
    assert [sound.error is None for sound in heard] == [True] * 6 + [False]
    assert "no audio file at" in heard[-1].error


def test_a_decoder_that_crashes_fails_only_its_recording(tmp_path, left_to_libsndfile, broken_decoder):
    broken_decoder("ctypes.string_at(0)")
    tone = write(tmp_path / "tone.wav", 0.5 * np.sin(np.arange(SAMPLE_RATE)))
    errors = [sound.error for sound in sounds.listen([tone, left_to_libsndfile, tone])]
    assert errors[::2] == [None, None]
    assert "its decoder crashed (SIGSEGV)" in errors[1]


def test_a_thumbnail_shows_low_frequencies_at_the_bottom(tmp_path):
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    samples = np.concatenate([np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 4_000 * time)])
    (sound,) = sounds.listen([write(tmp_path / "x.wav", 0.5 * samples)])
    height, width = sound.thumbnail.shape
    assert (width, height) == sounds.thumbnail_size(1)
    assert sound.thumbnail[:, width // 4].argmax() > 0.8 * height
    assert sound.thumbnail[:, 3 * width // 4].argmax() < 0.4 * height


def test_opus_of_a_recording_shorter_than_a_sample(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(1), 44_100)
    assert sounds.as_opus(tmp_path / "x.wav").startswith("data:audio/ogg;base64,")


def test_opus_of_a_recording_is_its_sound(tmp_path):
    time = np.arange(40 * SAMPLE_RATE) / SAMPLE_RATE
    url = sounds.as_opus(write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 440 * time)))
    content = base64.b64decode(url.removeprefix("data:audio/ogg;base64,"))
    (tmp_path / "x.opus").write_bytes(content)
    waveform = vk.load_audio(tmp_path / "x.opus")
    assert len(waveform) == pytest.approx(30 * SAMPLE_RATE, abs=1_000)
    spectrum = np.abs(np.fft.rfft(waveform[SAMPLE_RATE : 2 * SAMPLE_RATE]))
    assert spectrum.argmax() == 440
    assert len(content) < 100_000


# === The page ===


def test_page_holds_what_it_shows(tmp_path):
    vectors = normal(60)
    write(tmp_path / "sounds" / "0.wav", np.zeros(16_000))
    (tmp_path / "pages").mkdir()
    labels = {"kind": {f"{index}.wav": "even" if index % 2 == 0 else "odd" for index in range(60)}}
    page = tmp_path / "pages" / "x.html"
    unreadable = vk.explore(named(vectors), page, audio=tmp_path / "sounds", labels=labels, layout="pca")
    assert len(unreadable) == 59
    data = read_page(page)
    assert data["names"] == [f"{index}.wav" for index in range(60)]
    assert data["urls"] == ["../sounds/0.wav", *[None] * 59]
    assert data["quality"]["silent"] == [0]
    assert data["quality"]["unreadable"] == list(range(1, 60))
    kind, cluster = data["colorings"]
    assert (kind["name"], kind["categories"], cluster["name"]) == ("kind", ["even", "odd"], "cluster")
    assert unpack(kind["values"], "<u2").tolist() == [0, 1] * 30
    expected = neighbors.nearest(vectors)
    np.testing.assert_array_equal(unpack(data["neighbors"], "<u4").reshape(60, 10), expected.indices)


def test_folders_are_the_default_coloring_and_rare_categories_are_joined(tmp_path):
    recordings = [(f"{index}/x.wav", embeddings) for index, (_, embeddings) in enumerate(named(normal(60)))]
    vk.explore(recordings, tmp_path / "x.html", layout="pca")
    folder = read_page(tmp_path / "x.html")["colorings"][0]
    assert folder["name"] == "folder"
    assert len(folder["categories"]) == 40
    assert folder["categories"][-1] == "others"
    assert (unpack(folder["values"], "<u2") == 39).sum() == 21


def test_nothing_in_a_name_ends_the_script(tmp_path):
    names = ["</script><script>alert(1)</script>.wav", "a&amp;b.wav", "line\nend\u2028.wav", b"\xff\xfe.wav"]
    recordings = [
        (name if isinstance(name, str) else name.decode(errors="surrogateescape"), embeddings)
        for name, (_, embeddings) in zip(names, named(normal(4)), strict=True)
    ]
    vk.explore(recordings, tmp_path / "x.html", title="</title><b>")
    data = read_page(tmp_path / "x.html")
    assert data["names"] == [*names[:3], "\\xff\\xfe.wav"]
    assert data["title"] == "</title><b>"
    assert "alert(1)</script>" not in (tmp_path / "x.html").read_text()


def test_page_loads_nothing_from_elsewhere(tmp_path):
    vk.explore(named(normal(3)), tmp_path / "x.html")
    template = re.sub(r"<script>.*?</script>", "", (tmp_path / "x.html").read_text(), flags=re.DOTALL)
    assert not re.search(r"(src|href)=|url\(|@import", template)


def test_where_no_page_can_be_written(tmp_path):
    for path, message in (("x.txt", "expected an .html file"), ("no/x.html", "does not exist")):
        with pytest.raises(ValueError, match=message):
            vk.explore(named(normal(3)), tmp_path / path)
    with pytest.raises(ValueError, match="layout must be one of"):
        vk.explore(named(normal(3)), tmp_path / "x.html", layout="tsne")


# === The command ===


@pytest.fixture
def run(tmp_path, monkeypatch):
    from vggish_keras import embedder

    monkeypatch.chdir(tmp_path)
    engine = FakeEngine("embedding", "quantized")
    monkeypatch.setattr(embedder, "open_engine", lambda *_arguments, **_options: engine)
    rng = np.random.default_rng(0)
    for index in range(6):
        write(Path("corpus") / str(index % 2) / f"{index}.wav", 0.1 * rng.normal(size=32_000))

    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.mark.parametrize("options", [[], ["--postprocess", "quantized"], ["--examples"]])
def test_command_makes_a_page_of_recordings(run, options):
    assert run("explore", "corpus", "-o", "x.html", "--quiet", *options) == (0, "wrote x.html\n", "")
    data = read_page("x.html")
    assert data["title"] == "corpus"
    assert sorted(data["urls"]) == [f"corpus/{index % 2}/{index}.wav" for index in (0, 2, 4, 1, 3, 5)]
    assert len(unpack(data["recordings"], "<u4")) == (12 if "--examples" in options else 6)


@pytest.mark.parametrize(("output", "audio"), [("saved", "corpus"), ("saved.npz", "."), ("saved.npz", "corpus")])
def test_command_makes_a_page_of_saved_embeddings(run, output, audio):
    run("embed", "corpus", "-o", output, "--quiet")
    assert run("explore", output, "-o", "x.html", "--audio", audio)[0] == 0
    assert len(read_page("x.html")["urls"]) == 6
    assert run("explore", output, "-o", "x.html", "--title", "Mine")[0] == 0
    assert (read_page("x.html")["urls"], read_page("x.html")["title"]) == (None, "Mine")


def test_command_reads_labels(run):
    with open("labels.csv", "w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
        csv.writer(file).writerows([["file", "kind", "speaker"], ["0/0.wav", "a", "x"], ["1/1.wav", "b", ""]])
    assert run("explore", "corpus", "-o", "x.html", "--labels", "labels.csv", "--quiet")[0] == 0
    kind, speaker, folder, _ = read_page("x.html")["colorings"]
    assert (kind["name"], kind["categories"]) == ("kind", ["a", "b", "none"])
    assert (speaker["name"], speaker["categories"]) == ("speaker", ["none", "x"])
    assert folder["categories"] == ["0", "1"]


def test_command_reports_why_all_recordings_fail(run):
    Path("bad").mkdir()
    Path("bad/x.wav").write_text("no audio")
    status, _, errors = run("explore", "bad", "-o", "x.html", "--quiet")
    assert status == 1
    assert "Error: bad/x.wav cannot be read as audio" in errors
    assert "no embeddings to explore" in errors


def test_command_reports_recordings_that_fail(run):
    Path("corpus/0/bad.wav").write_text("no audio")
    status, _, errors = run("explore", "corpus", "-o", "x.html", "--quiet")
    assert status == 1
    assert "Error: corpus/0/bad.wav cannot be read as audio" in errors
    assert len(read_page("x.html")["names"]) == 6


def test_command_finds_recordings_below_the_audio_folder(run):
    """All recordings are in one of its subfolders, and the folder has moved since."""
    run("embed", "corpus/0", "-o", "saved.npz", "--quiet")
    Path("corpus").rename("moved")
    assert run("explore", "saved.npz", "-o", "x.html", "--audio", "moved")[0] == 0
    assert sorted(read_page("x.html")["names"]) == ["0/0.wav", "0/2.wav", "0/4.wav"]


def test_command_reports_damaged_embeddings(run):
    run("embed", "corpus", "-o", "saved", "--quiet")
    Path("saved/0/0.wav.npz").write_text("damaged")
    status, _, errors = run("explore", "saved", "-o", "x.html")
    assert status == 1
    assert "Error: saved/0/0.wav.npz is not an .npz file" in errors
    assert len(read_page("x.html")["names"]) == 5


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["corpus", "-o", "x.txt"], 2, "expected an .html file, got x.txt"),
        (["missing.wav", "-o", "x.html"], 1, "no audio file at missing.wav"),
        (["corpus", "-o", "x.html", "--audio", "corpus"], 2, "--audio requires saved embeddings"),
        (["a.npz", "corpus", "-o", "x.html"], 2, "saved embeddings must be the only input, got a.npz and 1 more"),
        (["a.npz", "-o", "x.html"], 1, "a.npz does not exist"),
        (["a.npz", "-o", "x.html", "--embed-audio"], 2, "--embed-audio requires --audio"),
        (["corpus", "-o", "x.html", "--labels", "bad.csv"], 2, "must have the column file and at least one more"),
        (["corpus", "-o", "x.html", "--labels", "other.csv", "--quiet"], 1, "names none of the recordings"),
        (["corpus", "-o", "x.html", "--pca", "bad.csv"], 2, "--pca requires --postprocess"),
    ],
)
def test_wrong_arguments(run, arguments, status, message):
    Path("bad.csv").write_text("name,kind\nx,y\n")
    Path("other.csv").write_text("file,kind\nx,y\n")
    got, output, errors = run("explore", *arguments)
    assert (got, output) == (status, "")
    assert message in " ".join(errors.split())
    assert not Path("x.html").exists()


def test_missing_packages_are_named(run, monkeypatch):
    find = importlib.util.find_spec
    for package, name in (("umap", "umap-learn"), ("sklearn", "scikit-learn"), ("PIL", "Pillow")):
        with monkeypatch.context() as patch:
            patch.setattr(
                importlib.util, "find_spec", lambda asked, lacks=package: None if asked == lacks else find(asked)
            )
            status, _, errors = run("explore", "corpus", "-o", "x.html", "--quiet")
        assert (status, f'explore requires {name}: pip install "vggish[explore]"' in errors) == (1, True)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert 'explore requires plotly: pip install "vggish[explore]"' in run("explore", "corpus", "-o", "x.html")[2]
