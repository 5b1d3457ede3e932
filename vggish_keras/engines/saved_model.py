"""A SavedModel written by `export_saved_model`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras._fork import check_not_forked
from vggish_keras._hashing import hash_variables
from vggish_keras.embeddings import embedding_dtype
from vggish_keras.engines.engine import Dtype, Output
from vggish_keras.weights import check_finite, read_saved_model

_EXPECTED = "expected a SavedModel written by export_saved_model"


class SavedModel:
    """Runs the signature `serving_default`.

    Args:
        path: The folder.
        dtype: "float32": the dtype that the network computes in was chosen when it was exported.

    Raises:
        ValueError: A different dtype, a SavedModel with inputs or outputs that `export_saved_model` does not write, or
            weights that are not finite.
        RuntimeError: This process was forked after TensorFlow ran, and would hang.
    """

    def __init__(self, path: Path, dtype: Dtype) -> None:
        if dtype != "float32":
            raise ValueError(f"{path}: the dtype of an exported model cannot be changed, got {dtype!r}")
        check_not_forked()
        loaded = read_saved_model(path)
        self.outputs = _check_signature(path, loaded.signatures)
        signature = loaded.signatures["serving_default"]
        self.dtype = "as exported"
        self._loaded = loaded  # its variables live as long as it does
        # The network's 18 tensors come first, in TF-Slim's order.
        variables = getattr(loaded, "trainable_variables", signature.variables)
        self._network = list(variables)[: 2 * len(params.SLIM_SCOPES)]
        names = (params.PCA_EIGEN_VECTORS, params.PCA_MEANS)
        self._pca = [variable for name in names for variable in signature.variables if name in variable.name]
        check_finite(path, {variable.name: variable for variable in signature.variables})
        specs = [tf.TensorSpec([None, params.EXAMPLE_SAMPLES], tf.float32)]
        self._functions = {
            output: tf.function(lambda segments, output=output: signature(waveform=segments)[output][:, 0], specs)
            for output in self.outputs
        }

    def identity(self, output: Output) -> str:
        return hash_variables(self._network if output == "embedding" else [*self._network, *self._pca])

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        check_not_forked()
        embeddings: NDArray[Any] = self._functions[output](segments).numpy()
        return embeddings


def _check_signature(path: Path, signatures: Mapping[str, Any]) -> tuple[Output, ...]:
    """Returns the outputs that a SavedModel computes; a ValueError if `export_saved_model` did not write it."""
    outputs = waveform_signature(path, signatures).structured_outputs
    if "embedding" not in outputs:
        found = ", ".join(sorted(outputs)) or "none"
        raise ValueError(f"{path} has no output embedding (outputs: {found}), {_EXPECTED}")
    known = tuple(output for output in get_args(Output) if output in outputs and output != "scores")
    for output in known:
        _check_embeddings(path, output, outputs[output])
    return known


def waveform_signature(path: Path, signatures: Mapping[str, Any]) -> Any:
    """Returns the signature `serving_default`; a ValueError unless its input is float32 [batch, samples]."""
    if "serving_default" not in signatures:
        found = ", ".join(sorted(signatures)) or "none"
        raise ValueError(f"{path} has no signature serving_default (signatures: {found}), {_EXPECTED}")
    signature = signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    segments = tf.TensorShape([None, params.EXAMPLE_SAMPLES])
    accepted = [
        name for name, spec in inputs.items() if spec.dtype == tf.float32 and segments.is_subtype_of(spec.shape)
    ]
    if not list(inputs) == accepted == ["waveform"]:
        raise ValueError(f"{path} has the input {_specs(inputs)}, expected waveform float32 [batch, samples]")
    return signature


def _check_embeddings(path: Path, output: Output, spec: tf.TensorSpec) -> None:
    dtype = tf.dtypes.as_dtype(embedding_dtype(output))
    embeddings = tf.TensorShape([None, None, params.EMBEDDING_SIZE])
    fits = spec.shape.is_subtype_of(embeddings) and spec.shape[1] in (None, 1)
    if spec.dtype != dtype or not fits:
        found = _specs({output: spec})
        raise ValueError(f"{path} has the output {found}, expected {output} {dtype.name} [batch, n, 128]")


def _specs(specs: Mapping[str, tf.TensorSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype.name} {spec.shape}" for name, spec in specs.items()) or "nothing"
