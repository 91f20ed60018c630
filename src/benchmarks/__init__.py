"""Closed-form counters of whole training steps."""
