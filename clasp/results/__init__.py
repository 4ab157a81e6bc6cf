"""What is on disk below a results root: schemas of its files, and who writes and locks them. Torch-free."""
