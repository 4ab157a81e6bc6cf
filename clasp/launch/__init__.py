"""Runs on a cluster or in parallel on one machine: packs, jobs, estimates, status, and prefetching."""
