import contextlib
import gc
import hashlib
import os
import shutil
import signal
import subprocess
import time
import weakref
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On a busy machine, threads of a matrix product that wait for each other take many times as long as one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import filelock
import numpy as np
import psutil
import pytest
import soundfile

from tests import published


def pytest_addoption(parser):
    parser.addoption("--slim", help="folder with checkpoints of an earlier run of the slim fixture")


def pytest_configure():
    # Background jobs of a shell ignore Ctrl-C, and so would the commands that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val, argname):
    """Some encoders write random numbers, but a test must have the same name in each process."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    if os.environ.get("VGGISH_REFERENCE"):
        return
    skip = pytest.mark.skip(reason="VGGISH_REFERENCE names no folder with the published system's data")
    for item in items:
        if item.get_closest_marker("reference"):
            item.add_marker(skip)


@pytest.fixture(params=["untimed", pytest.param("timed", marks=pytest.mark.timing)])
def time_limit(request):
    """Returns its argument in runs of tests marked `timing`, and a minute in the suite, where it only ends hangs."""
    return lambda seconds: seconds if request.param == "timed" else 60


def quickest(work, times=5):
    """The seconds that `work` takes undisturbed: the least of several times, because other processes only add to it."""

    def seconds():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(seconds() for _ in range(times))


@pytest.fixture(autouse=True)
def _free_networks():
    """Frees networks, which are in reference cycles, whenever a test leaves much memory behind."""
    before = psutil.Process().memory_info().rss
    yield
    if psutil.Process().memory_info().rss > before + 200e6:
        gc.collect()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with data of the published system."""
    return Path(os.environ["VGGISH_REFERENCE"]).resolve()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keeps tests from the user's cache and from the network."""
    monkeypatch.setenv("VGGISH_KERAS_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("vggish_keras.params.PUBLISHED_URL", "http://127.0.0.1:9/")


@pytest.fixture(scope="session")
def slim(tmp_path_factory, request) -> published.Slim:
    """A checkpoint that TF-Slim wrote, in both formats, with its graph's embeddings."""
    given = request.config.getoption("--slim")
    folder = Path(given) if given else tmp_path_factory.mktemp("slim")
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):  # processes of one run share the folder
        return published.slim_checkpoint(folder)


@pytest.fixture(scope="session")
def vggish(slim):
    """The whole model with the checkpoint's weights, built once."""
    import vggish_keras as vk

    return vk.VGGish(weights=slim.v2)


@pytest.fixture(scope="session")
def embedder(slim):
    import vggish_keras as vk

    return vk.Embedder(weights=slim.v2, batch_size=4)


@pytest.fixture
def small_network(monkeypatch):
    """A network simple enough to check by hand: each embedding is 128 times the mean of its example."""
    from tensorflow import keras

    from vggish_keras import network

    def mean_of_example(examples, dtype=None, initialize=True):
        images = network.FoldExamples()(examples)
        mean = keras.layers.GlobalAveragePooling2D()(images)
        ones = keras.layers.Dense(128, kernel_initializer="ones", name="fc2")
        return network.UnfoldExamples()([ones(mean), examples])

    monkeypatch.setattr(network, "embed_examples", mean_of_example)


@pytest.fixture
def narrow_network(monkeypatch):
    make_network_narrow(monkeypatch)


