"""What every export does first: check its arguments, and take the model apart."""

import os
from collections.abc import Sequence
from pathlib import Path

from vggish_keras import exported_options, params
from vggish_keras._keras import keras
from vggish_keras._validation import PathLike, PcaParams, Postprocessing, check_postprocess
from vggish_keras.class_names import check_class_names
from vggish_keras.exporting.classifier_head import ClassifierHead
from vggish_keras.exporting.signatures import ServedModel
from vggish_keras.model import VGGish
from vggish_keras.postprocess import Postprocess


def check_target(path: PathLike, overwrite: bool) -> Path:
    """Returns the path to write; a FileExistsError if it exists and may not be replaced."""
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: choose a different path, or pass overwrite=True (--overwrite)")
    return path


def take_apart(
    model: keras.Model | PathLike,
    postprocess: Postprocessing | None,
    class_names: Sequence[str] | None,
    pca_params: PcaParams,
) -> ServedModel:
    """Takes a model apart into what is exported.

    Args:
        model: A Keras model that contains a VGGish, or weights as `VGGish` accepts them.
        postprocess: None, "pca" or "quantized".
        class_names: The classes of the model's scores; None exports no scores.
        pca_params: The parameters of `postprocess`.

    Raises:
        FileNotFoundError: The weights or the PCA parameters do not exist, or the published ones are not available.
        ValueError: Invalid arguments, no VGGish in the model, or no classifier with these classes.
    """
    check_postprocess(postprocess, pca_params)
    if not isinstance(model, keras.Model):
        own = exported_options.resolve_options(model)
        model = VGGish(model, hop_seconds=own.hop_seconds, padding=own.padding)
    head = None
    if class_names is not None:
        head = ClassifierHead(model)
        check_class_names(class_names, head.size)
    layer = None if postprocess is None else Postprocess(pca_params, quantize=postprocess == "quantized")
    if layer is not None:
        layer.build([None, None, params.EMBEDDING_SIZE])  # fetches the published parameters
    return ServedModel(model, layer, head)
