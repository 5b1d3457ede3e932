"""VGGish audio embeddings as a Keras model that takes raw 16 kHz waveforms.

Importing the package does not load TensorFlow: each name is imported when it is first used. To load a `.keras` file
that contains VGGish, import `vggish_keras.model` first, which registers the layers.
"""

import lazy_loader

__version__ = "0.1.0"

# The public names are listed once, in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
