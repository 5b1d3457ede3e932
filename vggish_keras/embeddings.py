"""The embeddings of a recording."""

from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray


class Embeddings(NamedTuple):
    """The embeddings of a recording.

    Attributes:
        times: float64 [n], the start of each example in seconds.
        values: [n, 128], float32 or, if quantized, uint8.

    Example:
        >>> embeddings = vk.Embeddings(times=np.array([0.0, 0.96]), values=np.zeros((2, 128), np.float32))
        >>> times, values = embeddings
        >>> values.shape
        (2, 128)
    """

    times: NDArray[Any]
    values: NDArray[Any]


def embedding_dtype(postprocess: str | None) -> Literal["float32", "uint8"]:
    """The dtype of embeddings: "uint8" if they are quantized, else "float32"."""
    return "uint8" if postprocess == "quantized" else "float32"
