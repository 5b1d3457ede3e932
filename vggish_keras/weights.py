"""Weights of the network: read from checkpoints, Keras files and exported models; written as TF-Slim checkpoints."""

import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from vggish_keras import params
from vggish_keras._atomic import replace
from vggish_keras._errors import error_message
from vggish_keras._keras import keras
from vggish_keras._onnx_file import check_constants, read_tensors
from vggish_keras._validation import PathLike, check_choice, file_suffix
from vggish_keras.exported_options import is_litert, is_onnx, is_saved_model, read_description
from vggish_keras.network import (
    nested_models,
    network_layers,
    restore_initializers,
    slim_variables,
    unquantized_variables,
)
from vggish_keras.postprocess import Postprocess
from vggish_keras.published_files import fetch

_logger = logging.getLogger(__name__)

SlimFormat = Literal["v1", "v2"]
SLIM_FORMATS: tuple[SlimFormat, ...] = get_args(SlimFormat)


def locate(weights: PathLike) -> Path:
    """Resolves `weights` to a file, so that a wrong name fails before the model is built.

    Args:
        weights: "audioset", or the path of a TF-Slim checkpoint, a Keras model or weights file, an exported SavedModel
            or an ONNX file.

    Returns:
        The path; for a V2 checkpoint its prefix.

    Raises:
        FileNotFoundError: The file does not exist, or the published one is not available.
        TypeError: `weights` is not a path.
        ValueError: The file is a LiteRT file.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"weights must be {params.AUDIOSET!r}, a path or None, got {weights!r}")
    if weights == params.AUDIOSET:
        return fetch(params.CHECKPOINT)
    path = Path(weights)
    if not path.is_file() and not _v2_index(path).is_file() and not is_saved_model(path):
        raise FileNotFoundError(
            f"no weights found at {path}: expected a TF-Slim checkpoint, a Keras .keras or .h5 file, an exported "
            f"SavedModel or .onnx file, or {params.AUDIOSET!r}"
        )
    if is_litert(path):
        raise ValueError(
            f"{path} is a LiteRT file, whose weights cannot be loaded for training or conversion: expected a TF-Slim "
            "checkpoint, a Keras .keras or .h5 file, or an exported SavedModel or .onnx file"
        )
    return path


def load(model: keras.Model, path: PathLike) -> None:
    """Loads weights into a VGGish that was built with `initialize=False`.

    Args:
        model: The model.
        path: A TF-Slim checkpoint, a Keras model (.keras) that contains VGGish, a Keras weights file (.h5), an
            exported SavedModel or an ONNX file.

    Raises:
        ValueError: The file does not hold the weights of this network, or they are not finite.
    """
    _logger.info("loading weights from %s", path)
    if file_suffix(path) == ".keras":
        _load_keras_model(model, Path(path))
    elif file_suffix(path) == ".h5":
        _load_keras_weights(model, Path(path))
    elif is_saved_model(path):
        _load_saved_model(model, Path(path))
    elif is_onnx(path):
        _load_onnx(model, Path(path))
    else:
        load_slim_checkpoint(model, path)
    restore_initializers(model)


def _load_keras_model(model: keras.Model, path: Path) -> None:
    loaded = read_keras_model(path, "save_slim_checkpoint")
    try:
        values = unquantized_variables(loaded)
    except ValueError as error:
        raise ValueError(f"{path} does not hold the weights of this network: {error}") from error
    _assign(model, path, values, "expected the shapes of VGGish")


def _load_keras_weights(model: keras.Model, path: Path) -> None:
    # What surrounds the network may differ from the model that the file was saved from.
    layers = network_layers(model)
    network = keras.Model(layers["conv1"].input, layers["fc2"].output)
    variables = slim_variables(network)
    # Keras only warns about layers that the file lacks, and leaves their values: mark them.
    for variable in variables.values():
        variable.assign(np.full(variable.shape, np.nan, np.float32))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network.load_weights(path)
    except Exception as error:  # h5py and Keras raise arbitrary exceptions for malformed files
        raise ValueError(f"{path} does not hold the weights of this network: {error_message(error)}") from error
    if missing := [name for name, variable in variables.items() if np.all(np.isnan(variable))]:
        raise ValueError(f"{path} does not hold the weights of this network: no values for {', '.join(missing)}")
    check_finite(path, variables)


def _load_saved_model(model: keras.Model, path: Path) -> None:
    loaded = read_saved_model(path)
    # The network's variables come first, in TF-Slim's order.
    values = dict(zip(slim_variables(model), getattr(loaded, "trainable_variables", ()), strict=False))
    _assign(model, path, values, "expected a SavedModel written by export_saved_model")


def _load_onnx(model: keras.Model, path: Path) -> None:
    check_constants(path, read_description(path).get("constants"))
    tensors = read_tensors(path)
    values = {name: tensors[name] for name in slim_variables(model) if name in tensors}
    _assign(model, path, values, "expected an ONNX file written by export_onnx")


def own_pca_params(model: keras.Model | PathLike) -> list[Any] | None:
    """Returns the eigenvectors and means of the post-processing that a model or an exported file has; None without."""
    names = (params.PCA_EIGEN_VECTORS, params.PCA_MEANS)
    if not isinstance(model, keras.Model):
        path = Path(model)
        if is_onnx(path):
            tensors = read_tensors(path)
            return [tensors[name] for name in names] if tensors.keys() >= set(names) else None
        if is_saved_model(path):
            variables = getattr(read_saved_model(path), "variables", ())
            found = [variable.numpy() for name in names for variable in variables if name in variable.name]
            return found or None
        if file_suffix(path) != ".keras" or not path.is_file():
            return None
        model = read_keras_model(path, "export_saved_model")
    layers = (layer for nested in nested_models(model) for layer in nested.layers)
    return next((layer.get_weights() for layer in layers if isinstance(layer, Postprocess)), None)


def _assign(model: keras.Model, path: Path, values: Mapping[str, Any], expected: str) -> None:
    """Assigns the values of a file to the variables of a model, unless names or shapes differ."""
    variables = slim_variables(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    if {name: tuple(value.shape) for name, value in values.items()} != shapes:
        raise ValueError(f"{path} does not hold the weights of this network: {expected}")
    check_finite(path, values)
    for name, variable in variables.items():
        variable.assign(tf.cast(values[name], variable.dtype))


def read_keras_model(path: Path, writer: str) -> keras.Model:
    """Loads a .keras file; raises a ValueError that names it, and the function whose output does not need its code."""
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises arbitrary exceptions for malformed files
        hint = f"if it needs layers of your own, pass what {writer} writes instead"
        raise ValueError(f"{path} cannot be loaded as a Keras model ({hint}): {error_message(error)}") from error


def read_saved_model(path: Path) -> Any:
    """Loads a SavedModel; raises a ValueError that names it if it is malformed."""
    try:
        return tf.saved_model.load(os.fspath(path))
    except Exception as error:  # TensorFlow raises arbitrary exceptions for malformed files
        raise ValueError(f"{path} is not a readable SavedModel: {error_message(error)}") from error


def check_finite(source: PathLike, values: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the tensors of a file or a model that hold NaN or infinity."""
    bad = [name for name, value in values.items() if not tf.reduce_all(tf.math.is_finite(value))]
    if bad:
        raise ValueError(f"{source}: weights must be finite numbers, got NaN or infinity in {', '.join(bad)}")


