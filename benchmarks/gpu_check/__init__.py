"""Everything that only a GPU can show, in one run of a few minutes; at ``geometry=small`` the same code on a CPU."""
