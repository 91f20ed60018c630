"""Counts of the calls of one twin, each signature once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from diffmeter.errors import CountError
from diffmeter.metering.counters import user_formulas
from diffmeter.metering.watching.signature import Frozen

from .replay import Replay, replay


class TwinCounts:
    """Counts of one twin, each signature once.

    A second call of a signature is replayed again only if the forward looked at values, and those differ.

    Args:
        twin: the module that is called.
        stateful: it remembers earlier calls, so that every call is replayed, in order.
        forget: each call finds the twin as it was made.
    """

    def __init__(self, twin: nn.Module, *, stateful: bool = False, forget: bool = False) -> None:
        self.twin = twin
        self.forget = forget
        self.stateful = stateful
        self._known: dict[tuple[Any, ...], dict[Any, Replay | CountError]] = {}
        self._reads: dict[tuple[Any, ...], frozenset[int]] = {}

    def get(self, method: str, arguments: Frozen, call: Callable[..., Any] | None = None) -> Replay:
        """The replay of one call.

        Raises:
            CountError: it cannot be counted.
        """
        signature = (method, arguments.key, tuple(user_formulas.current().values()))
        known = self._known.setdefault(signature, {})
        reads = self._reads.get(signature, frozenset())
        found = None if self.stateful else known.get(arguments.values(reads))
        if found is None:
            run = call or (self.twin if method == "forward" else getattr(self.twin, method))
            try:
                found = replay(run, self.twin, arguments, stateful=self.stateful, forget=self.forget)
                self._reads[signature] = reads = reads | found.reads
            except CountError as error:
                found = error
            known[arguments.values(reads)] = found
        if isinstance(found, CountError):
            raise found
        return found
