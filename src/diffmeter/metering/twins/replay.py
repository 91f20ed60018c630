"""Run one recorded call on a twin: no memory, no arithmetic on activations, every product counted twice.

Activations lie on the meta device. What is small and known (token ids, masks, lengths, positions and what is
computed from them) stays real on the CPU, so that a forward which looks at such values takes the way that it took
in the run. A value that is not known is assumed, once one way and once the other: the count holds if both agree.
"""

from __future__ import annotations

import contextlib
import random
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from diffmeter.compat import (
    NATIVE_ATTENTION,
    attention_registry,
    global_module_hooks,
    native_attention_backend,
    outside_transforms,
    overload_name,
    packet_of,
    storage_identity,
    without_dispatch_modes,
    without_modes,
)
from diffmeter.errors import CountError, one_line
from diffmeter.metering.counters.functional import FunctionCounter
from diffmeter.metering.counters.ledger import ModuleLedger
from diffmeter.metering.counters.module_rules import ModuleCounter
from diffmeter.metering.counters.op_level import DispatchMode, OpTally
from diffmeter.metering.counters.tally import Count
from diffmeter.metering.watching.patching import Patching
from diffmeter.metering.watching.reachable import is_fused_kernel
from diffmeter.metering.watching.signature import Frozen, TensorSpec
from diffmeter.metering.watching.snapshot import ATOM_TYPES, CONTAINERS, SHARED_KEYS, OwnHooks, no_garbage_collection

from .argument_mutations import Given, Written
from .output_shape_cache import call_on_meta

#: results up to this many elements are computed for real while all their inputs are known
KNOWN_LIMIT = 1 << 20

aten = torch.ops.aten

_RANDOM = frozenset(
    [
        "rand",
        "randn",
        "randint",
        "rand_like",
        "randn_like",
        "randint_like",
        "randperm",
        "bernoulli",
        "bernoulli_",
        "normal",
        "normal_",
        "uniform_",
        "exponential_",
        "multinomial",
        "native_dropout",
        "random_",
        "normal_functional",
    ]
)
_FLOAT_FACTORIES = frozenset(
    [
        "empty",
        "zeros",
        "ones",
        "full",
        "empty_strided",
        "linspace",
        "logspace",
        "eye",
        "scalar_tensor",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
    ]
)
#: operators whose result's shape is decided by values
_SHAPED_BY_VALUES = frozenset(
    [
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "bincount",
        "repeat_interleave",
        "argwhere",
    ]
)
READS = frozenset({aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default})

Origin = frozenset[int]
_NOWHERE: Origin = frozenset()


