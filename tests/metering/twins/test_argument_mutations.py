"""What a call on copies wrote into its arguments is handed back to the caller's own objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from diffmeter.metering.twins.argument_mutations import Given, hand_back


def cache() -> Any:
    return SimpleNamespace(keys=[1, 2], table={"a": 1}, filled=False, inner=SimpleNamespace(n=[]))


def fill(it: Any) -> None:
    it.filled = True


def grow(it: Any) -> None:
    it.keys += [3, 4]
    it.inner.n.append("x")


def replace(it: Any) -> None:
    it.keys[1] = 7
    it.table["a"] = 2


def shrink(it: Any) -> None:
    it.keys.pop()
    del it.table["a"]
    del it.filled


def exchange(it: Any) -> None:
    it.inner = SimpleNamespace(n=[5])
    it.new = "new"


@pytest.mark.parametrize("write", [fill, grow, replace, shrink, exchange])
def test_the_callers_object_ends_up_as_the_copy(write: Any) -> None:
    mine, copy = cache(), cache()
    untouched = mine.inner
    given = Given((1, copy), {})
    write(copy)
    hand_back(given.written(), (1, mine), {}, lambda value: value)
    assert mine == copy
    assert mine.inner is untouched or write is exchange


def test_dictionaries_and_lists_given_by_name() -> None:
    mine, copy = {"scale": 0.5, "more": [{}]}, {"scale": 0.5, "more": [{}]}
    given = Given((), {"options": copy})
    copy.pop("scale")
    copy["more"][0]["x"] = 1
    hand_back(given.written(), (), {"options": mine}, lambda value: value * 10)
    assert mine == {"more": [{"x": 10}]}


def test_nothing_is_written_where_nothing_changed() -> None:
    given = Given((cache(), [1, 2], {"a": cache()}), {"b": None})
    assert given.written() == ()


def test_objects_that_refer_to_each_other_come_to_an_end() -> None:
    a, b = SimpleNamespace(), SimpleNamespace()
    a.other, b.other = b, a
    given = Given((a,), {})
    b.x = 1
    assert [change.path[-1] for change in given.written()] == [("attribute", "x")]
