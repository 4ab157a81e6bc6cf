"""What cells will take, before they run."""
