"""Published numbers beside ours: their origin, when they compare, and the score that an unpruned run should reach."""
