"""Label recordings of any length with a classifier built on VGGish."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vggish_keras import audio
from vggish_keras._errors import counted
from vggish_keras._validation import PathLike
from vggish_keras.class_names import check_class_names
from vggish_keras.embedder import Embedder
from vggish_keras.embeddings import Embeddings
from vggish_keras.engines import ClassifierEngine, open_classifier
from vggish_keras.exported_options import resolve_options
from vggish_keras.framing import Padding

PathT = TypeVar("PathT", bound=str | os.PathLike[str])


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """The scores of a recording's examples.

    `len` is the number of examples.

    Attributes:
        times: float64 [n], the start of each example in seconds.
        scores: float32 [n, classes], as the classifier computes them: probabilities after a softmax or sigmoid.
        class_names: The classes in the order of their scores.

    Examples:
        >>> scores = np.array([[0.9, 0.0, 0.1], [0.2, 0.3, 0.5]], np.float32)
        >>> predictions = vk.Predictions(np.array([0.0, 0.96]), scores, ("rain", "wind", "birds"))
        >>> for time, label, score in predictions.top(2):
        ...     print(time, label, score)
        0.0 rain 0.9
        0.0 birds 0.1
        0.96 birds 0.5
        0.96 wind 0.3
    """

    times: NDArray[np.float64]
    scores: NDArray[np.float32]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        examples = counted(len(self), "example")
        return f"Predictions({examples}, scores {self.scores.dtype} {list(self.scores.shape)})"

    def top(self, count: int = 1) -> Iterator[tuple[float, str, np.float32]]:
        """Yields the time, the label and the score of the `count` highest scores of each example, best first.

        Equal scores are in the order of the classes. If there are fewer classes, all are yielded.
        """
        best = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        for time, scores, classes in zip(self.times.tolist(), self.scores, best, strict=True):
            for index in classes:
                yield time, self.class_names[index], scores[index]


class Classifier:
    """Scores files, arrays and streams of any length and sample rate with a classifier built on VGGish.

    Each example is scored on its own, so memory does not grow with the recording.

    Args:
        classifier: The path of a Keras model (.keras) built on VGGish, or of a SavedModel, .onnx or .tflite file
            exported with class names; or an engine with the output "scores" and the attribute `class_names`.
        class_names: The classes in the order of their scores. None uses those of the exported model or the engine; the
            classes of a Keras model are then named by their indices.
        hop_seconds: As in `Embedder`.
        padding: As in `Embedder`.
        batch_size: Examples per call of the network.
        channels: "mix" for the mean of a recording's channels, or the index of a channel.

    Attributes:
        class_names: The classes in the order of their scores.

    Raises:
        ValueError: An invalid argument, a model that is not a classifier built on VGGish, a number of class names that
            is not the number of scores, or weights that are not finite.
        FileNotFoundError: The classifier does not exist.
        RuntimeError: Here or while predicting: this process was forked after TensorFlow ran, and would hang.

    Examples:
        >>> scores = tf.keras.layers.Dense(2, activation="softmax")(model.output)
        >>> tf.keras.Model(model.input, scores).save("classifier.keras")
        >>> classifier = vk.Classifier("classifier.keras", class_names=["rain", "birds"])
        >>> classifier.predict("recording.wav")
        Predictions(3 examples, scores float32 [3, 2])
    """

    def __init__(
        self,
        classifier: PathLike | ClassifierEngine,
        class_names: Sequence[str] | None = None,
        hop_seconds: float | None = None,
        padding: Padding | None = None,
        batch_size: int = 64,
        channels: audio.Channels = "mix",
    ) -> None:
        options = resolve_options(classifier, hop_seconds, padding)
        engine = open_classifier(classifier) if isinstance(classifier, (str, os.PathLike)) else classifier
        if not isinstance(engine, ClassifierEngine):
            raise TypeError(f"classifier must be a path, or an engine with class names, got {classifier!r}")
        self.class_names = engine.class_names if class_names is None else tuple(class_names)
        check_class_names(self.class_names, len(engine.class_names))
        self._embedder = Embedder(engine, *options, batch_size=batch_size, channels=channels)

    def predict(self, source: audio.Source, sample_rate: int | None = None) -> Predictions:
        """Scores a recording.

        Args:
            source: As in `Embedder.embed`.
            sample_rate: As in `Embedder.embed`.

        Returns:
            The scores of all examples.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: As in `Embedder.embed`.
            TypeError: As in `Embedder.embed`.
        """
        return self._predictions(self._embedder.embed(source, sample_rate))

    def stream(self, blocks: Iterable[Any], sample_rate: int) -> Iterator[Predictions]:
        """Scores a stream in constant memory, batch by batch.

        Args:
            blocks: As in `Embedder.stream`.
            sample_rate: Their rate in Hz.

        Returns:
            The scores, as soon as each batch is complete, and the rest at the end of the stream.

        Raises:
            ValueError: As in `Embedder.stream`.
            TypeError: As in `Embedder.stream`.
        """
        return map(self._predictions, self._embedder.stream(blocks, sample_rate))

    def stream_many(
        self, paths: Iterable[PathT], on_audio: Callable[[PathT, float], object] | None = None
    ) -> Generator[tuple[PathT, Predictions | Exception | None], None, None]:
        """Scores many recordings at the speed of the network, in memory that does not grow with their length.

        Args:
            paths: As in `Embedder.embed_many`.
            on_audio: As in `Embedder.embed_many`.

        Yields:
            Each path, in order: with parts of its scores, as soon as a batch is complete; and then once with None, or
            with the exception that explains why the recording ends early or has no scores.
        """
        with contextlib.closing(self._embedder.stream_many(paths, on_audio)) as results:
            for path, result in results:
                yield path, self._predictions(result) if isinstance(result, Embeddings) else result

    def _predictions(self, embeddings: Embeddings) -> Predictions:
        return Predictions(embeddings.times, embeddings.values, self.class_names)
