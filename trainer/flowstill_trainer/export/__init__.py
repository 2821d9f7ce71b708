"""The one-step graph in ONNX, in one piece and in two, in float32 or with its matrix products in a smaller type."""

from flowstill_trainer.export.onnx_files import float64_values
from flowstill_trainer.export.precision import FP32, ExportFailed, ExportPlan, PrecisionLost, plan_export
from flowstill_trainer.export.products import Products
from flowstill_trainer.export.student import CHECKED, Graph, Pair, describe, export, rehearse

__all__ = [
    "CHECKED",
    "FP32",
    "ExportFailed",
    "ExportPlan",
    "Graph",
    "Pair",
    "PrecisionLost",
    "Products",
    "describe",
    "export",
    "float64_values",
    "plan_export",
    "rehearse",
]
