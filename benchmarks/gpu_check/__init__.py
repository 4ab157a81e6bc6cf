"""All checks that need a GPU, in one run of a few minutes; ``geometry=small`` runs the same code on a CPU."""
