"""Calibration: CLASP's class-adaptive table from held-out questions."""
