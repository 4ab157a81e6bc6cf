"""While a cell is computed: who computes it, the answers so far, and why it failed."""
