"""Routers measured: labelled prompts, accuracy, speed."""