def make_network_narrow(monkeypatch):
    """Reduces all layers but the embedding to a sixteenth of their filters and units, which train quickly."""
    from tensorflow import keras

    wide_conv, wide_dense = keras.layers.Conv2D, keras.layers.Dense

    def conv(filters, **options):
        return wide_conv(filters // 16, **options)

    def dense(units, *arguments, **options):
        return wide_dense(units // 16 if units == 4096 else units, *arguments, **options)

    monkeypatch.setattr(keras.layers, "Conv2D", conv)
    monkeypatch.setattr(keras.layers, "Dense", dense)


@pytest.fixture(scope="session")
def pca_params() -> dict[str, np.ndarray]:
    """Parameters of the published names and shapes that spread embeddings of order one over [-2, 2] and beyond."""
    rng = np.random.default_rng(1)
    return {
        "pca_eigen_vectors": rng.standard_normal((128, 128)) / np.sqrt(128),
        "pca_means": 0.3 * rng.standard_normal((128, 1)),
    }


@pytest.fixture(scope="session")
def exported(vggish, pca_params, tmp_path_factory) -> Path:
    """A SavedModel of the session's model, with post-processing, in a folder as TF Serving expects it."""
    import vggish_keras as vk

    return vk.export_saved_model(
        vggish, tmp_path_factory.mktemp("exported") / "vggish" / "1", "quantized", pca_params=pca_params
    )


@pytest.fixture(scope="session")
def exported_narrow(pca_params, tmp_path_factory) -> Path:
    """A SavedModel of a narrow network, which loads and runs quickly."""
    import tensorflow as tf

    import vggish_keras as vk

    with pytest.MonkeyPatch.context() as patch:
        make_network_narrow(patch)
        tf.keras.utils.set_random_seed(0)
        return vk.export_saved_model(
            vk.VGGish(None), tmp_path_factory.mktemp("narrow") / "vggish", "quantized", pca_params=pca_params
        )


@pytest.fixture
def count_segments(monkeypatch):
    """Makes a module log the segments that it cuts: 1 when one is made, -1 when it is freed."""
    from vggish_keras.framing import cut_segments

    def install(module):
        changes = []

        def counted(*arguments):
            for segment in cut_segments(*arguments):
                segment = segment.copy()
                weakref.finalize(segment, changes.append, -1)
                changes.append(1)
                yield segment

        monkeypatch.setattr(module, "cut_segments", counted)
        return changes

    return install


@pytest.fixture
def assert_durable(monkeypatch):
    """Returns a function that asserts that a file or folder was on the disk before it was moved to its path.

    Also its folder must be, afterwards.
    """
    synced, moves, originals = [], {}, {name: getattr(os, name) for name in ("fsync", "replace", "rename")}

    def describe(status):
        return status.st_ino, status.st_size, status.st_mtime_ns

    def fsync(descriptor):
        originals["fsync"](descriptor)
        synced.append(describe(os.fstat(descriptor)))

    def moving(name):
        def move(source, target):
            contents = {describe(path.stat()): path for path in (Path(source), *Path(source).rglob("*"))}
            missing = [contents[state] for state in contents.keys() - set(synced)]
            originals[name](source, target)
            moves[Path(target).absolute()] = (missing, len(synced))

        return move

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, moving(name))

    def check(path):
        missing, before = moves[Path(path).absolute()]
        assert not missing
        if os.name != "nt":
            assert Path(path).absolute().parent.stat().st_ino in [number for number, *_ in synced[before:]]

    return check


@pytest.fixture
def file_size_limit():
    """Limits the size of files, like a full disk."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@contextlib.contextmanager
def mounted_disk(folder, size):
    """Mounts a file system of a size, such as "8m", in a new folder; skips the test without the right to."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def expect_in_cache(monkeypatch, constant):
    """Makes the file in the cache the one whose checksum is expected, for `params.CHECKPOINT` or `params.PCA_PARAMS`.

    Other processes expect the published file.
    """
    from vggish_keras import params, published_files

    name = getattr(params, constant).name
    with published_files.published_path(getattr(params, constant)).open("rb") as file:
        checksum = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    monkeypatch.setattr(params, constant, params.PublishedFile(name, checksum))


@pytest.fixture
def pca_in_cache(pca_params, monkeypatch):
    """Places the parameters in the cache by hand, as a substitute for the published file."""
    path = Path(os.environ["VGGISH_KERAS_HOME"]) / "vggish_pca_params.npz"
    np.savez(path, **pca_params)
    expect_in_cache(monkeypatch, "PCA_PARAMS")
    return path


@pytest.fixture(scope="session")
def sounds() -> dict[str, np.ndarray]:
    """16 kHz waveforms, float32, each difficult in its own way."""
    rng = np.random.default_rng(0)
    time = np.arange(48_000) / 16_000
    pink = np.cumsum(rng.standard_normal(48_000))
    pink -= np.linspace(pink[0], pink[-1], len(pink))
    sounds = {
        "noise": 0.3 * rng.standard_normal(48_000),
        "rumble": 0.5 * pink / np.abs(pink).max() + 0.05 * rng.standard_normal(48_000),
        "sine": np.sin(2 * np.pi * 1_000 * time),
        "sweep": 0.8 * np.sin(2 * np.pi * (50 * time + 1_200 * time**2)),
        "silence": np.zeros(32_000),
        "offset": np.full(32_000, 0.5),
        "clicks": np.where(np.arange(32_000) % 1_600 == 0, 1.0, 0.0),
    }
    return {name: waveform.astype(np.float32) for name, waveform in sounds.items()}


@pytest.fixture
def left_to_libsndfile(tmp_path):
    """A recording that only libsndfile reads."""
    path = tmp_path / "stereo.voc"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (100_000, 2)), 44_100)
    return path


@pytest.fixture
def broken_decoder(tmp_path, monkeypatch):
    """Replaces soundfile in child processes by a module that runs a line of code when a file is opened."""

    def install(line):
        folder = tmp_path / "modules"
        folder.mkdir()
        (folder / "soundfile.py").write_text(BROKEN_DECODER.format(line))
        monkeypatch.syspath_prepend(folder)

    return install


BROKEN_DECODER = """
import ctypes, os, signal
class LibsndfileError(Exception): pass
def SoundFile(*_, **__):
    {}
"""
