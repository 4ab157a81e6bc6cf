"""Runs on clusters and side by side on one machine: packs, jobs, estimates, status, and what is fetched first."""
