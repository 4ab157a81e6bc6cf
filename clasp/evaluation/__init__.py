"""Evaluation: cells (one backbone x method x budget x benchmark), their signatures, their runs and their files."""
