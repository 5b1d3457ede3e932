"""Export models for use outside this package: one file per target, and what only exports need."""

from vggish_keras.exporting.saved_model import export_saved_model

__all__ = ["export_saved_model"]
