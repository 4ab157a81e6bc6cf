"""Many cells on many machines: who computes which, what is kept while it is computed, and what became of each."""