class KnownValues(DispatchMode):
    """Keeps known tensors real and everything else on the meta device, and hands each operator to ``tally``.

    Attributes:
        reads: indices of the call's tensors whose values the forward looked at.
        assumed: whether an unknown value was asked for and ``assumption`` given.
    """

    tally: OpTally

    def __init__(self, tally: OpTally, assumption: bool = False) -> None:
        super().__init__()
        self.tally = tally
        self.assumption = assumption
        self.assumed = False
        self.reads: set[int] = set()
        self._spoiled: dict[int, torch.UntypedStorage] = {}  # known storages that got unknown values
        self._written: dict[int, tuple[torch.UntypedStorage, Origin]] = {}  # known storages that got values of a call

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs) if kwargs else {}
        unknown = False
        known: list[torch.Tensor] = []
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                if value.is_meta or self._is_spoiled(value):
                    unknown = True
                else:
                    known.append(value)
            elif isinstance(value, (list, tuple)):
                for item in value:
                    if isinstance(item, torch.Tensor):
                        if item.is_meta or self._is_spoiled(item):
                            unknown = True
                        else:
                            known.append(item)
        if unknown:
            out = self._unknown(func, args, kwargs, bool(known))
        elif known:
            out = self._known(func, args, kwargs, known)
        else:
            out = self._factory(func, args, kwargs)
        self.tally.add(func, args, kwargs, out)
        return out

    # what is known stays real ------------------------------------------------------------------------------------

    def _known(self, func: Any, args: Any, kwargs: dict[str, Any], known: list[torch.Tensor]) -> Any:
        name = _name(func)
        origin = _NOWHERE.union(*map(self._origin, known))
        if func in READS:
            self.reads |= origin
            return func(*args, **kwargs)
        if name in _RANDOM or not self._is_small(func, args, kwargs, known):
            return self._unknown(func, args, kwargs, True)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        out = func(*args, **kwargs)
        if name in _SHAPED_BY_VALUES or (
            name == "index" and any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1])
        ):
            self.reads |= origin
        if origin and _writes_first(func) and isinstance(args[0], torch.Tensor):
            storage = args[0].untyped_storage()  # and with it every view of it
            key = storage_identity(args[0])
            _, before = self._written.get(key, (storage, _NOWHERE))
            self._written[key] = storage, before | origin
        if origin:
            for item in out if isinstance(out, (list, tuple)) else (out,):
                if isinstance(item, torch.Tensor):
                    item._diffmeter_origin = origin  # type: ignore[attr-defined]
        return out

    def _is_small(self, func: Any, args: Any, kwargs: dict[str, Any], known: list[torch.Tensor]) -> bool:
        bound = prod(max(t.numel(), 1) for t in known)
        for value in args:
            if isinstance(value, (list, tuple)) and value and all(isinstance(i, int) for i in value):
                bound = max(bound, prod(max(abs(i), 1) for i in value))
        if bound <= KNOWN_LIMIT:
            return True
        try:  # the bound is crude: ask for the shape
            out = func(*_to_meta(args), **{k: v for k, v in _to_meta(kwargs).items() if k != "device"})
        except Exception:
            return sum(t.numel() for t in known) <= KNOWN_LIMIT
        outs = out if isinstance(out, (list, tuple)) else (out,)
        return all(o.numel() <= KNOWN_LIMIT for o in outs if isinstance(o, torch.Tensor))

    def _factory(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        device = kwargs.get("device")
        if device is None or torch.device(device).type == "cpu":
            where = torch.device("cpu") if self._factory_size(args) <= KNOWN_LIMIT else torch.device("meta")
        elif (
            _name(func) in _RANDOM
            or self._factory_size(args) > KNOWN_LIMIT
            or (_name(func) in _FLOAT_FACTORIES and _is_float(kwargs.get("dtype")))
        ):
            where = torch.device("meta")
        else:
            where = torch.device("cpu")
        if _name(func) in _RANDOM:
            where = torch.device("meta")
            func = _without_generator(func, kwargs)
        if "device" in kwargs or device is not None or where.type == "meta":
            if any(argument.name == "device" for argument in _arguments(func)):
                kwargs["device"] = where
        return func(*args, **kwargs)

    @staticmethod
    def _factory_size(args: Any) -> int:
        for value in args:
            if isinstance(value, (list, tuple)) and all(isinstance(i, int) for i in value):
                return prod(max(i, 0) for i in value)
        sizes = [abs(v) for v in args if isinstance(v, int) and not isinstance(v, bool)]
        return max(sizes, default=0)

    # what is not known runs on the meta device -------------------------------------------------------------------

    def _unknown(self, func: Any, args: Any, kwargs: dict[str, Any], mixed: bool) -> Any:
        if func in READS:
            self.assumed = True
            if func is aten._local_scalar_dense.default:
                return _assumed_scalar(args[0].dtype, self.assumption)
            return self.assumption
        name = _name(func)
        if name == "index":
            args = (args[0], self._positions(args[1]), *args[2:])
        elif name == "masked_select":
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
            self.reads |= self._origin(args[1])
            positions = self._positions([torch.broadcast_to(args[1], shape)])
            return aten.index.Tensor(_meta(args[0].expand(shape)), _to_meta(positions))
        elif name in _SHAPED_BY_VALUES:
            return func(*(self._assumed(a) if isinstance(a, torch.Tensor) else a for a in args), **kwargs)
        target = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if target is not None and not target.is_meta and _writes_first(func):
            self._spoil(target)
            return target
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if name in _RANDOM:
            func = _without_generator(func, kwargs)
        if mixed or self._spoiled:
            args, kwargs = _to_meta(args), _to_meta(kwargs)
        try:
            return call_on_meta(func, args, kwargs)
        except RuntimeError as error:
            if not _is_about_dtypes(error):
                raise
            return func(*_same_float(args), **kwargs)

    def _positions(self, indices: Any) -> list[Any]:
        """Index tensors with every mask turned into the positions it selects, since those decide the shape."""
        positions: list[Any] = []
        for index in indices:
            if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                self.reads |= self._origin(index)
                positions.extend(self._assumed(index).nonzero().unbind(1))
            else:
                positions.append(index)
        return positions

    def _assumed(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor itself where it is known, else one of assumed values: all zero, or zeros and ones in turn."""
        if not tensor.is_meta and not self._is_spoiled(tensor):
            return tensor
        if tensor.numel() > KNOWN_LIMIT:
            raise CountError("the work depends on the values of a large tensor that only a real run knows")
        self.assumed = True
        return assumed_values(tensor, self.assumption)

    def _origin(self, tensor: torch.Tensor) -> Origin:
        """Indices of the call's tensors that the values of a known tensor come from."""
        origin = getattr(tensor, "_diffmeter_origin", _NOWHERE)
        if self._written:
            origin |= self._written.get(_storage_id(tensor), (None, _NOWHERE))[1]
        return origin

    def _is_spoiled(self, tensor: torch.Tensor) -> bool:
        return bool(self._spoiled) and _storage_id(tensor) in self._spoiled

    def _spoil(self, tensor: torch.Tensor) -> None:
        self._spoiled[_storage_id(tensor)] = tensor.untyped_storage()


def _name(func: Any) -> str:
    return getattr(getattr(func, "_overloadpacket", func), "__name__", "")


def _without_generator(func: Any, kwargs: dict[str, Any]) -> Any:
    """The overload of a random operator to call when its generator, which is of another device, is left out."""
    kwargs.pop("generator", None)
    return packet_of(func) if "generator" in overload_name(func) else func


def _arguments(func: Any) -> Any:
    schema = getattr(func, "_schema", None)
    return schema.arguments if schema is not None else ()


def _writes_first(func: Any) -> bool:
    arguments = _arguments(func)
    return bool(arguments) and arguments[0].alias_info is not None and arguments[0].alias_info.is_write


def _is_float(dtype: torch.dtype | None) -> bool:
    return (dtype or torch.get_default_dtype()).is_floating_point or (dtype is not None and dtype.is_complex)


def _storage_id(tensor: torch.Tensor) -> int:
    return storage_identity(tensor)


def _assumed_scalar(dtype: torch.dtype, assumption: bool) -> Any:
    if dtype == torch.bool:
        return assumption
    return float(assumption) if dtype.is_floating_point else int(assumption)


def assumed_values(tensor: torch.Tensor, assumption: bool) -> torch.Tensor:
    """A CPU tensor of the same shape and dtype: zeros, or 0, 1, 0, 1, ..."""
    shape = tuple(tensor.shape)
    if not assumption:
        return torch.zeros(shape, dtype=tensor.dtype)
    if tensor.numel() == 1:
        return torch.ones(shape, dtype=tensor.dtype)
    return (torch.arange(tensor.numel()) % 2).reshape(shape).to(tensor.dtype)


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return (
        tensor
        if tensor.is_meta
        else torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    )


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _meta(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_to_meta(item) for item in value)
    if isinstance(value, dict):
        return {name: _to_meta(item) for name, item in value.items()}
    return value


def _is_about_dtypes(error: RuntimeError) -> bool:
    """The run went through, so a dtype that does not fit is the twin's: autocast, or weights cast on the fly."""
    return any(text in str(error) for text in ("dtype", "same type", "should be the same"))


def _same_float(args: Any) -> Any:
    floats = [a.dtype for a in args if isinstance(a, torch.Tensor) and a.dtype.is_floating_point]
    widest = max(floats, key=lambda dtype: dtype.itemsize, default=None)
    return tuple(
        a.to(widest) if widest is not None and isinstance(a, torch.Tensor) and a.dtype.is_floating_point else a
        for a in args
    )


class _HostValues(TorchFunctionMode):
    """Keeps values that never pass through an operator: ``numpy()`` and ``tolist()``, and ``torch.tensor([...])``."""

    def __init__(self, known: KnownValues) -> None:
        super().__init__()
        self._values = known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__):
            tensor = args[0]
            if isinstance(tensor, torch.Tensor):
                if tensor.is_meta or self._values._is_spoiled(tensor):
                    self._values.assumed = True
                    with without_dispatch_modes():
                        stand_in = assumed_values(tensor, self._values.assumption)
                    return func(stand_in, *args[1:], **(kwargs or {}))
                self._values.reads |= self._values._origin(tensor)
        elif func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs and "device" in kwargs:
            if not isinstance(args[0] if args else None, torch.Tensor):
                kwargs = {**kwargs, "device": torch.device("cpu")}
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "same device" in str(error):  # known values beside unknown ones, in a check before any operator
                return func(*_to_meta(args), **(kwargs or {}))
            if not _is_about_dtypes(error):
                raise
            return func(*_same_float(args), **(kwargs or {}))


class ReplayWatcher(Protocol):
    """Sees the operators of each replay, besides the counters."""

    def around(self, args: Any, kwargs: Any) -> contextlib.AbstractContextManager[Any]:
        """What stands innermost around one forward, which gets these arguments."""

    def counted(self, count: Count) -> None:
        """The forward is over, and this is what was counted."""


#: who watches the replays made in this context
replay_watcher: ContextVar[ReplayWatcher | None] = ContextVar("replay_watcher", default=None)

#: reason of a count that was made on an assumption which matters
UNKNOWN_VALUE = "the work depends on a value that only a real run knows"


@dataclass
class Replay:
    """One counted forward.

    Attributes:
        count: what it cost, on both counters.
        output: what it returned: meta tensors, and real ones where everything they come from is known.
        reads: which of the call's tensors it looked into for values.
        assumed: whether it asked for a value that is not known.
        problem: why the count does not hold; None where it does.
        written: what it wrote into objects that it was given.
    """

    count: Count
    output: Any
    reads: frozenset[int] = field(default=frozenset())
    assumed: bool = False
    problem: str | None = None
    written: tuple[Written, ...] = ()


class _Held:
    """What a twin holds at one moment: attributes, what they contain, known tensors. ``restore`` puts it back."""

    def __init__(self, root: torch.nn.Module) -> None:
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._seen: set[int] = set()
        with no_garbage_collection():
            for module in root.modules():
                self._keep(module.__dict__, 3)

    def _keep(self, container: Any, depth: int) -> None:
        if id(container) in self._seen:
            return
        self._seen.add(id(container))
        self._containers.append((container, container.copy()))
        if not depth:
            return
        items: Any = container.items() if isinstance(container, dict) else enumerate(container)
        for name, item in items:
            kind = type(item)
            if kind in ATOM_TYPES or (isinstance(name, str) and name in SHARED_KEYS):
                continue
            if kind in CONTAINERS:
                self._keep(item, depth - 1)
            elif isinstance(item, torch.Tensor):
                if not item.is_meta:
                    self._tensors.append((item, item.detach().clone()))
            elif hasattr(item, "__dict__") and not isinstance(item, _NO_STATE):
                self._keep(item.__dict__, depth - 1)

    def restore(self) -> None:
        for container, kept in self._containers:
            container.clear()
            if isinstance(container, (dict, set)):
                container.update(kept)
            else:  # a list or a deque
                container.extend(kept)
        for tensor, kept in self._tensors:
            tensor.copy_(kept)


_NO_STATE = (type, torch.nn.Module, types.FunctionType, types.MethodType)


def replay(
    call: Callable[..., Any],
    root: torch.nn.Module,
    arguments: Frozen,
    *,
    stateful: bool = False,
    forget: bool = False,
) -> Replay:
    """Count one call on a twin.

    Args:
        call: the twin's method.
        root: the twin, whose modules thop's rules are applied to.
        arguments: the frozen arguments.
        stateful: the twin remembers earlier calls (a step cache), so that a call cannot be tried a second time.
        forget: put the twin back afterwards to what it was, as a record of what the run's component was at that call.

    Raises:
        CountError: the forward cannot run without real values.
    """
    with without_modes(), outside_transforms():
        return _replay(call, root, arguments, stateful, forget)


def _replay(
    call: Callable[..., Any], root: torch.nn.Module, arguments: Frozen, stateful: bool, forget: bool
) -> Replay:
    before = _Held(root)
    drawn = _drawn()
    try:
        first = _run(call, root, arguments, assumption=False)
        if _drawn() != drawn:
            first.problem = "the work may depend on random numbers of Python or NumPy"
            return first
        if not first.assumed:
            return first
        if stateful:
            first.problem = UNKNOWN_VALUE
            return first
        after = _Held(root)
        before.restore()
        if not _same_with_other_values(call, root, arguments, first):
            first.problem = UNKNOWN_VALUE
        after.restore()
        return first
    finally:
        if forget:
            before.restore()


def _same_with_other_values(call: Callable[..., Any], root: torch.nn.Module, arguments: Frozen, first: Replay) -> bool:
    try:
        return _run(call, root, arguments, assumption=True).count.op_level == first.count.op_level
    except CountError:
        return False


def _run(call: Callable[..., Any], root: torch.nn.Module, arguments: Frozen, assumption: bool) -> Replay:
    tally = OpTally()
    modules = ModuleCounter()
    functions = FunctionCounter(modules.covered)
    ledger = ModuleLedger(root, modules, functions, tally)
    values = KnownValues(tally, assumption)

    def make(index: int, spec: TensorSpec) -> torch.Tensor:
        tensor = spec.known()
        if tensor is None:
            return torch.empty(spec.shape, dtype=spec.dtype, device="meta")
        tensor._diffmeter_origin = frozenset({index})  # type: ignore[attr-defined]
        return tensor

    args, kwargs = arguments.thaw(make)
    given = Given(args, kwargs)
    watcher = replay_watcher.get()
    around = contextlib.nullcontext() if watcher is None else watcher.around(args, kwargs)
    with _attached(modules, ledger, root), _Replaying(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with no_garbage_collection(), values, _HostValues(values), functions, around:
            try:
                with torch.set_grad_enabled(arguments.gradients):
                    output = call(*args, **kwargs)
            except CountError:
                raise
            except Exception as error:
                raise CountError(f"{type(error).__name__} on the meta device: {one_line(error, limit=200)}") from error
    count = Count.of(modules.macs + functions.macs, tally, ledger)
    if watcher is not None:
        watcher.counted(count)
    return Replay(count, output, frozenset(values.reads), values.assumed, written=given.written())


@contextlib.contextmanager
def _attached(modules: ModuleCounter, ledger: ModuleLedger, root: torch.nn.Module) -> Iterator[None]:
    with OwnHooks():
        undo = (modules.attach(root), ledger.attach(root))  # the ledger reads what the counter's hooks have added
    try:
        yield
    finally:
        for detach in undo:
            detach()


class _Replaying(Patching):
    """Redirects, in threads that replay, what would keep a twin from running on the meta device.

    Autocast on the device of a tensor, which PyTorch refuses for the meta device, becomes autocast on the CPU; fused
    attention of another library becomes PyTorch's own; and global module hooks of others are not called.
    """

    _here = threading.local()

    def __enter__(self) -> None:
        self._here.depth = getattr(self._here, "depth", 0) + 1
        super().__enter__()

    def __exit__(self, *_: object) -> None:
        self._here.depth -= 1
        super().__exit__()

    @classmethod
    def _install(cls) -> None:
        autocast: Any = torch.autocast.__init__

        def on_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
            autocast(self, "cpu" if device_type == "meta" else device_type, *args, **kwargs)

        cls._redirect(torch.autocast, "__init__", on_cpu)
        if is_fused_kernel(F.scaled_dot_product_attention):
            cls._redirect(F, "scaled_dot_product_attention", NATIVE_ATTENTION)
        native = native_attention_backend()
        if native is not None:
            cls._redirect(attention_registry(), "get_active_backend", lambda *_: native)
        for hooks in global_module_hooks():
            for key in hooks:
                cls._silence(hooks, key)

    @classmethod
    def _redirect(cls, owner: Any, name: str, function: Callable[..., Any]) -> None:
        elsewhere = getattr(owner, name)

        def chosen(*args: Any, **kwargs: Any) -> Any:
            return (function if getattr(cls._here, "depth", 0) else elsewhere)(*args, **kwargs)

        cls._replace(owner, name, chosen)

    @classmethod
    def _silence(cls, hooks: dict[int, Any], key: int) -> None:
        hook = hooks[key]

        def elsewhere(*args: Any, **kwargs: Any) -> Any:
            return None if getattr(cls._here, "depth", 0) else hook(*args, **kwargs)

        cls._replace_item(hooks, key, elsewhere)


def _drawn() -> Any:
    """Something that changes when a random number of Python or NumPy is drawn."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2]


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave every global random state as it was: PyTorch's on the CPU, Python's and NumPy's."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
