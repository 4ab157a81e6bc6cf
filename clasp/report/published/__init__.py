"""Published numbers beside ours: whose they are, when they compare, and where an unpruned run should be."""
