"""Batches of generations: the spec and its plan, the runner, the records, many processes, trackers."""
