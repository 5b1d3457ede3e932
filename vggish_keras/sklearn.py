"""VGGish as a scikit-learn transformer: from recordings to a matrix with a row per recording."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras._validation import PathLike, Postprocessing, check_choice
from vggish_keras.audio import Channels, Source, is_array
from vggish_keras.embedder import shared_embedder
from vggish_keras.engines import Dtype
from vggish_keras.framing import Padding

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ModuleNotFoundError as error:
    raise ImportError('vggish_keras.sklearn requires scikit-learn: pip install "vggish[sklearn]"') from error

if TYPE_CHECKING:
    from vggish_keras.embeddings import Embeddings

Pooling = Literal["avg", "max"]
_POOL: dict[str, Callable[..., NDArray[Any]]] = {"avg": np.mean, "max": np.max}


class VGGishTransformer(TransformerMixin, BaseEstimator):
    """Embeds recordings for scikit-learn, as the first step of a `Pipeline`.

    Recordings are paths, arrays [samples] or [samples, channels], or audio entries of Hugging Face datasets; a matrix
    holds a waveform in each row. Files are decoded in other processes while the network runs. There is nothing to fit,
    and transformers with the same options share one network, so cloning and cross-validation load it once.

    Args:
        pooling: "avg" or "max" over the examples of a recording.
        sample_rate: Sample rate of arrays in Hz.
        weights: "audioset", None or a path, as in `Embedder`, and so are the other arguments.
        hop_seconds: Distance between examples.
        padding: What happens at the end of a recording.
        postprocess: None, "pca" or "quantized".
        batch_size: Examples per call of the network.
        dtype: What the network computes in.
        channels: "mix", or the index of a channel.
        pca_params: "audioset" or the path of an .npz file.

    Raises:
        FileNotFoundError: In `transform`: a recording does not exist, or the published weights are not available.
        ValueError: In `transform`: an invalid argument, a recording that cannot be read, or one without an example
            under the padding "valid".

    Examples:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from vggish_keras.sklearn import VGGishTransformer
        >>> classifier = make_pipeline(VGGishTransformer(weights=None), LogisticRegression())  # random weights
        >>> recordings = ["recording.wav", np.random.default_rng(0).uniform(-1, 1, 32_000)]
        >>> classifier.fit(recordings, ["rumble", "noise"]).classes_.tolist()
        ['noise', 'rumble']
    """

    def __init__(
        self,
        pooling: Pooling = "avg",
        sample_rate: int = params.SAMPLE_RATE,
        *,
        weights: PathLike | None = params.AUDIOSET,
        hop_seconds: float | None = None,
        padding: Padding | None = None,
        postprocess: Postprocessing | None = None,
        batch_size: int = 64,
        dtype: Dtype = "float32",
        channels: Channels = "mix",
        pca_params: PathLike = params.AUDIOSET,
    ) -> None:
        self.pooling = pooling
        self.sample_rate = sample_rate
        self.weights = weights
        self.hop_seconds = hop_seconds
        self.padding = padding
        self.postprocess = postprocess
        self.batch_size = batch_size
        self.dtype = dtype
        self.channels = channels
        self.pca_params = pca_params

    def fit(self, recordings: Iterable[Source], labels: Any = None) -> "VGGishTransformer":
        """Does nothing.

        Args:
            recordings: Ignored.
            labels: Ignored.

        Returns:
            The transformer.
        """
        return self

    def transform(self, recordings: Iterable[Source]) -> NDArray[np.float32]:
        """Embeds recordings.

        Args:
            recordings: As described above.

        Returns:
            float32 [recordings, 128]: the pooled embeddings of each.

        Raises:
            FileNotFoundError: As described above.
            ValueError: As described above.

        Examples:
            >>> from vggish_keras.sklearn import VGGishTransformer
            >>> VGGishTransformer("max", weights=None).transform(["recording.wav"]).shape
            (1, 128)
        """
        check_choice("pooling", self.pooling, tuple(_POOL))
        sources = _listed(recordings)
        rows = [self._pool(embeddings, index) for index, embeddings in enumerate(self._embed(sources))]
        return np.stack(rows) if rows else np.zeros((0, params.EMBEDDING_SIZE), np.float32)

    def _embed(self, sources: Sequence[Source]) -> "Iterable[Embeddings]":
        options = self.get_params(deep=False)
        sample_rate = options.pop("sample_rate")
        del options["pooling"]
        embedder = shared_embedder(**options)
        if not all(isinstance(source, (str, os.PathLike)) for source in sources):
            for source in sources:
                yield embedder.embed(source, sample_rate if is_array(source) else None)
            return
        for _, result in embedder.embed_many(sources):  # type: ignore[type-var]  # checked
            if isinstance(result, Exception):
                raise result
            yield result

    def _pool(self, embeddings: "Embeddings", index: int) -> NDArray[np.float32]:
        if len(embeddings) == 0:
            raise ValueError(f'recording {index} is shorter than an example (0.975 s): use padding "short" or "same"')
        pooled: NDArray[np.float32] = _POOL[self.pooling](embeddings.values, axis=0).astype(np.float32)
        return pooled

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Returns the names of the columns, `embedding_0` to `embedding_127`, for scikit-learn's `set_output`.

        Args:
            input_features: Ignored.

        Examples:
            >>> from vggish_keras.sklearn import VGGishTransformer
            >>> VGGishTransformer().get_feature_names_out()[:2].tolist()
            ['embedding_0', 'embedding_1']
        """
        return np.array([f"embedding_{index}" for index in range(params.EMBEDDING_SIZE)], object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def _listed(recordings: Iterable[Source]) -> Sequence[Source]:
    if isinstance(recordings, (str, os.PathLike)):
        raise TypeError(f"expected a sequence of recordings, got the single path {recordings}")
    sources = list(recordings)
    # What scikit-learn selects from an array of paths are NumPy's strings, and its rows may be lists.
    return [np.asarray(source) if isinstance(source, list) else source for source in sources]
