"""A generation of every model of the catalog, with its own defaults, is counted whole and without a weight."""

from __future__ import annotations

import pytest

from diffmeter import dry_run
from diffmeter.models import catalog


@pytest.mark.parametrize("model_id", [entry.model_id for entry in catalog.entries()])
def test_every_model_is_counted_whole(model_id: str) -> None:
    entry = catalog.find(model_id)
    assert entry is not None
    profile = dry_run(model_id)
    assert profile.complete, (profile.uncounted, profile.differences)
    assert not profile.differences
    assert profile.matmul_macs > 0
    called = {name: component for name, component in profile.components.items() if component.calls}
    # What a component's file says about its size is what was counted.
    for name, component in called.items():
        if name in entry.components and entry.components[name].params is not None:
            assert component.params == entry.components[name].params
