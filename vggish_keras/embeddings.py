"""The embeddings of a recording."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vggish_keras import params
from vggish_keras._errors import counted

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """The embeddings of a recording, which unpack as `times, values`.

    `len` is the number of examples, `np.asarray` returns the values, and `==` compares both arrays.

    Attributes:
        times: float64 [n], the start of each example in seconds.
        values: [n, 128], float32 or, if quantized, uint8.

    Examples:
        >>> embeddings = vk.Embeddings(times=np.array([0.0, 0.96]), values=np.zeros((2, 128), np.float32))
        >>> embeddings
        Embeddings(2 examples, 0.0 to 0.96 s, float32 [2, 128])
        >>> times, values = embeddings
        >>> len(embeddings), values.shape
        (2, (2, 128))
    """

    times: NDArray[Any]
    values: NDArray[Any]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.times, self.values))

    def __len__(self) -> int:
        return len(self.times)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Embeddings):
            return NotImplemented
        return np.array_equal(self.times, other.times) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = np.asarray(self.values, dtype)
        return values.copy() if copy else values

    def __repr__(self) -> str:
        examples = counted(len(self), "example")
        seconds = f", {round(float(self.times[0]), 3)} to {round(float(self.times[-1]), 3)} s" if len(self) else ""
        return f"Embeddings({examples}{seconds}, {self.values.dtype} {list(self.values.shape)})"

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns a `pandas.DataFrame` with the columns time and embedding_0 to embedding_127.

        Raises:
            ImportError: pandas is missing.

        Examples:
            >>> list(vk.embed("recording.wav", weights=None).to_pandas().columns[:3])
            ['time', 'embedding_0', 'embedding_1']
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas requires pandas: pip install pandas") from error
        frame = pd.DataFrame(self.values, columns=[f"embedding_{i}" for i in range(self.values.shape[1])])
        frame.insert(0, "time", self.times)
        return frame


def embedding_dtype(postprocess: str | None) -> Literal["float32", "uint8"]:
    """The dtype of embeddings: "uint8" if they are quantized, else "float32"."""
    return "uint8" if postprocess == "quantized" else "float32"


def to_floats(values: NDArray[Any]) -> NDArray[np.float32]:
    """Returns embeddings as float32; 8-bit levels as the values in [-2, 2] that they stand for."""
    if values.dtype != np.uint8:
        return values.astype(np.float32, copy=False)
    step = (params.QUANTIZE_MAX - params.QUANTIZE_MIN) / 255
    return values.astype(np.float32) * np.float32(step) + np.float32(params.QUANTIZE_MIN)


def check_kind(dtype: DTypeLike, is_quantized: bool | None, name: str) -> bool:
    """Returns whether embeddings are 8-bit levels; raises a ValueError if they should be of the other kind.

    Args:
        dtype: That of the embeddings.
        is_quantized: The expected kind; None for either.
        name: Whose embeddings they are, for the message.
    """
    found = np.dtype(dtype) == np.uint8
    if is_quantized is not None and found != is_quantized:
        kinds = ("floats", "8-bit PCA embeddings")
        raise ValueError(
            f"8-bit PCA embeddings and floats are in different spaces: expected {kinds[is_quantized]}, got "
            f"{kinds[found]} of {name}"
        )
    return found
