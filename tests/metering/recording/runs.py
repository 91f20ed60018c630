"""Short ways to observe."""

from __future__ import annotations

from diffmeter import observe


def observed(pipe, call=None):
    """The profile of a call, of the pipeline itself where none is given."""
    with observe(pipe) as run:
        (call or pipe)()
    return run.profile
