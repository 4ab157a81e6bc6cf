"""The report for a browser: one file that needs no other, from stored results alone. See :func:`write_html`."""

from clasp.report.html.page import Built, write_html

__all__ = ["Built", "write_html"]