def load_slim_checkpoint(model: keras.Model, path: PathLike) -> None:
    """Loads a TF-Slim checkpoint into a model that contains the VGGish network, at any depth.

    All 18 tensors are read and checked before the first one is assigned. Other tensors in the file, such as an
    optimizer's or a classifier's, are ignored.

    Args:
        model: A Keras model with the layers conv1 to fc2.
        path: A V1 checkpoint file, or the prefix of a V2 checkpoint.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The file cannot be read, or tensors are missing, have unexpected shapes or dtypes or values that are
            not finite; or the model lacks layers, is quantized or uses LoRA. The message lists all problems.

    Examples:
        >>> vk.save_slim_checkpoint(model, "vggish.ckpt")
        >>> restored = vk.VGGish(weights=None)  # random weights, until the next line
        >>> vk.load_slim_checkpoint(restored, "vggish.ckpt")
        >>> np.array_equal(restored.get_layer("conv1").kernel, model.get_layer("conv1").kernel)
        True
    """
    variables = unquantized_variables(model)
    if any(isinstance(variable, tf.Tensor) for variable in variables.values()):
        raise ValueError("a layer of VGGish uses LoRA: load the checkpoint before layer.enable_lora")
    values = _read_checkpoint(Path(path), {name: tuple(variable.shape) for name, variable in variables.items()})
    for name, variable in variables.items():
        variable.assign(tf.cast(values[name], variable.dtype))


def _read_checkpoint(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if not path.is_file() and not _v2_index(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        reader = tf.train.load_checkpoint(os.fspath(path))
        found_shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except Exception as error:  # TensorFlow raises arbitrary exceptions for malformed files
        raise ValueError(f"{path} is not a readable TF-Slim checkpoint: {error_message(error)}") from error
    problems = []
    for name, shape in shapes.items():
        if name not in found_shapes:
            problems.append(f"{name} is missing")
        elif tuple(found_shapes[name]) != shape or dtypes[name] != tf.float32:
            found = f"{dtypes[name].name} {found_shapes[name]}"
            problems.append(f"{name} is {found}, expected float32 {list(shape)}")
    if problems:
        raise ValueError(f"{path} is not a VGGish checkpoint: {'; '.join(problems)}")
    try:
        # The op reads a V1 file twice as fast as the reader, and the variables take over its tensors.
        options = {"shape_and_slices": [""] * len(shapes), "dtypes": [tf.float32] * len(shapes)}
        tensors = tf.raw_ops.RestoreV2(prefix=os.fspath(path), tensor_names=list(shapes), **options)
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error_message(error)}") from error
    values = dict(zip(shapes, tensors, strict=True))
    check_finite(path, values)
    return values


def save_slim_checkpoint(model: keras.Model, path: PathLike, format: SlimFormat = "v1") -> None:
    """Writes the VGGish network of `model` as a TF-Slim checkpoint.

    Args:
        model: A Keras model with the layers conv1 to fc2, at any depth.
        path: The checkpoint file ("v1", like the published one) or the prefix of its files ("v2"). An existing
            checkpoint of either format is replaced once the new one is complete.
        format: "v1" or "v2".

    Raises:
        ValueError: The model lacks layers or is quantized, the format is unknown, or the path is a folder.
        OSError: The checkpoint cannot be written.

    Examples:
        >>> vk.save_slim_checkpoint(model, "vggish.ckpt")
        >>> len(tf.train.list_variables("vggish.ckpt"))
        18
    """
    check_choice("format", format, SLIM_FORMATS)
    variables = unquantized_variables(model)
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
        # The index makes a V2 checkpoint valid: it comes last, and beside a V1 file it would be read instead.
        files = sorted(Path(folder).iterdir(), key=lambda file: file.suffix == ".index")
        replace({file: path.parent / file.name for file in files})
        if format == "v1":
            _v2_index(path).unlink(missing_ok=True)


def _v2_index(prefix: Path) -> Path:
    return Path(f"{prefix}.index")
