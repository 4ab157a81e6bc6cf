"""Judged benchmarks: a language model behind a chat endpoint scores stored answers."""
