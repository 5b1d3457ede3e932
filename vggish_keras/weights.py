"""Where weights come from: the published files, fetched, verified and cached; TF-Slim checkpoints, read and written."""

import contextlib
import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from vggish_keras import params
from vggish_keras._errors import error_message
from vggish_keras._npz import read_npz

PathLike: TypeAlias = str | os.PathLike[str]

AUDIOSET = "audioset"
"""The name of the published files, wherever weights or PCA parameters are asked for."""

# Keras layer -> TF-Slim scope; each holds a kernel and a bias.
SLIM_SCOPES = {
    "conv1": "vggish/conv1",
    "conv2": "vggish/conv2",
    "conv3_1": "vggish/conv3/conv3_1",
    "conv3_2": "vggish/conv3/conv3_2",
    "conv4_1": "vggish/conv4/conv4_1",
    "conv4_2": "vggish/conv4/conv4_2",
    "fc1_1": "vggish/fc1/fc1_1",
    "fc1_2": "vggish/fc1/fc1_2",
    "fc2": "vggish/fc2",
}
SLIM_FORMATS = ("v1", "v2")

_DOWNLOAD = ".download-"
"""In the names of folders of downloads."""


# === The published files ===


def cache_dir() -> Path:
    """The folder of the published files: `VGGISH_KERAS_HOME`, else the user's cache folder of the platform."""
    import pooch

    return Path(os.environ.get("VGGISH_KERAS_HOME") or pooch.os_cache("vggish_keras")).expanduser()


def published_path(file: params.PublishedFile) -> Path:
    """Where `file` is cached, or would be."""
    return cache_dir() / file.name


def fetch(file: params.PublishedFile) -> Path:
    """A published file in the cache, downloaded when it is not there.

    A file that is there is used as it is, so that one can be placed by hand. A download takes its name only after
    its checksum was verified; what is left of one that was killed is removed by the next call.

    Args:
        file: `params.CHECKPOINT` or `params.PCA_PARAMS`.

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: The file is not cached and cannot be downloaded. The message says where to get it and
            where to put it.
    """
    path = published_path(file)
    _remove_half_downloads(path)
    if path.is_file():
        return path
    import pooch
    from requests import ConnectionError

    url = params.PUBLISHED_URL + file.name
    pooch.get_logger().setLevel("WARNING")
    try:
        with _progress(file.name) as progress, _download_folder(path) as folder:
            # pooch verifies what it downloaded: no process ever sees a half file.
            pooch.retrieve(
                url,
                file.checksum,
                fname=path.name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=progress, timeout=(10, 60)),
            )
            (folder / path.name).chmod(0o644)  # pooch keeps a file to its user, and a cache may be shared
            (folder / path.name).replace(path)
    except (OSError, ValueError) as error:
        reason = "no connection" if isinstance(error, ConnectionError) else error_message(error)
        raise FileNotFoundError(
            f"{file.name} is not in the cache and could not be downloaded ({reason}). "
            f"Download {url} ({file.checksum}) where there is a network and place it at {path}, "
            "or set VGGISH_KERAS_HOME to the folder that holds it."
        ) from error
    return path


@contextlib.contextmanager
def _download_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that no other process removes during the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _lock(path.parent, exclusive=False),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}{_DOWNLOAD}") as folder,
    ):
        yield Path(folder)


