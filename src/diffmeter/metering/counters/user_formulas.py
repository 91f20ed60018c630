"""Formulas that users gave: which there are at the moment, and what is counted by one of them right now.

:mod:`.registration` fills this table; both counters look here. The number of such a formula is the user's: it goes
into both views alike, whatever runs inside is left out of both, and the profile names it.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from diffmeter.compat import packet_of

from .kinds import Kind

if TYPE_CHECKING:
    from .op_level import OpTally

Macs = Callable[..., int]


@dataclass(frozen=True, slots=True)
class UserFormula:
    """What a user said about one target."""

    name: str
    macs: Macs
    kind: Kind
    takes_module: bool = False  # of a class of modules: whether the module is the first argument

    def __call__(self, *args: Any, out: Any, **kwargs: Any) -> int:
        """MACs of one call.

        Raises:
            ValueError: the formula gave a negative number.
            TypeError: it gave no whole number.
        """
        macs = operator.index(self.macs(*args, out=out, **kwargs))
        if macs < 0:
            raise ValueError(f"the formula of {self.name} gave {macs}: MACs are not negative")
        return macs


#: by target; replaced as a whole, so that one who holds it keeps what was true then
_formulas: Mapping[Any, UserFormula] = MappingProxyType({})


class _Here(threading.local):
    def __init__(self) -> None:
        self.depth = 0  # calls under way that a user's formula counts
        self.tallies: list[OpTally] = []  # of the counters at work, the innermost last
        self.formulas: Mapping[Any, UserFormula] | None = None  # in the place of what is registered now


_here = _Here()


def current() -> Mapping[Any, UserFormula]:
    """The formulas in force in this thread: an immutable table."""
    return _formulas if _here.formulas is None else _here.formulas


@contextlib.contextmanager
def using(formulas: Mapping[Any, UserFormula]) -> Iterator[None]:
    """Count with the formulas of an earlier moment, as :func:`current` gave them."""
    before, _here.formulas = _here.formulas, formulas
    try:
        yield
    finally:
        _here.formulas = before


def replace(formulas: Mapping[Any, UserFormula]) -> None:
    """Put another table in force."""
    global _formulas
    _formulas = MappingProxyType(dict(formulas))


def of_operator(func: Any) -> UserFormula | None:
    """The formula of a dispatched operator, by its overload or else its packet."""
    table = current()
    if not table:
        return None
    return table.get(func) or table.get(packet_of(func))


def of_module(cls: type) -> UserFormula | None:
    """The formula of a module class or of the nearest class that it derives from."""
    table = current()
    return next((table[base] for base in cls.__mro__ if base in table), None) if table else None


def is_covered() -> bool:
    """Whether a call that a user's formula counts is under way in this thread: nothing inside counts again."""
    return _here.depth > 0


@contextlib.contextmanager
def covered() -> Iterator[None]:
    """Around such a call."""
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1


def start(tally: OpTally | None) -> None:
    """A counter begins to work in this thread: users' formulas for functions and modules count into ``tally``."""
    if tally is not None:
        _here.tallies.append(tally)


def stop(tally: OpTally | None) -> None:
    """The counter that began last is done."""
    if tally is not None:
        _here.tallies.pop()


def tally_here() -> OpTally | None:
    """Where numbers go at the moment; None where nobody counts, or where the call around is counted already."""
    return _here.tallies[-1] if _here.tallies and not _here.depth else None
