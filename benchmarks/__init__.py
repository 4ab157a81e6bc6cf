"""Speed of pruning: methods on real geometries with random weights, selection ops, growth, profiles, the harness."""
