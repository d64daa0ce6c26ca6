"""SharedViT: all tasks of a transformer with deltas in one pass that computes what they share once, exactly."""

from slimtask.export.shared.calibrate import Calibration, Thresholds, calibrate_rows, calibrate_thresholds
from slimtask.export.shared.vit import SharedViT

__all__ = ["Calibration", "SharedViT", "Thresholds", "calibrate_rows", "calibrate_thresholds"]
