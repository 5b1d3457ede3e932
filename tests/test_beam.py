"""Beam pipelines, on the runners that need no cluster, compared with the single-machine command."""

import contextlib
import csv
import gc
import glob
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import apache_beam
import numpy as np
import psutil
import pytest
import soundfile
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes, FileMetadata, FileSystem
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from click.testing import CliRunner

import vggish_keras as vk
from tests.conftest import expect_in_cache
from vggish_keras import beam
from vggish_keras._atomic import atomic_write
from vggish_keras.cli import main

GOOD, BAD = 20, 5
LOADED = 1e9
"""Bytes of a process with TensorFlow and the network; TensorFlow alone needs 0.76e9."""
losing_a_worker = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""The threads of Beam that talk to a lost worker raise."""
TWO_PROCESSES = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings of many lengths, rates and formats; unreadable files; and the real recordings, if available."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for index in range(GOOD):
        rate, suffix = (44_100, 16_000, 8_000)[index % 3], ("wav", "flac", "ogg", "wav")[index % 4]
        path = folder / "ab"[index % 2] / f"{index:02}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, int(rate * rng.uniform(0.2, 4))), rate)
    shutil.copy(folder / "a" / "00.wav", folder / os.fsdecode(b"a\xff, b\nc.wav"))
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no audio")
    shutil.copy(folder / "text.wav", folder / os.fsdecode(b"\xfe.wav"))
    whole = (folder / "a" / "00.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    late = rng.uniform(-0.5, 0.5, 160_000)
    late[-1] = np.nan
    soundfile.write(folder / "damaged at the end.wav", late, 16_000, subtype="FLOAT")
    if "VGGISH_REFERENCE" in os.environ:
        shutil.copytree(Path(os.environ["VGGISH_REFERENCE"], "audio"), folder / "real")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory, pca_params):
    """A cache folder with PCA parameters."""
    folder = tmp_path_factory.mktemp("home")
    np.savez(folder / "vggish_pca_params.npz", **pca_params)
    return folder


@pytest.fixture(autouse=True)
def _home(_own_cache, home, monkeypatch):
    monkeypatch.setenv("VGGISH_KERAS_HOME", str(home))
    expect_in_cache(monkeypatch, "PCA_PARAMS")


@pytest.fixture(scope="module")
def single(corpus, home, slim, tmp_path_factory):
    """The records and failures that the single-machine command writes for the corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGGISH_KERAS_HOME", str(home))
        expect_in_cache(patch, "PCA_PARAMS")
        prefix = tmp_path_factory.mktemp("single") / "single"
        command("embed", corpus, "-o", f"{prefix}.tfrecord", "--weights", slim.v2, status=1)
    return serialized(f"{prefix}.tfrecord"), failures(f"{prefix}.tfrecord.failures.csv")


@pytest.fixture
def options(slim):
    """How the embeddings of the single-machine command are made."""
    return vk.Embedder(slim.v1, postprocess="quantized").options


def command(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


def serialized(*files):
    """The serialized records by name."""
    found = list(tf.data.TFRecordDataset(list(map(str, files))).as_numpy_iterator())
    parsed = [tf.train.SequenceExample.FromString(record).context.feature for record in found]
    names = [context["video_id"].bytes_list.value[0] for context in parsed]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def written(prefix):
    """The records at a prefix, with all shards complete."""
    files = sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}-*.tfrecord"))
    assert files
    assert [file.name[-8 - 6 : -9] for file in files] == [f"{len(files):05}"] * len(files)
    return serialized(*files)


def failures(path):
    with open(path, newline="", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "reason"]
    return sorted(rows)


def other_files(folder):
    """The names of the files that are neither shards nor their manifests."""
    return {path.name for path in folder.rglob("*") if path.is_file() and "-of-" not in path.name}


class Writing(apache_beam.PTransform):
    """A quick substitute for EmbedCorpus, which writes values that exist already."""

    options: ClassVar[dict[str, str]] = {}
    resume = False

    def __init__(self, values, transform, prefix):
        super().__init__()
        self.prefix = str(prefix)
        self._values, self._write = values, transform(self.prefix)

    def expand(self, pipeline):
        return pipeline | apache_beam.Create(self._values) | self._write


