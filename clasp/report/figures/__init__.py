"""Figures, as PNG and SVG, readable at a paper's column width; the same stored results give the same bytes.

One file a figure, each with a function ``draw``; :mod:`~clasp.report.figures.style` has what they share.
"""
