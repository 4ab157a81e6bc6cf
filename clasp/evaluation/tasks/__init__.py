"""Our lmms-eval tasks: the small world's and easy-VQA over local files, and published ones where lmms-eval's differ."""
