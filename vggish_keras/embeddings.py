"""The embeddings of a recording."""

from typing import NamedTuple

import numpy as np


class Embeddings(NamedTuple):
    """The embeddings of a recording.

    Attributes:
        times: float64 [n], each example's start in seconds.
        values: [n, 128], float32 or, if quantized, uint8.
    """

    times: np.ndarray
    values: np.ndarray


def embedding_dtype(postprocess: str | None) -> str:
    """The dtype of embeddings: "uint8" if they are quantized, else "float32"."""
    return "uint8" if postprocess == "quantized" else "float32"
