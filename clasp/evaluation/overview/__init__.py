"""Before and during a sweep: what it will do, and how it is doing. Reads the sweep's rooms; none of them reads it."""
