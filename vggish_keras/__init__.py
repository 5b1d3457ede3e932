"""VGGish audio embeddings as a Keras model that takes raw 16 kHz waveforms.

Importing the package loads no TensorFlow: each name brings what it needs when it is first used. To load a `.keras`
file that contains VGGish, import `vggish_keras.model` first, which registers the layers.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vggish_keras import records, resample
    from vggish_keras.dataset import waveform_dataset
    from vggish_keras.embedder import Embedder, embed
    from vggish_keras.embeddings import Embeddings
    from vggish_keras.exporting import export_saved_model
    from vggish_keras.frontend import LogMelExamples
    from vggish_keras.model import VGGish
    from vggish_keras.postprocess import Postprocess
    from vggish_keras.weights import load_slim_checkpoint, save_slim_checkpoint

__all__ = [
    "Embedder",
    "Embeddings",
    "LogMelExamples",
    "Postprocess",
    "VGGish",
    "embed",
    "export_saved_model",
    "load_slim_checkpoint",
    "records",
    "resample",
    "save_slim_checkpoint",
    "waveform_dataset",
]

_MODULES = {
    "Embedder": "embedder",
    "Embeddings": "embeddings",
    "LogMelExamples": "frontend",
    "Postprocess": "postprocess",
    "VGGish": "model",
    "embed": "embedder",
    "export_saved_model": "exporting",
    "load_slim_checkpoint": "weights",
    "save_slim_checkpoint": "weights",
    "waveform_dataset": "dataset",
}


def __getattr__(name: str) -> Any:
    if name in ("records", "resample"):
        return importlib.import_module(f"vggish_keras.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"vggish_keras.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
