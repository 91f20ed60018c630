"""Modules that a pipeline holds or makes and that are no components: they are counted while they run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from diffmeter.metering.counters.live import LiveCount
from diffmeter.metering.counters.tally import Count


class Stranger:
    """One call of such a module, without the recorded calls that are made inside it.

    Attributes:
        count: what it cost, as far as it is over.
        failure: why the count does not hold, if it does not.
    """

    def __init__(self, module: nn.Module) -> None:
        self.count: Count | None = None
        self.failure: str | None = None
        self._module = module
        self._modules = {id(child) for child in module.modules()}
        self._piece: contextlib.ExitStack | None = None

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Around the call."""
        self._begin().entered(self._module)
        try:
            yield
        except BaseException as error:
            self.failure = f"the call raised {type(error).__name__}: what it did until then is not counted"
            raise
        finally:
            self._end()

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """Around a recorded call inside it."""
        self._end()
        try:
            yield
        finally:
            self._begin()

    def _begin(self) -> LiveCount:
        live, piece = LiveCount(self._modules), contextlib.ExitStack()
        piece.callback(self._take, live)
        piece.enter_context(live.running())
        self._piece = piece
        return live

    def _end(self) -> None:
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.close()

    def _take(self, live: LiveCount) -> None:
        self.failure = self.failure or live.failure
        if live.count is not None:
            self.count = live.count if self.count is None else self.count + live.count
