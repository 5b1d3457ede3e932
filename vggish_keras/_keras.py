"""Keras, with a clear error unless it runs on TensorFlow."""

from tensorflow import keras

__all__ = ["keras"]

_NEEDED = "vggish_keras needs Keras's TensorFlow backend (environment variable KERAS_BACKEND=tensorflow)"

try:
    _backend = keras.backend.backend()
except ImportError as error:
    # TensorFlow reports that Keras is missing, also if it is the backend.
    raise ImportError(f"{_NEEDED}, but Keras cannot be imported: {error.__context__ or error}") from error
if _backend != "tensorflow":
    raise ImportError(f"{_NEEDED}, got {_backend}")
