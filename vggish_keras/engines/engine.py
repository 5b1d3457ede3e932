"""The protocol of engines, and the types of its arguments."""

from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Output = Literal["embedding", "pca", "quantized", "scores"]
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


class Engine(Protocol):
    """Computes embeddings from segments, the 15,600 samples of an example.

    Any object with these members can be handed to `Embedder`.

    Attributes:
        outputs: What the engine can compute: "embedding" and, with PCA parameters, "pca" or "quantized"; a classifier
            only "scores".
        dtype: What the network computes in, such as "float32".

    Examples:
        >>> class Mean:
        ...     outputs, dtype = ("embedding",), "float32"
        ...
        ...     def identity(self, output):
        ...         return "mean"
        ...
        ...     def __call__(self, segments, output):
        ...         return np.repeat(segments.mean(axis=1, keepdims=True), 128, axis=1)
        >>> vk.Embedder(Mean()).embed("recording.wav").values.shape
        (3, 128)
    """

    @property
    def outputs(self) -> tuple[Output, ...]: ...

    @property
    def dtype(self) -> str: ...

    def identity(self, output: Output) -> str:
        """Returns what identifies the weights behind an output, such as "sha256:" and a digest."""

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        """Computes one output.

        Args:
            segments: float32 [batch, 15600] at 16 kHz in [-1, 1].
            output: One of `outputs`.

        Returns:
            [batch, 128]: float32 or, for "quantized", uint8; float32 [batch, classes] for "scores".
        """


@runtime_checkable
class ClassifierEngine(Engine, Protocol):
    """An engine whose output "scores" has a value for each class.

    Attributes:
        class_names: The classes in the order of their scores; the name of an unnamed class is its index.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...


def default_output(engine: Engine) -> Output:
    """Returns "scores" for a classifier, and else "embedding"."""
    return "scores" if isinstance(engine, ClassifierEngine) else "embedding"
