"""Export models for use outside this package: one file per target, and what only exports need."""

from vggish_keras.exporting.litert import export_litert
from vggish_keras.exporting.onnx import export_onnx
from vggish_keras.exporting.saved_model import export_saved_model

__all__ = ["export_litert", "export_onnx", "export_saved_model"]
