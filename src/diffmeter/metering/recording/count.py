"""Count one call of one module, without a pipeline around it."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from diffmeter.compat import uncompiled
from diffmeter.errors import CountError, InputError
from diffmeter.metering.counters.live import LiveCount
from diffmeter.metering.pipelines.parts import Parts
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.counts import TwinCounts
from diffmeter.metering.twins.replay import random_state_kept
from diffmeter.metering.watching.signature import freeze
from diffmeter.metering.watching.snapshot import ModuleSnapshot
from diffmeter.metering.watching.trust import judge
from diffmeter.profile import ComputeProfile

from .assemble import build_profile, describe_pipeline
from .calls import CallRecord, Recording

COMPONENT = "module"


def count(module: nn.Module, *inputs: Any, method: str = "forward", **keywords: Any) -> ComputeProfile:
    """What one call of a module costs.

    >>> diffmeter.count(unet, torch.empty(2, 4, 64, 64), 1, encoder_hidden_states=torch.empty(2, 77, 768)).total_macs

    The call is repeated on a copy without memory; nothing is computed, and the module is left as it is. Only where a
    copy would not do the same (foreign hooks, replaced functions) does the module itself run once, without gradients.

    Args:
        module: any module, on any device, also on the meta device.
        *inputs: what it is called with, as in ``module(*inputs, **keywords)``.
        **keywords: the same, by name.
        method: another method than ``forward``, such as an autoencoder's ``decode``.

    Returns:
        A profile with one component, named "module".

    Raises:
        InputError: ``module`` is no module, or has no such method.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"count takes a torch.nn.Module and its inputs, not {type(module).__name__}.")
    if not callable(getattr(module, method, None)):
        raise InputError(f"{type(module).__name__} has no method {method!r}.")
    record = CallRecord(component=COMPONENT, method=method, arguments=freeze(inputs, keywords))
    parts = Parts({COMPONENT: module}, [], [])
    facts = describe_pipeline(module, parts)
    started = time.perf_counter()
    with random_state_kept(), torch.no_grad():
        _settle(record, module, inputs, keywords)
    recording = Recording(calls=[record], count_seconds=time.perf_counter() - started)
    return build_profile(recording, facts, kind="observed" if record.in_run else "dry_run")


def _settle(record: CallRecord, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Count a call on a twin, or in a run where a twin would not do the same."""
    snapshot = ModuleSnapshot(uncompiled(module))
    judgement = judge(snapshot)
    if judgement.of_call(record.arguments) is None:
        try:
            twin = TwinCounts(build_twin(snapshot), forget=True)
            record.take(twin.get(record.method, record.arguments))
        except CountError as error:
            record.failure = str(error)
        return
    live = LiveCount(snapshot.module_ids, judgement, uncompiled(module))
    record.in_run = True
    run = module if record.method == "forward" else getattr(module, record.method)  # the module runs its own hooks
    with live.running():
        run(*inputs, **keywords)
    record.count, record.failure = None if live.failure else live.count, live.failure
