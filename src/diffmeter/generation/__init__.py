"""Generating images: one request, a sequence, a batch over many processes."""
