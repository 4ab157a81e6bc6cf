"""The report for a browser: one file that needs no other, from stored results alone."""
