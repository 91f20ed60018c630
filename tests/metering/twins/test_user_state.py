"""What the user's functions wrote in a dry run is put back."""

from __future__ import annotations

import collections

import torch

from diffmeter.metering.twins.user_state import user_state_kept

calls = 0
seen: list[int] = []
table = {"n": 0, "inner": [1]}
values = torch.zeros(2)


class Counter:
    n = 0

    def __init__(self) -> None:
        self.mine: collections.deque[int] = collections.deque([0])


counter = Counter()


def writes_everywhere(x: int, kept: list[int] = []) -> None:  # noqa: B006
    global calls
    calls += 1
    seen.append(x)
    table["n"] += 1
    table["inner"].append(2)
    table["new"] = x
    Counter.n += 1
    Counter.more = 1  # type: ignore[attr-defined]
    counter.mine.append(x)
    counter.new = x  # type: ignore[attr-defined]
    kept.append(x)
    values.add_(1)


def test_globals_containers_classes_objects_and_tensors() -> None:
    first = table["inner"]
    with user_state_kept(writes_everywhere):
        writes_everywhere(3)
        assert calls == 1
        assert seen == [3]
        assert Counter.n == 1
    assert calls == 0
    assert seen == []
    assert table == {"n": 0, "inner": [1]}
    assert table["inner"] is first
    assert Counter.n == 0
    assert not hasattr(Counter, "more")
    assert list(counter.mine) == [0]
    assert not hasattr(counter, "new")
    assert writes_everywhere.__defaults__ == ([],)
    assert values.tolist() == [0, 0]


def test_closures_and_what_other_functions_reach() -> None:
    def make():
        count, kept = 0, []

        def inner() -> None:
            nonlocal count
            count += 1
            kept.append(count)

        def outer() -> int:
            inner()
            return count

        return outer, kept

    outer, kept = make()
    with user_state_kept(outer):
        assert outer() == 1
    assert kept == []
    assert outer() == 1


def test_after_an_exception_too() -> None:
    try:
        with user_state_kept(writes_everywhere):
            writes_everywhere(3)
            raise KeyError
    except KeyError:
        pass
    assert seen == []
