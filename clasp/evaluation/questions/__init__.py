"""Where questions come from: embedded benchmarks, a user's own file, videos; and their pixels."""
