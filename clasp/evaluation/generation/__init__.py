"""From a question to its answer: batches, input preparation, the ViT cache, checkpointing of answers."""