# === Runners ===


def test_one_process_writes_the_single_machine_output(corpus, single, options, slim, tmp_path):
    out = command("beam", "--input", corpus, "--output", tmp_path / "out" / "x", "--weights", slim.v2, status=1)
    assert (written(tmp_path / "out" / "x"), failures(tmp_path / "out" / "x-failures.csv")) == single
    assert f"{len(single[0])} files, 0.0" in out
    assert f"{BAD} failed" in out
    assert json.loads((tmp_path / "out" / "x.tfrecord.vggish.json").read_text()) == options
    # Everything in the corpus, and no leftovers.
    assert len(single[0]) == GOOD + 1 + len(list(corpus.glob("real/*")))
    assert len(single[1]) == BAD
    assert other_files(tmp_path) == {"x-failures.csv", "x.tfrecord.vggish.json"}
    assert not list(tmp_path.rglob(".*"))


@pytest.fixture
def job_service(tmp_path):
    """The port of Beam's local job service, which accepts pipelines like Flink's."""
    port = tmp_path / "port"
    module = "apache_beam.runners.portability.local_job_service_main"
    with subprocess.Popen([sys.executable, "-m", module, "--port_file", port], stderr=subprocess.DEVNULL) as process:
        while not port.exists():
            assert process.poll() is None
            time.sleep(0.1)
        yield port.read_text()
        process.terminate()


@pytest.mark.slow
def test_job_service_writes_the_single_machine_output(corpus, single, options, exported, tmp_path, job_service):
    portable = ["--runner=PortableRunner", f"--job_endpoint=localhost:{job_service}", "--environment_type=LOOPBACK"]
    arguments = ["--input", corpus / "**" / "*.*", "--output", tmp_path / "x", "--weights", exported, "--shards", 3]
    command("beam", *arguments, *portable, status=1)
    assert (written(tmp_path / "x"), failures(tmp_path / "x-failures.csv")) == single
    made_with = json.loads((tmp_path / "x.tfrecord.vggish.json").read_text())
    assert made_with == {**options, "engine": "SavedModel", "dtype": "as exported"}


