"""Seeing a run without touching it: calls, what components are made of at each, and counting in the run itself."""
