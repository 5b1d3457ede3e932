"""VGGish audio embeddings as a Keras model that takes raw 16 kHz waveforms.

Importing the package does not load TensorFlow: each name is imported when it is first used. Keras loads `.keras` files
that contain VGGish once both packages are imported, in either order.
"""

import lazy_loader

from vggish_keras._registration import register_layers

__version__ = "0.2.0"

# The public names are listed once, in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_layers()
del register_layers