@contextlib.contextmanager
def one_worker_killed(min_bytes=0):
    """Kills the first worker process of this process that has grown to a size."""
    killed, over = [], threading.Event()

    def kill():
        while not killed and not over.wait(0.02):
            for process in filter(is_worker, psutil.Process().children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.memory_info().rss > min_bytes:
                        process.kill()
                        killed.append(process.pid)
                        break

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1


@losing_a_worker
@pytest.mark.slow
def test_run_restarts_when_the_worker_with_the_network_is_killed(corpus, single, exported, tmp_path):
    transform = beam.EmbedCorpus([str(corpus)], str(tmp_path / "x"), weights=exported)
    with one_worker_killed(min_bytes=LOADED):
        result = beam.run(transform, PipelineOptions(TWO_PROCESSES))
    assert (written(tmp_path / "x"), failures(tmp_path / "x-failures.csv")) == single
    assert beam.summarize(result).recordings == len(single[0])


@losing_a_worker
def test_run_restarts_when_a_worker_is_killed_while_starting(tmp_path):
    with one_worker_killed():
        beam.run(Writing([*"abc"], apache_beam.io.WriteToText, tmp_path / "x"), PipelineOptions(TWO_PROCESSES))
    assert sorted("".join(path.read_text() for path in tmp_path.glob("x-*")).split()) == ["a", "b", "c"]


def is_worker(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name().startswith("python") and "apache_beam.runners.worker.sdk_worker_main" in process.cmdline()


# === Transforms ===


def test_recordings_share_batches_and_are_counted(corpus, exported_narrow, tmp_path, batches):
    files = [str(corpus / "a"), str(corpus / "text.wav")]
    transform = beam.EmbedCorpus(files, str(tmp_path / "x"), weights=exported_narrow, batch_size=4, shards=1)
    result = beam.run(transform, PipelineOptions([]))
    examples = sum(len(record.embedding) for record in vk.records.read(*tmp_path.glob("*.tfrecord")))
    assert batches == [4] * -(-examples // 4)
    seconds = sum(soundfile.info(path).duration for path in (corpus / "a").iterdir())
    assert beam.summarize(result) == (GOOD // 2, 1, pytest.approx(seconds, abs=0.001 * GOOD), {})


def test_each_segment_of_a_file_has_its_embeddings(exported_narrow, tmp_path):
    write_clip(tmp_path / "x.wav", 0)
    path = os.fsencode(tmp_path / "x.wav")
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        recordings = [(path, vk.segments.Segment("x", start, start + 1, ())) for start in (0, 1)]
        given = pipeline | apache_beam.Create(recordings, reshuffle=False)
        embedded = given | beam.EmbedAudio(exported_narrow)
        assert_that(embedded.embeddings | apache_beam.Keys(), equal_to([path, path]))


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that the network has computed."""
    sizes, compute = [], beam.embedding._Network.compute

    def counting(network, segments, output):
        sizes.append(len(segments))
        return compute(network, segments, output)

    monkeypatch.setattr(beam.embedding._Network, "compute", counting)
    return sizes


def test_each_file_is_matched_once(corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        found = pipeline | beam.MatchAudio(["a/*.wav", "a", str(corpus / "a" / "00.wav")])
        assert_that(found.recordings, equal_to([(b"a/" + path.name.encode(), None) for path in Path("a").iterdir()]))
        assert_that(found.failures, equal_to([]), label="no failures")


def test_a_single_pattern_is_not_a_sequence():
    with pytest.raises(TypeError, match=r"patterns must be a sequence of paths, got the single path r\.wav"):
        beam.MatchAudio("r.wav")


def test_other_files_in_folders_are_counted(tmp_path):
    for name in ("x.wav", "a.txt", "b.txt", "c"):
        (tmp_path / name).touch()
    pipeline = apache_beam.Pipeline(beam.LOCAL_RUNNER)
    pipeline | beam.MatchAudio([str(tmp_path)])
    assert beam.summarize(pipeline.run()).left_out == {".txt": 2, "": 1}


class MemoryFile(io.BytesIO):
    """A file that is stored when it is closed."""

    def __init__(self, files, path):
        super().__init__()
        self._files, self._path = files, path

    def close(self):
        if not self.closed:
            self._files[self._path] = self.getvalue()
        super().close()


class Memory(FileSystem):
    """A file system that is not local, with files in memory."""

    files: ClassVar[dict[str, bytes]] = {}

    @classmethod
    def scheme(cls):
        return "memory"

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        return io.BytesIO(self.files[path])

    def _list(self, dir_or_prefix):
        return [FileMetadata(path, len(content)) for path, content in self.files.items()]

    def has_dirs(self):
        return False

    def create(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        return MemoryFile(self.files, path)

    def exists(self, path):
        return path in self.files

    def rename(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.files[destination] = self.files.pop(source)

    def delete(self, paths):
        for path in paths:
            for name in [name for name in self.files if name == path or name.startswith(f"{path}/")]:
                del self.files[name]

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path):
        """There are no folders."""

    copy = size = last_updated = checksum = metadata = None


Memory.__abstractmethods__ = frozenset()


@pytest.mark.reference
def test_odd_recordings_are_read_whole(reference, exported_narrow):
    def check(embeddings):
        counts = {os.path.basename(path): len(result.values) for path, result in embeddings}
        assert counts == {b"vbr_no_header.mp3": 42, b"unknown_length.flac": 7, b"chained.ogg": 11, b"clip.m4a": 7}

    def check_failures(failures):
        ((path, reason),) = failures
        assert os.path.basename(path) == b"endless_list.wav"
        assert b"cannot be read as audio" in reason

    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        found = pipeline | beam.MatchAudio([str(reference / "odd_recordings")])
        embedded = found.recordings | beam.EmbedAudio(exported_narrow, padding="same")
        assert_that(embedded.embeddings, check, label="embeddings")
        assert_that(embedded.failures, check_failures, label="failures")


def equal(expected):
    """Checks for embeddings that are equal to the bit to those of an `Embedder`, by path."""

    def check(embeddings):
        found = dict(embeddings)
        assert found.keys() == expected.keys()
        for path, result in expected.items():
            np.testing.assert_array_equal(found[path].times, result.times)
            np.testing.assert_array_equal(found[path].values, result.values)

    return check


def test_one_channel_can_be_selected(tmp_path, exported_narrow):
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", stereo, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "right.wav", stereo[:, 1], 16_000, subtype="FLOAT")
    ((_, right),) = vk.Embedder(exported_narrow).embed_many([tmp_path / "right.wav"])
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        found = pipeline | beam.MatchAudio([str(tmp_path / "x.wav")])
        embedded = found.recordings | beam.EmbedAudio(exported_narrow, channels=1)
        assert_that(embedded.embeddings, equal({os.fsencode(tmp_path / "x.wav"): right}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "left"}, "channels must be"),
        ({"padding": "none"}, "padding must be"),
        ({"hop_seconds": 0.005}, "hop"),
        ({"dtype": "float64"}, "dtype must be"),
        ({"postprocess": "whiten"}, "postprocess must be"),
        ({"batch_size": 0}, "batch_size must be a positive whole number, got 0"),
    ],
)
def test_invalid_options_fail_where_the_pipeline_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        beam.EmbedAudio(None, **options)


def test_files_of_other_file_systems_are_read(corpus, exported_narrow, monkeypatch):
    audio = sorted((corpus / "a").glob("*.flac"))
    remote = {f"memory://audio/{path.name}": path.read_bytes() for path in audio}
    monkeypatch.setattr(Memory, "files", {**remote, "memory://audio/bad.flac": b"none", "memory://other/x.wav": b""})
    expected = {
        f"memory://audio/{path.name}".encode(): result
        for path, result in vk.Embedder(exported_narrow, padding="same").embed_many(audio)
    }
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        found = pipeline | beam.MatchAudio(["memory://audio/*"])
        embedded = found.recordings | beam.EmbedAudio(exported_narrow, padding="same")
        assert_that(embedded.embeddings, equal(expected), label="embeddings")
        path = b"memory://audio/bad.flac"
        reason = path + b" cannot be read as audio: it is not in a known audio format, or its header is damaged"
        assert_that(embedded.failures, equal_to([(path, reason)]), label="failures")


def test_segments_name_and_label_the_records(corpus, exported_narrow, tmp_path):
    names = [path.stem for path in sorted((corpus / "b").iterdir())]
    lists = ["--segments", tmp_path / "segments.csv", "--labels", tmp_path / "labels.csv"]
    lines = [f'{name}, {3 * index}.000, {3 * index + 4}.000, "/m/1,/m/2"\n' for index, name in enumerate(names[1:])]
    lists[1].write_text("# a comment\n" + "".join(lines))
    lists[3].write_text("index,mid,display_name\n7,/m/1,One\n9,/m/2,Two\n")
    command("embed", corpus / "b", "-o", tmp_path / "single.tfrecord", "--weights", exported_narrow, *lists, status=1)
    command("beam", "--input", corpus / "b", "--output", tmp_path / "x", "--weights", exported_narrow, *lists, status=1)
    assert written(tmp_path / "x") == serialized(tmp_path / "single.tfrecord")
    found = failures(tmp_path / "x-failures.csv")
    assert found == failures(tmp_path / "single.tfrecord.failures.csv")
    assert [Path(file).stem for file, _ in found] == names[:1]


@pytest.mark.parametrize("postprocess", [None, "quantized"])
def test_parquet_has_the_single_machine_rows(corpus, exported_narrow, tmp_path, postprocess, monkeypatch):
    import pyarrow.parquet

    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        found = pipeline | beam.MatchAudio([str(corpus / "a"), str(corpus / "text.wav")])
        embedded = found.recordings | beam.EmbedAudio(exported_narrow, 0.5, "valid", postprocess)
        embedded.embeddings | apache_beam.Reshuffle() | beam.WriteParquet(str(tmp_path / "x"), postprocess, shards=2)
    assert {path.stat().st_ino for path in (tmp_path, *tmp_path.glob("x-*-of-00002.parquet"))} == set(synced)
    options = ["--hop", 0.5, "--padding", "valid", "--weights", exported_narrow]
    options += ["--postprocess", postprocess] if postprocess else []
    command("embed", corpus / "a", "-o", tmp_path / "single.parquet", *options)
    order = [("file", "ascending"), ("time", "ascending")]
    table = pyarrow.concat_tables(map(pyarrow.parquet.read_table, tmp_path.glob("x-*-of-00002.parquet")))
    assert table.sort_by(order).equals(pyarrow.parquet.read_table(tmp_path / "single.parquet").sort_by(order))


def test_workers_with_different_networks_are_reported(exported_narrow, tmp_path, monkeypatch):
    """Such as a path that names different weights on each of them."""
    networks = itertools.cycle({"weights": f"sha256:{digit}", "dtype": "float32"} for digit in "01")
    process = beam.embed_corpus._EmbedShard.process

    def process_with_next(function, *arguments):
        function.made_with = next(networks)
        return process(function, *arguments)

    monkeypatch.setattr(beam.embed_corpus._EmbedShard, "process", process_with_next)
    soundfile.write(tmp_path / "x.wav", np.zeros(40_000), 16_000)
    embed = beam.EmbedCorpus([str(tmp_path / "x.wav")], str(tmp_path / "x"), weights=exported_narrow, batch_size=1)
    with pytest.warns(UserWarning, match="^the workers' networks differ in: weights$"):
        beam.run(embed, PipelineOptions([]))
    options = json.loads((tmp_path / "x.tfrecord.vggish.json").read_text())
    assert options == {"dtype": "float32", "hop_seconds": 0.96, "padding": "short", "channels": "mix"}


def test_statistics_are_those_of_the_single_machine_rows(corpus, exported_narrow, tmp_path):
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        found = pipeline | beam.MatchAudio([str(corpus / "a")])
        embedded = found.recordings | beam.EmbedAudio(exported_narrow)
        (
            embedded.embeddings
            | apache_beam.Reshuffle()
            | beam.WriteStatistics(str(tmp_path / "new" / "x.npz"), {"hop_seconds": 0.96})
        )
    statistics = vk.Statistics.load(tmp_path / "new" / "x.npz")
    assert statistics.options == {"hop_seconds": 0.96}
    results = list(vk.Embedder(exported_narrow).embed_many(sorted((corpus / "a").iterdir())))
    assert statistics.recordings == len(results)
    rows = np.concatenate([embeddings.values for _, embeddings in results])
    assert statistics.n == len(rows)
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T.astype(np.float64)), rtol=1e-9, atol=1e-12)
    expected = vk.Statistics()
    for path, embeddings in results:
        expected.add(embeddings.values, recording=str(path))
    assert [moments.n for _, moments in statistics.without_groups()] == [
        moments.n for _, moments in expected.without_groups()
    ]


def test_no_statistics_without_recordings(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        embedded = pipeline | apache_beam.Create([]).with_output_types(tuple[bytes, vk.Embeddings])
        embedded | beam.WriteStatistics(str(tmp_path / "x.npz"))
    assert not (tmp_path / "x.npz").exists()
    with pytest.raises(ValueError, match=r"expected an \.npz file"):
        beam.WriteStatistics("x.csv")


def test_statistics_are_written_to_other_file_systems(monkeypatch):
    monkeypatch.setattr(Memory, "files", {})
    embeddings = vk.Embeddings(np.zeros(1), np.full((1, 128), 7, np.uint8))
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        embedded = pipeline | apache_beam.Create([(b"a.wav", embeddings)])
        embedded | beam.WriteStatistics("memory://x/y.npz")
    with np.load(io.BytesIO(Memory.files["memory://x/y.npz"])) as file:
        np.testing.assert_array_equal(file["vggish.mu"], np.full(128, 7))


def test_network_is_freed_with_the_pipeline(corpus, exported_narrow):
    with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        found = pipeline | beam.MatchAudio([str(corpus / "a")])
        embedded = found.recordings | beam.EmbedAudio(exported_narrow)
        assert_that(embedded.embeddings, lambda embeddings: None)
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is beam.embedding._Network]


# === Earlier runs ===


@pytest.fixture
def clips(tmp_path):
    """A folder of 12 recordings of one to three examples, and one that cannot be read."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(12):
        write_clip(folder / f"{index:02}.wav", index)
    (folder / "text.wav").write_text("no audio")
    return folder


def write_clip(path, seed):
    rng = np.random.default_rng(seed)
    soundfile.write(path, rng.uniform(-0.5, 0.5, int(16_000 * rng.uniform(1, 3))), 16_000)


@pytest.fixture
def embed_clips(clips, exported_narrow, tmp_path):
    """Runs the command on the clips; returns its output."""

    def embed(*options, prefix=tmp_path / "x", status=1):
        return command(
            "beam", "--input", clips, "--output", prefix, "--weights", exported_narrow, *options, status=status
        )

    return embed


def contents(prefix):
    """The bytes of all files of an output."""
    return {path.relative_to(prefix.parent): path.read_bytes() for path in prefix.parent.rglob("*") if path.is_file()}


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("step", ["records", "manifest before", "manifest after"])
@pytest.mark.parametrize("stop", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_run_continues_where_it_was(embed_clips, batches, tmp_path, monkeypatch, step, stop):
    whole = embed_clips("--shards", 5, prefix=tmp_path / "whole" / "x")
    needed, written = len(batches), itertools.count()
    batches.clear()

    def stopping(write, after):
        def wrapper(*arguments):
            if not after and next(written) == stop:
                raise StoppedError
            write(*arguments)
            if after and next(written) == stop:
                raise StoppedError

        return wrapper

    manifest = beam.embed_corpus._Manifest
    with monkeypatch.context() as patch:
        if step == "records":
            patch.setattr(vk.records, "write", stopping(vk.records.write, after=True))
        else:
            written = itertools.count(-stop)  # each shard writes two
            patch.setattr(manifest, "write", stopping(manifest.write, after=step == "manifest after"))
        embed_clips("--shards", 5, prefix=tmp_path / "part" / "x")
    assert embed_clips("--resume", "--shards", 5, prefix=tmp_path / "part" / "x").replace("part", "whole") == whole
    assert contents(tmp_path / "part" / "x") == contents(tmp_path / "whole" / "x")
    assert needed <= len(batches) <= needed + 1  # all shards but one are embedded once


def test_complete_run_is_not_repeated(embed_clips, batches, tmp_path):
    first = embed_clips()
    before, sizes = contents(tmp_path / "x"), len(batches)
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.glob("x-*.tfrecord")}
    assert embed_clips("--resume") == first
    assert contents(tmp_path / "x") == before
    assert len(batches) == sizes
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("x-*.tfrecord")} == changed


def test_resumed_run_adds_recordings_and_repeats_failures(embed_clips, clips, batches, tmp_path):
    embed_clips()
    assert failures(tmp_path / "x-failures.csv") != []
    batches.clear()
    write_clip(clips / "text.wav", 20)
    write_clip(clips / "new.wav", 21)
    assert "14 files" in embed_clips("--resume", status=0)
    assert len(batches) <= 2
    assert not (tmp_path / "x-failures.csv").exists()
    embed_clips(prefix=tmp_path / "whole" / "x", status=0)
    assert written(tmp_path / "x") == written(tmp_path / "whole" / "x")


def test_statistics_of_a_resumed_run_are_those_of_the_whole(embed_clips, clips, tmp_path):
    embed_clips()
    write_clip(clips / "new.wav", 21)
    embed_clips("--resume", "--statistics", tmp_path / "new" / "statistics.npz")
    statistics = vk.Statistics.load(tmp_path / "new" / "statistics.npz")
    rows = np.concatenate([record.embedding for record in vk.records.read(tmp_path.glob("x-*.tfrecord"))])
    assert (statistics.recordings, statistics.n, statistics.is_quantized) == (13, len(rows), True)
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T.astype(float)), rtol=1e-9, atol=1e-9)
    assert statistics.options["weights"] == json.loads((tmp_path / "x.tfrecord.vggish.json").read_text())["weights"]


@pytest.mark.slow
def test_run_that_cannot_continue(embed_clips, clips, tmp_path):
    embed_clips()
    before = contents(tmp_path / "x")
    assert "hop_seconds 0.96, but this run has hop_seconds 0.5: choose" in embed_clips("--resume", "--hop", 0.5)
    assert "has 4 shards, not 3" in embed_clips("--resume", "--shards", 3)
    (clips / "00.wav").rename(clips.parent / "00.wav")
    assert f"not among the inputs (1), such as {clips}/00.wav: include them" in embed_clips("--resume")
    (clips.parent / "00.wav").rename(clips / "00.wav")
    damaged = tmp_path / "x-manifests" / "00000-of-00004.json"
    damaged.write_text("{")
    assert f"{damaged} is damaged: delete it" in embed_clips("--resume")
    damaged.unlink()
    embed_clips("--resume")
    assert contents(tmp_path / "x") == before
    shard = max(tmp_path.glob("x-*.tfrecord"), key=lambda path: path.stat().st_size)
    vk.records.write(shard, [])
    message = f"{shard} does not have the recordings of "
    assert message in embed_clips("--resume", "--statistics", tmp_path / "statistics.npz")
    shard.unlink()
    embed_clips("--resume")
    assert contents(tmp_path / "x") == before
    for path in (tmp_path / "x-manifests").iterdir():
        path.unlink()
    assert "was not written by this version of vggish beam" in embed_clips("--resume")


def test_each_shard_has_a_file(embed_clips, tmp_path):
    embed_clips("--shards", 40)
    assert len(written(tmp_path / "x")) == 12
    assert len(list(tmp_path.glob("x-*.tfrecord"))) == 40


@pytest.mark.parametrize(
    ("recordings", "shards"), [(0, 4), (2_000, 4), (2_001, 5), (1_000_000, 2_000), (10**9, 99_999)]
)
def test_number_of_shards(recordings, shards):
    assert beam.embed_corpus._default_shards(recordings) == shards


def test_records_are_written_to_other_file_systems(embed_clips, clips, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(Memory, "files", {})
    assert "12 files" in embed_clips(prefix="memory://out/x")
    embed_clips()
    local = {f"memory://out/{path}": content for path, content in contents(tmp_path / "x").items()}
    assert {path: content for path, content in local.items() if "clips" not in path} == Memory.files
    batches.clear()
    embed_clips("--resume", prefix="memory://out/x")
    assert not batches
    assert "already exists" in embed_clips(prefix="memory://out/x")


# === Errors ===


@pytest.mark.parametrize("prefix", ["x", "./x", "r/x", "r/../x", "{folder}/x"])
def test_existing_records_are_not_replaced(corpus, exported_narrow, tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    Path("r").mkdir()
    prefix = prefix.format(folder=tmp_path)
    existing = Path(f"{prefix}-00000-of-00002.tfrecord")
    existing.write_text("mine")
    arguments = ["--input", corpus / "a", "--output", prefix, "--weights", exported_narrow, "--shards", 2]
    out = command("beam", *arguments, status=1)
    assert f"{prefix}-*.tfrecord already exists: continue with --resume, or choose" in out
    assert existing.read_text() == "mine"
    assert sorted(path.name for path in existing.parent.iterdir() if path.is_file()) == [existing.name]


@pytest.mark.parametrize("prefix", ["x", "./x", "./new/x", "[new]/x*", "{folder}/new/x"])
def test_output_may_be_relative_or_in_a_new_folder(embed_clips, clips, tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    prefix = prefix.format(folder=tmp_path)
    (clips / "text.wav").unlink()
    embed_clips(prefix=prefix, status=0)
    assert len(written(Path(prefix))) == 12
    assert other_files(tmp_path) - {path.name for path in clips.iterdir()} == {
        f"{Path(prefix).name}.tfrecord.vggish.json"
    }
    assert {path.name for path in Path(prefix).parent.iterdir() if path.is_dir()} <= {
        "clips",
        f"{Path(prefix).name}-manifests",
    }


@pytest.mark.parametrize(
    ("folder", "prefix"), [("", "x[1]"), ("", "a[bc]/x"), ("", "x*"), ("", "new/x?"), ("[a]", "x"), ("[a]", "./new/x")]
)
def test_output_that_is_a_pattern_fails_at_once(tmp_path, monkeypatch, folder, prefix):
    (tmp_path / folder).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    message = "the output path must not contain *, ? or [, which Beam treats as a pattern, got "
    with pytest.raises(ValueError, match=re.escape(f"{message}{Path(prefix).absolute()}")):
        beam.WriteParquet(prefix)
    output = command("beam", "--input", "x.wav", "--output", f"memory://{prefix}*", "--weights", "unread", status=1)
    assert message in output
    assert not list(Path().iterdir())


def test_failed_run_leaves_no_temporary_files(embed_clips, tmp_path, monkeypatch):
    def fail(path, records):
        with atomic_write(Path(path)) as partial:
            partial.write_text("half")
            raise RuntimeError("out of order")

    monkeypatch.setattr(vk.records, "write", fail)
    assert "out of order" in embed_clips(prefix=tmp_path / "new" / "x")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x-manifests"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--input", "nowhere/*.wav"], 1, "Error: no file matches nowhere/*.wav"),
        (["--input", "x.wav", "--weights", "nowhere"], 1, "Error: no weights found at nowhere"),
        (["--input", "x.wav", "--labels", "labels.csv"], 2, "--labels requires --segments"),
        (["--input", "x.wav", "y.wav"], 2, "unexpected argument y.wav: quote patterns"),
        (["--input", "x.wav", "--shard=3"], 2, "unknown option --shard (not an option of this command or of Beam)"),
        (["--input", "x.wav", "--hop", "0"], 2, "hop"),
        (["--input", "x.wav", "--runner", "Some"], 1, "Unexpected pipeline runner: Some"),
    ],
)
def test_invalid_arguments_are_reported(tmp_path, monkeypatch, exported_narrow, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("x.wav", np.zeros(16_000), 16_000)
    assert message in command("beam", "--output", "out", "--weights", exported_narrow, *arguments, status=status)
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "BeamError\nTraceback (most recent call last):\n  File x\nOSError: full [while running 'x']\n",
            "OSError: full",
        ),
        (
            "failed: [a.B: no job\n\tat a.c(d)\nCaused by: a.B: no job\n\tat a.c(d)\n\t... 5 more\n]",
            "Error: a.B: no job",
        ),
        ("", "Error: "),
    ],
)
def test_reason_of_a_failed_run(tmp_path, monkeypatch, text, reason):
    def fail(corpus, options):
        raise RuntimeError(text)

    monkeypatch.setattr(beam, "run", fail)
    arguments = ["--input", "x.wav", "--output", tmp_path / "x", "--weights", "x", "--hop", 0.96, "--padding", "valid"]
    assert command("beam", *arguments, status=1).splitlines()[-1].endswith(reason)


@pytest.mark.parametrize("verbose", [False, True])
def test_log_of_beam_is_shown_only_if_verbose(tmp_path, exported_narrow, caplog, verbose):
    options = ["--output", tmp_path / "x", "--weights", exported_narrow, *["-v"] * verbose]
    output = command("beam", "--input", tmp_path, *options, status=1)
    assert output.splitlines()[-1] == f"Error: no audio files in {tmp_path}"
    assert any(record.name.startswith("apache_beam") for record in caplog.records) == verbose


def test_missing_beam_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "vggish_keras.beam")
    monkeypatch.delattr(vk, "beam")
    assert 'pip install "vggish[beam]"' in command("beam", "--input", "x", "--output", "y", status=1)
