"""Models and data sets from the hub, fetched and checked where there is a network, for jobs that have none."""
