"""Models for other programs: one file for each target, and what only exports need."""

from vggish_keras.exporting.saved_model import export_saved_model

__all__ = ["export_saved_model"]
