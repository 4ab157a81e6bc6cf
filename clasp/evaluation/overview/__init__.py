"""Before and during a sweep: what it will take, and how it is doing."""