def _remove_half_downloads(path: Path) -> None:
    """Removes what killed downloads of `path` left, unless a download is running."""
    if left := list(path.parent.glob(f".{path.name}{_DOWNLOAD}*")):
        with contextlib.suppress(OSError), _lock(path.parent, exclusive=True):
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path, exclusive: bool) -> Iterator[None]:
    """Locks a folder, which ends with the process; an OSError if it is to be exclusive and is locked already."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove a file that is open
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if exclusive:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            with contextlib.suppress(OSError):  # a file system without locks, where nothing is removed either
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def verify(path: PathLike, checksum: str) -> bool:
    """Whether the file has the checksum, given as algorithm:digest."""
    import pooch

    algorithm, digest = checksum.split(":")
    return pooch.file_hash(os.fspath(path), alg=algorithm) == digest


class _PoochProgress:
    """What pooch asks of a progress bar, drawn by rich."""

    def __init__(self, bar: Any, description: str) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=None)
        self.total = 0

    def update(self, size: int) -> None:
        self._bar.update(self._task, total=self.total, advance=size)

    def reset(self) -> None:
        self._bar.reset(self._task)

    def close(self) -> None:
        """Nothing to do: the bar ends with its context."""


@contextlib.contextmanager
def _progress(description: str) -> Iterator[_PoochProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        yield _PoochProgress(bar, description)


# === PCA parameters ===


PcaParams: TypeAlias = PathLike | Mapping[str, Any] | Sequence[Any]

_PCA_SHAPES: dict[str, list[tuple[int, ...]]] = {
    params.PCA_EIGEN_VECTORS: [(params.EMBEDDING_SIZE, params.EMBEDDING_SIZE)],
    params.PCA_MEANS: [(params.EMBEDDING_SIZE,), (params.EMBEDDING_SIZE, 1)],
}


def read_pca_params(source: PcaParams) -> tuple[np.ndarray, np.ndarray]:
    """The parameters of the published post-processing.

    Args:
        source: "audioset" for the published file; or the path of an .npz file with the published keys; or
            arrays, as a mapping of "pca_eigen_vectors" [128, 128] and "pca_means" [128] or [128, 1], or in this order.

    Returns:
        float32 arrays: eigen vectors [128, 128], one component per row, and means [128].

    Raises:
        FileNotFoundError: There is no such file, or the published one cannot be had.
        ValueError: Not an .npz file of plain arrays with these keys and shapes, or numbers that are not finite. Pickled
            objects are never loaded.
    """
    if isinstance(source, (str, os.PathLike)):
        path = fetch(params.PCA_PARAMS) if source == AUDIOSET else Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no PCA parameters at {path}")
        origin = str(path)
        arrays = read_npz(path, _PCA_SHAPES, functools.partial(_check_pca_headers, origin=origin))
    else:
        origin = "PCA parameters"
        if not isinstance(source, Mapping):
            source = dict(zip(_PCA_SHAPES, source, strict=False))
        # Others are named, but may be anything.
        arrays = {key: np.asarray(source[key] if key in _PCA_SHAPES else 0) for key in source}
        _check_pca_headers(arrays, origin)
    with np.errstate(over="ignore"):
        eigen_vectors, means = (arrays[key].astype(np.float32) for key in _PCA_SHAPES)
    for key, array in zip(_PCA_SHAPES, (eigen_vectors, means), strict=True):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{origin}: {key} must hold finite numbers, got NaN or infinity")
    return eigen_vectors, means.reshape(params.EMBEDDING_SIZE)


def _check_pca_headers(arrays: Mapping[str, Any], origin: str) -> None:
    """Checks what has a shape and a dtype: arrays, or the headers of arrays."""
    problems = []
    for key, shapes in _PCA_SHAPES.items():
        if key not in arrays:
            problems.append(f"{key} is missing (keys: {', '.join(sorted(arrays)) or 'none'})")
        elif arrays[key].shape not in shapes:
            problems.append(f"{key} has shape {arrays[key].shape}, expected {shapes[0]}")
        elif arrays[key].dtype.kind not in "fiu":
            problems.append(f"{key} must hold finite numbers, got dtype {arrays[key].dtype}")
    if problems:
        raise ValueError(f"{origin}: {'; '.join(problems)}")


# === Weights of the network ===


def locate(weights: PathLike) -> Path:
    """The file behind `weights`, so that a wrong name is told before a model is built.

    Args:
        weights: "audioset", or a path to a TF-Slim checkpoint or a Keras weights file.

    Returns:
        The path; for a V2 checkpoint its prefix.

    Raises:
        FileNotFoundError: There is no such file, or the published one cannot be had.
        TypeError: `weights` is no path.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"weights must be {AUDIOSET!r}, a path or None, got {weights!r}")
    if weights == AUDIOSET:
        return fetch(params.CHECKPOINT)
    path = Path(weights)
    if not path.is_file() and not _v2_index(path).is_file():
        raise FileNotFoundError(
            f"no weights at {path}: a TF-Slim checkpoint, a Keras .h5 file or {AUDIOSET!r} is needed"
        )
    return path


def load(model: Any, path: PathLike) -> None:
    """Loads a TF-Slim checkpoint or a Keras weights file (.h5) into a VGGish that was built with zeros."""
    if Path(path).suffix == ".h5":
        _load_keras_weights(model, Path(path))
    else:
        load_slim_checkpoint(model, path)


def _load_keras_weights(model: Any, path: Path) -> None:
    from tensorflow import keras

    # What surrounds the network may differ from the model that the file was saved from.
    layers = network_layers(model)
    network = keras.Model(layers["conv1"].input, layers["fc2"].output)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network.load_weights(path)
    except Exception as error:  # h5py and Keras raise whatever the first oddity leads them to
        raise ValueError(f"{path} does not hold the weights of this network: {error_message(error)}") from error
    check_finite(path, slim_variables(network))
    # Of layers that it did not find Keras only warns, and leaves them as they were built: zero.
    missing = [name for name, value in slim_variables(network).items() if len(value.shape) > 1 and not np.any(value)]
    if missing:
        raise ValueError(f"{path} does not hold the weights of this network: no values for {', '.join(missing)}")


