"""`vggish beam` on a Flink cluster, whose output is that of the single-machine command, whichever process dies."""

import contextlib
import itertools
import json
import re
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import soundfile

import vggish_keras as vk
from tests.cluster.flink import Cluster, is_available
from tests.conftest import mounted_disk
from tests.test_beam import LOADED, contents, failures, serialized, written

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not is_available(), reason="java and mvn are not installed"),
]
CLIPS = 300
BAD = 9
SHARDS = 12
DONE = 3
"""Shards that are complete when something happens."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Clips of four formats, three rates and many lengths, of which 3 % cannot be read."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for index in range(CLIPS):
        path = folder / f"{index:03}.{('wav', 'flac', 'ogg', 'mp3')[index % 4]}"
        rate = (44_100, 16_000, 22_050)[index % 3]
        if is_bad(path):
            path.write_bytes(rng.bytes(5_000))
        else:
            soundfile.write(path, rng.uniform(-0.5, 0.5, (int(rate * rng.uniform(0.5, 6)), 1 + index % 2)), rate)
    return folder


@pytest.fixture(scope="module")
def seconds(corpus):
    """Seconds of audio in the corpus."""
    return sum(soundfile.info(path).duration for path in corpus.iterdir() if not is_bad(path))


def is_bad(path):
    return int(path.stem) % (CLIPS // BAD + 1) == 1


def run(*arguments, status):
    """Runs `vggish`; returns its output and its errors."""
    with started(*arguments) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == status, errors
    return output, errors


@contextlib.contextmanager
def started(*arguments):
    """Starts `vggish`, which does not outlive the block."""
    command = [sys.executable, "-m", "vggish_keras", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def single(corpus, exported, tmp_path_factory):
    """The records and the failures of the single-machine command."""
    output = tmp_path_factory.mktemp("single") / "x.tfrecord"
    run("embed", corpus, "-o", output, "--weights", exported, status=1)
    return serialized(output), failures(output.with_name("x.tfrecord.failures.csv"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def arguments(cluster, corpus, exported, tmp_path):
    return ["beam", "--input", corpus, "--output", tmp_path / "out" / "x", "--weights", exported, *cluster.options]


def wait_for_workers(folder):
    """Workers outlive the failure of their task, and complete or remove the file that they are writing."""
    end = time.monotonic() + 30
    while any(path.suffix == ".partial" for path in folder.rglob("*")) and time.monotonic() < end:
        time.sleep(0.1)


def check(prefix, single, output):
    """Checks that an output has all records and failures once, equal to the byte, and nothing else."""
    wait_for_workers(prefix.parent)
    assert (written(prefix), failures(prefix.with_name("x-failures.csv"))) == single
    assert re.fullmatch(rf"{prefix}: {CLIPS - BAD} files, 0\.\d\d h of audio, {BAD} failed\n", output)
    shards = len(list(prefix.parent.glob("x-*.tfrecord")))
    assert len(contents(prefix)) == 2 * shards + 2  # with their manifests, the failures and the options


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_output_is_that_of_the_single_machine(cluster, arguments, single, seconds, tmp_path, shards):
    with sizes_of_workers() as sizes:
        output, _ = run(*arguments, "--shards", shards, status=1)
    check(tmp_path / "out" / "x", single, output)
    assert len(list((tmp_path / "out").glob("x-*.tfrecord"))) == shards
    assert sum(size > LOADED for size in sizes.values()) == 1  # one network for all workers of the machine
    assert 0 < cluster.bytes_shuffled() < 0.01 * seconds * 16_000 * 2  # of 16-bit samples at 16 kHz


class sizes_of_workers:  # noqa: N801 - a context manager
    """Collects the largest size of each worker process in bytes."""

    def __enter__(self):
        self._over, sizes = threading.Event(), {}

        def collect():
            while not self._over.wait(0.2):
                for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
                    if any("SdkHarness" in part for part in process.info["cmdline"] or ()):
                        size = process.info["memory_info"].rss
                        sizes[process.pid] = max(size, sizes.get(process.pid, 0))

        self._thread = threading.Thread(target=collect)
        self._thread.start()
        return sizes

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def wait_until_some_shards_are_complete(folder, process):
    """Returns when the complete shards were written. A shard is complete once its manifest lists its recordings."""
    while len(complete := [path for path in folder.glob("x-manifests/*.json") if recordings_of(path)]) < DONE:
        assert process.poll() is None
        time.sleep(0.05)
    return times_of(folder / f"x-{path.stem}.tfrecord" for path in complete)


def recordings_of(manifest):
    return json.loads(manifest.read_bytes())["recordings"]


def times_of(paths):
    return {path: path.stat().st_mtime_ns for path in paths}


def kill_task_manager(cluster):
    cluster.kill("task_manager_0")
    cluster.start_task_manager(0)


def kill_worker_pool(cluster):
    cluster.kill("worker_pool_0")
    cluster.start_worker_pool(0)


def kill_worker_with_the_network(cluster):
    """Only the worker process: the pool starts a new one."""
    pools = [process.pid for name, process in cluster.processes.items() if name.startswith("worker_pool")]
    workers = itertools.chain.from_iterable(psutil.Process(pid).children(recursive=True) for pid in pools)
    max(workers, key=lambda process: process.memory_info().rss).kill()


@pytest.mark.parametrize("kill", [kill_task_manager, kill_worker_pool, kill_worker_with_the_network])
def test_work_of_a_killed_process_is_repeated(cluster, arguments, single, tmp_path, kill):
    with started(*arguments, "--shards", SHARDS) as process:
        complete = wait_until_some_shards_are_complete(tmp_path / "out", process)
        kill(cluster)
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 1, errors
    check(tmp_path / "out" / "x", single, output)
    assert times_of(complete) == complete
    cluster.wait_for_slots()


def test_restarted_job_manager_fails_the_run_which_can_be_resumed(cluster, arguments, single, tmp_path):
    """A JobManager without high availability forgets its jobs."""
    with started(*arguments, "--shards", SHARDS) as process:
        complete = wait_until_some_shards_are_complete(tmp_path / "out", process)
        cluster.kill("job_manager")
        cluster.start_job_manager()
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert re.search(r"^Error: .*Flink", errors.splitlines()[-1])
    cluster.wait_for_slots()
    output, _ = run(*arguments, "--resume", "--statistics", tmp_path / "out" / "statistics.npz", status=1)
    assert times_of(complete) == complete
    statistics = vk.Statistics.load(tmp_path / "out" / "statistics.npz")
    (tmp_path / "out" / "statistics.npz").unlink()
    check(tmp_path / "out" / "x", single, output)
    rows = np.concatenate([record.embedding for record in vk.records.read(tmp_path.glob("out/x-*.tfrecord"))])
    assert (statistics.recordings, statistics.n) == (CLIPS - BAD, len(rows))
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=1e-9)


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for a part of the records."""
    with mounted_disk(tmp_path / "out", "100k") as folder:
        yield folder


def test_full_disk_fails_the_run_which_can_be_resumed(arguments, small_disk, single):
    _, errors = run(*arguments, "--shards", SHARDS, "--number_of_execution_retries=1", status=1)
    assert "No space left on device" in errors.splitlines()[-1]
    wait_for_workers(small_disk)
    names = {path.name for path in small_disk.iterdir()}
    assert names > {"x-manifests"}
    assert all(re.fullmatch(r"x-manifests|x-\d{5}-of-00012\.tfrecord", name) for name in names)
    list(vk.records.read(small_disk.glob("x-*.tfrecord")))  # raises for damaged files
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    output, _ = run(*arguments, "--resume", status=1)
    check(small_disk / "x", single, output)
