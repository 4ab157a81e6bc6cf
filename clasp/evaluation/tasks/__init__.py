"""Our lmms-eval tasks: easy-VQA and the generated picture world, over local files."""
