"""The one walk through nested values: containers, and what they hold."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

#: mappings that hold their values; others, such as accelerate's of offloaded weights, fetch them from a disk
_MAPPINGS = (dict, UserDict, MappingProxyType)


def leaves(value: Any) -> Iterator[Any]:
    """What lists, tuples, sets and dictionaries hold, however deep; any other value itself."""
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, _MAPPINGS):
        for item in value.values():
            yield from leaves(item)
    else:
        yield value