def check_finite(path: PathLike, values: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the tensors of a file that hold NaN or infinity."""
    import tensorflow as tf

    bad = [name for name, value in values.items() if not tf.reduce_all(tf.math.is_finite(value))]
    if bad:
        raise ValueError(f"{path}: weights must be finite numbers, got NaN or infinity in {', '.join(bad)}")


def load_slim_checkpoint(model: Any, path: PathLike) -> None:
    """Loads a TF-Slim checkpoint into a model that contains the VGGish network, at any depth.

    All 18 tensors are read and checked before the first is assigned. Other tensors in the file, such as an optimizer's
    or a classifier's, are left alone.

    Args:
        model: A Keras model with the layers conv1 .. fc2.
        path: A V1 checkpoint file, or the prefix of a V2 checkpoint.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The file cannot be read, or lacks tensors, or has some of another shape or dtype or with values that
            are not finite; or the model lacks layers. The message lists all that is wrong.
    """
    import tensorflow as tf

    variables = slim_variables(model)
    values = _read_checkpoint(Path(path), {name: tuple(variable.shape) for name, variable in variables.items()})
    for name, variable in variables.items():
        variable.assign(tf.cast(values[name], variable.dtype))


def _read_checkpoint(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    import tensorflow as tf

    if not path.is_file() and not _v2_index(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        reader = tf.train.load_checkpoint(os.fspath(path))
        found_shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except Exception as error:  # TensorFlow raises whatever the first oddity leads it to
        raise ValueError(f"{path} is not a readable TF-Slim checkpoint: {error_message(error)}") from error
    problems = []
    for name, shape in shapes.items():
        if name not in found_shapes:
            problems.append(f"{name} is missing")
        elif tuple(found_shapes[name]) != shape or dtypes[name] != tf.float32:
            found = f"{dtypes[name].name} {found_shapes[name]}"
            problems.append(f"{name} is {found}, expected float32 {list(shape)}")
    if problems:
        raise ValueError(f"{path} does not hold VGGish: {'; '.join(problems)}")
    try:
        # The op reads a V1 file in half the time that the reader takes, and its tensors become the variables' own.
        options = {"shape_and_slices": [""] * len(shapes), "dtypes": [tf.float32] * len(shapes)}
        tensors = tf.raw_ops.RestoreV2(prefix=os.fspath(path), tensor_names=list(shapes), **options)
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error_message(error)}") from error
    values = dict(zip(shapes, tensors, strict=True))
    check_finite(path, values)
    return values


def save_slim_checkpoint(model: Any, path: PathLike, format: str = "v1") -> None:
    """Writes the VGGish network of `model` as a TF-Slim checkpoint.

    Args:
        model: A Keras model with the layers conv1 .. fc2, at any depth.
        path: The checkpoint file ("v1", as the published one) or the prefix of its files ("v2"). A checkpoint of
            either format that is there is replaced once the new one is complete.
        format: "v1" or "v2".

    Raises:
        ValueError: The model lacks layers, an unknown format, or the path of a folder.
        OSError: The checkpoint cannot be written.
    """
    import tensorflow as tf

    if format not in SLIM_FORMATS:
        raise ValueError(f"format must be one of {SLIM_FORMATS}, got {format!r}")
    variables = slim_variables(model)
    names, tensors = list(variables), [tf.cast(variable, tf.float32) for variable in variables.values()]
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint to write")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        target = os.path.join(folder, path.name)
        try:
            if format == "v1":
                tf.raw_ops.Save(filename=target, tensor_names=names, data=tensors)
            else:
                slices = [""] * len(names)
                tf.raw_ops.SaveV2(prefix=target, tensor_names=names, shape_and_slices=slices, tensors=tensors)
        except tf.errors.OpError as error:  # such as a full disk
            raise OSError(f"cannot write {path}: {error.message}") from error
        # The index is what makes a V2 checkpoint: it comes last, and one beside a V1 file would be read in its place.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.suffix == ".index"):
            file.replace(path.parent / file.name)
        if format == "v1":
            _v2_index(path).unlink(missing_ok=True)


def slim_variables(model: Any) -> dict[str, Any]:
    """TF-Slim's name of each of the network's 18 variables.

    Args:
        model: A Keras model with the layers conv1 .. fc2, at any depth.

    Returns:
        Name -> variable of the model.

    Raises:
        ValueError: The model contains no VGGish, or more than one.
    """
    layers = network_layers(model)
    variables = {}
    for layer, scope in SLIM_SCOPES.items():
        variables[f"{scope}/weights"] = layers[layer].kernel
        variables[f"{scope}/biases"] = layers[layer].bias
    return variables


def network_layers(model: Any) -> dict[str, Any]:
    """The layers by name of the VGGish, at any depth, in a Keras model.

    Raises:
        ValueError: The model contains no VGGish, or more than one.
    """
    found = list(_networks(model))
    if len(found) != 1:
        layers = ", ".join(SLIM_SCOPES)
        raise ValueError(f"model {model.name!r} contains {len(found)} VGGish, expected one (layers {layers})")
    return found[0]


def _networks(model: Any) -> Iterator[dict[str, Any]]:
    """The layers by name of each model, at any depth, whose own layers are VGGish's."""
    for nested in nested_models(model):
        layers = {layer.name: layer for layer in nested.layers}
        if layers.keys() >= SLIM_SCOPES.keys():
            yield layers


def nested_models(model: Any) -> Iterator[Any]:
    """A Keras model and the models in it, at any depth."""
    yield model
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from nested_models(layer)


def _v2_index(prefix: Path) -> Path:
    return Path(f"{prefix}.index")
