"""Classifiers in ONNX and LiteRT files: nothing here loads TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras.engines.engine import Engine, Output
from vggish_keras.exported_options import read_description


class ExportedClassifier:
    """The scores of an engine that also computes embeddings.

    Args:
        path: The file that the engine runs, written with class names.
        engine: The engine.

    Raises:
        ValueError: The file has no scores.
    """

    outputs: tuple[Output, ...] = ("scores",)

    def __init__(self, path: Path, engine: Engine) -> None:
        if "scores" not in engine.outputs:
            raise ValueError(f"{path} computes no scores, only {', '.join(engine.outputs)}: export it with class_names")
        self.class_names = tuple(read_description(path)["class_names"])
        self.dtype = engine.dtype
        self._engine = engine

    def identity(self, output: Output) -> str:
        return self._engine.identity(output)

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        return self._engine(segments, output)
