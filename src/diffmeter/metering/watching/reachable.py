"""The code that a component can reach, and the places that it is found in.

Starting from the methods by which a component is entered, every name that a function's code mentions is looked up
where that function would find it: among the globals of its module, in modules that it names, and on every class of
the component's modules and helpers. What is found is looked into in turn, as far as it belongs to the libraries that
models are written in. So the answer errs on the side of too much: a name that two classes share leads to both.

Each place (a module or class and a name) is kept with what was found there, so that a function, constant or registry
that somebody replaces is noticed by comparing some hundred identities.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from diffmeter.compat import uncompiled_function

from .patching import is_own, unpatched
from .signature import ATOMS

#: libraries whose tensors hold the weight of an ordinary layer in fewer bytes: the layer's product is the same
PACKING_LIBRARIES = frozenset({"torchao", "bitsandbytes", "optimum", "diffusers", "transformers"})
#: libraries of fused attention kernels, which are replayed as PyTorch's own attention
KERNEL_LIBRARIES = frozenset(
    {"flash_attn", "flash_attn_interface", "flash_attn_3", "sageattention", "xformers", "kernels"}
)
#: libraries whose code decides its work by structure and arguments alone
_MODEL_LIBRARIES = frozenset({"torch", "diffusers", "transformers", "accelerate", "peft"})
_OTHER_LIBRARIES = frozenset(
    {
        "huggingface_hub",
        "numpy",
        "einops",
        "torchvision",
        "torchao",
        "bitsandbytes",
        "optimum",
        "packaging",
        "typing_extensions",
    }
) | {"pybind11_builtins"}
_STANDARD_LIBRARY = frozenset(sys.stdlib_module_names)
KNOWN_LIBRARIES = _MODEL_LIBRARIES | _OTHER_LIBRARIES | KERNEL_LIBRARIES | _STANDARD_LIBRARY
#: where those libraries keep the code of forwards: looked into; the rest of them is only held against what it was
_FORWARD_CODE = (
    "torch.functional",
    "torch.nn.",
    "accelerate.hooks",
    "diffusers.hooks.",
    "diffusers.models.",
    "diffusers.pipelines.",
    "diffusers.utils.torch_utils",
    "peft.tuners.",
    "transformers.activations",
    "transformers.cache_utils",
    "transformers.integrations.sdpa_attention",
    "transformers.masking_utils",
    "transformers.modeling_attn_mask_utils",
    "transformers.modeling_layers",
    "transformers.modeling_rope_utils",
    "transformers.models.",
    "transformers.pytorch_utils",
)
_OTHER_CODE = (
    "diffusers.models.model_loading_utils",
    "diffusers.models.modeling_outputs",
    "diffusers.models.modeling_utils",
    "torch.nn.attention.",
    "torch.nn.parallel.",
    "transformers.models.auto.",
)
#: methods that are run without being named
_IMPLICIT = frozenset(
    f"__{name}__"
    for name in (
        *("call", "getattr", "setattr", "delattr", "get", "getitem", "setitem", "iter", "next", "len", "contains"),
        *("bool", "enter", "exit", "new", "init", "post_init", "add", "mul", "torch_function"),
    )
)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_DEPTH = 3  # containers and objects inside each other

Place = tuple[Any, str]  # a class or the globals of a module, and a name in it


class ReachableCode:
    """What the methods ``entries`` of the given classes can reach.

    Args:
        classes: of the component's modules and of the helpers in their attributes.
        values: functions and objects that modules hold in their attributes, each with where it was found.
        entries: names of the methods by which the component is entered.

    Attributes:
        own_code: functions and classes of no known library, in the order in which they were met.
        foreign: names the first code met that belongs to no known library; None where there is none.
        reenters: whether a function was replaced that PyTorch calls by its name again for whoever looks at functions,
            so that looking would run it twice.
        unseen: names the first compiled code that foreign code may run and that no counting mode would see.
    """

    def __init__(self, classes: Iterable[type], values: Iterable[tuple[Any, str]], entries: Iterable[str]) -> None:
        self.own_code: list[Any] = []
        self.foreign: str | None = None
        self.unseen: str | None = None
        self.reenters = False
        self._places: dict[tuple[int, str], tuple[Any, str, Any]] = {}
        self._contents: dict[int, tuple[Any, Any, str]] = {}
        self._names: set[str] = set()
        self._classes: set[type] = set()
        self._whole: set[type] = set()
        self._methods: dict[str, list[type]] = {}
        self._seen: set[int] = set()
        self._through_foreign = False
        self._host_names: set[str] = set()
        self._functions: list[types.FunctionType] = []  # met, and not looked into yet
        self._kept: list[Any] = []  # so that identities stay what they are
        self._roots = (list(classes), list(values), list(entries))
        classes, values, entries = self._roots
        for value, where in values:
            self._add(value, where)
        for cls in classes:
            self._add_class(cls)
            self._add_methods(cls)
        self._add_names({*entries, *_IMPLICIT})
        while self._functions:
            self._look_into(self._functions.pop())
        self._quick = self._comparisons()

    @classmethod
    def of(cls, classes: Iterable[type], values: Iterable[tuple[Any, str]], entries: Iterable[str]) -> ReachableCode:
        """The same as the constructor, or what it found before, where that still holds."""
        classes, values, entries = frozenset(classes), list(values), frozenset(entries)
        key = (classes, frozenset(id(value) for value, _ in values), entries)
        known = _recent.get(key)
        if known is not None and known.same():
            return known
        found = cls(classes, values, entries)
        if found.foreign is None:  # what is not the user's may be held on to
            if len(_recent) >= _RECENT:
                _recent.clear()
            _recent[key] = found
        return found

    def same(self) -> bool:
        """Whether everything is in its place still."""
        try:
            return all(pick(table) == found for table, pick, found in self._quick) and all(
                _contents_of(holder) == contents for holder, contents, _ in self._contents.values()
            )
        except Exception:  # a name is gone, or something does not compare
            return False

    @contextlib.contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Put back, for the block, whatever was replaced since: for all threads, so the block is to be short."""
        if self.same():
            yield
            return
        undo: list[Callable[[], None]] = []
        for (_, name), (owner, _, value) in self._places.items():
            table = vars(owner) if isinstance(owner, type) else owner
            now = table.get(name, _ABSENT)
            if unpatched(now) is not value and not _equal_atoms(now, value) and not _is_compiler(now):
                undo.append(functools.partial(_put, owner, name, now))
                _put(owner, name, value)
        for holder, contents, where in self._contents.values():
            if not where.endswith(_HOOK_TABLES) and not _same_contents(_contents_of(holder), contents):
                undo.append(functools.partial(_fill, holder, _contents_of(holder)))
                _fill(holder, contents)
        try:
            yield
        finally:
            for put_back in reversed(undo):
                put_back()

    # looking ---------------------------------------------------------------------------------------------------------

    def _add_names(self, names: Iterable[str]) -> None:
        for name in set(names) - self._names:
            self._names.add(name)
            for cls in self._methods.get(name, ()):
                self._add_place(cls, name, f"{cls.__qualname__}.{name}")

    def _add_class(self, cls: type, where: str | None = None) -> None:
        """Take in a class: its methods and attributes of the names that are mentioned."""
        for base in cls.__mro__:
            if base in self._classes or base in _PLAIN_CLASSES:
                continue
            self._classes.add(base)
            if not is_known(base.__module__) and not _is_disguise(base):
                self._meet_foreign(base.__qualname__, where or base.__qualname__)
                self.own_code.append(base)
            elif not is_forward_code(base.__module__):
                continue
            for name in vars(base):
                self._methods.setdefault(name, []).append(base)
                if name in self._names:
                    self._add_place(base, name, f"{base.__qualname__}.{name}")

    def _add_methods(self, cls: type) -> None:
        """Whatever a module of the component could be entered by belongs to the libraries, named or not."""
        for base in cls.__mro__:
            if base in _PLAIN_CLASSES or base in self._whole:
                continue
            self._whole.add(base)
            for name, value in vars(base).items():
                function = unwrapped(unpatched(value))
                if isinstance(function, types.FunctionType) and name not in _UNRUN:
                    where = f"{base.__qualname__}.{name}"
                    self._places.setdefault((id(base), name), (base, where, unpatched(value)))
                    if not is_own(function) and not is_library_function(function):
                        self._add(function, where)

    def _add_place(self, owner: Any, name: str, where: str) -> None:
        table = vars(owner) if isinstance(owner, type) else owner
        key = (id(owner), name)
        if name in table:
            value = unpatched(table[name])
            self._places[key] = (owner, where, value)
            if where.startswith(_OVERRIDABLE) and name not in _COMPILED_FUNCTIONS:
                function = unwrapped(value)
                self.reenters |= isinstance(function, types.FunctionType) and not is_library_function(function)
            self._add(value, where)

    def _add(self, value: Any, where: str, depth: int = _DEPTH) -> None:
        value = unwrapped(unpatched(value))
        if isinstance(value, ATOMS) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, types.FunctionType):
            self._add_function(value, where)
        elif isinstance(value, functools.partial):
            for item in (value.func, *value.args, *value.keywords.values()):
                self._add(item, where, depth)
        elif isinstance(value, property):
            for function in (value.fget, value.fset):
                self._add(function, where, depth)
        elif isinstance(value, _BUILTINS):
            name = str(getattr(value, "__qualname__", value))
            if not _is_known_builtin(value):
                self._meet_foreign(name, where)
                self._meet_compiled(name, where)
            elif root_of(getattr(value, "__module__", None)) in KERNEL_LIBRARIES:
                self._meet_compiled(name, where)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, _CONTAINERS):
            self._add_contents(value, where, depth)
        elif not isinstance(value, _DATA):
            self._add_object(value, where, depth)

    def _add_function(self, function: types.FunctionType, where: str) -> None:
        module = function.__globals__.get("__name__")
        if is_own(function):
            return
        if not is_library_function(function):
            self._meet_foreign(function.__qualname__, where)
            self.own_code.append(function)
            self._functions.append(function)
        elif root_of(module) in KERNEL_LIBRARIES:
            self._meet_compiled(function.__qualname__, where)
        elif is_forward_code(module):
            self._functions.append(function)
        else:
            self._add_cells(function)  # a wrapper, perhaps

    def _meet_foreign(self, name: str, where: str) -> None:
        self.foreign = self.foreign or (name if where.endswith(name) else f"{name} in {where}")

    def _meet_compiled(self, name: str, where: str) -> None:
        """Compiled code of no operator: libraries know when to call theirs, foreign code may do so at any time."""
        if self._through_foreign or where == ATTENTION_PLACE:
            self.unseen = self.unseen or name

    def _add_contents(self, value: Any, where: str, depth: int) -> None:
        if not depth or len(value) > _LARGE:
            return
        if not isinstance(value, (tuple, frozenset)):
            self._contents[id(value)] = (value, _contents_of(value), where)
        for item in list(dict.values(value) if isinstance(value, dict) else value):
            self._add(item, where, depth - 1)

    def _add_object(self, value: Any, where: str, depth: int) -> None:
        cls = type(value)
        if root_of(cls.__module__) in _STANDARD_LIBRARY:
            return
        self._add_class(cls, where)
        tables = [
            getattr(value, "__dict__", None),
            *(vars(base) for base in cls.__mro__ if base not in _PLAIN_CLASSES),
        ]
        if depth:
            for name, item in [entry for table in tables if table for entry in table.items()]:
                if not name.startswith("__") and (type(item) in _CONTAINERS or isinstance(item, types.FunctionType)):
                    self._add(item, f"{where}.{name}", depth - 1)

    def _look_into(self, function: types.FunctionType) -> None:
        names, namespace = names_in(function.__code__), function.__globals__
        self._through_foreign = not is_library_function(function)
        if self._through_foreign:
            self._host_names |= names & (_TO_HOST | _FROM_HOST)
            if self._host_names & _TO_HOST and self._host_names & _FROM_HOST:
                self._meet_compiled("NumPy", function.__qualname__)
        self._kept.append(namespace)
        module = str(namespace.get("__name__"))
        for name in names:
            if name in namespace and name not in _HOOK_FLAGS:
                value = namespace[name]
                self._add_place(namespace, name, f"{module}.{name}")
                if root_of(getattr(value, "__name__", None)) in _OTHER_COMPILERS:
                    self._meet_compiled(name, module)
                if isinstance(value, types.ModuleType) and root_of(value.__name__) in _MODEL_LIBRARIES:
                    self._look_into_module(value, names)
        self._add_cells(function)
        for default in itertools.chain(function.__defaults__ or (), (function.__kwdefaults__ or {}).values()):
            self._add(default, function.__qualname__)
        self._add_names(names)

    def _add_cells(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            try:
                self._add(cell.cell_contents, function.__qualname__)
            except ValueError:  # an empty cell
                continue

    def _look_into_module(self, module: types.ModuleType, names: Iterable[str]) -> None:
        """Modules inside a module (``torch.nn.functional.linear``) are looked into for the same names."""
        modules, looked = [module], {id(module)}
        while modules:
            table = vars(modules.pop())
            for name in names:
                value = table.get(name)
                if isinstance(value, types.ModuleType):
                    if id(value) not in looked and value.__name__.startswith(
                        ("torch.nn", "torch.functional", "diffusers", "transformers")
                    ):
                        looked.add(id(value))
                        modules.append(value)
                elif name in table:
                    self._add_place(table, name, f"{table.get('__name__')}.{name}")

    # comparing -------------------------------------------------------------------------------------------------------

    def _comparisons(self) -> list[tuple[Any, Callable[[Any], Any], Any]]:
        """For each table, how to pick everything that was found in it, and what that was."""
        names: dict[int, tuple[Any, list[str]]] = {}
        for (_, name), (owner, _, _) in self._places.items():
            table = vars(owner) if isinstance(owner, type) else owner
            names.setdefault(id(owner), (table, []))[1].append(name)
        found = []
        for table, listed in names.values():
            pick: Callable[[Any], Any] = itemgetter(*listed)
            found.append((table, pick, pick(table)))
        return found


#: methods that hand the values of a tensor out of PyTorch, and functions that take values in
_TO_HOST = frozenset({"numpy", "__array__", "__dlpack__", "to_dlpack"})
_FROM_HOST = frozenset({"from_numpy", "frombuffer", "from_dlpack", "as_tensor", "asarray", "tensor"})
#: modules whose Python functions ask for whoever looks at functions
_OVERRIDABLE = ("torch.nn.functional.", "torch.functional.")
_COMPILED_FUNCTIONS = frozenset(
    name for name, value in vars(torch.nn.functional).items() if isinstance(value, types.BuiltinFunctionType)
)
#: hooks around every module; those that matter are foreign code, and others come and go with their owner's counting
_HOOK_TABLES = tuple(f"module._global_forward_{name}" for name in ("hooks", "pre_hooks"))
#: tables that say something about these hooks, and may keep it when they are gone
_HOOK_FLAGS = frozenset({"_global_forward_hooks_with_kwargs", "_global_forward_hooks_always_called"})
#: where a function stands in for PyTorch's attention that somebody has put there
ATTENTION_PLACE = "torch.nn.functional.scaled_dot_product_attention"
#: what computes on tensors' memory past PyTorch's operators
_OTHER_COMPILERS = frozenset({"triton", "cupy", "numba", "jax", "tensorrt", "onnxruntime", "pycuda", "ctypes", "tvm"})
_recent: dict[Any, ReachableCode] = {}
_RECENT = 64
_LARGE = 4096
_ABSENT = object()
_BUILTINS = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)
#: neither code nor a holder of code
_DATA = (
    *(torch.Tensor, torch.Generator, torch.nn.Module, types.ModuleType, types.CodeType),
    *(types.GetSetDescriptorType, types.MemberDescriptorType),
)
_PLAIN_CLASSES = frozenset(
    {object, type, torch.Tensor, torch._C.TensorBase, torch.nn.Parameter, *_CONTAINERS, str, int}
)


def is_known(module_name: Any) -> bool:
    """Whether a module belongs to a library whose code decides its work by structure and arguments alone."""
    return root_of(module_name) in KNOWN_LIBRARIES


def is_forward_code(module_name: Any) -> bool:
    """Whether a module of a known library holds code that forwards run, and not what surrounds it."""
    name = f"{module_name}."
    return name.startswith(_FORWARD_CODE) and not name.startswith(_OTHER_CODE)


def root_of(module_name: Any) -> str:
    """The package that a module belongs to."""
    return str(module_name).partition(".")[0]


def is_library_function(function: types.FunctionType) -> bool:
    """Whether a function stands in a known library, by its globals and by the file of its code."""
    root = root_of(function.__globals__.get("__name__"))
    if root not in KNOWN_LIBRARIES:
        return root.startswith("namedtuple_")  # which the standard library writes
    file = function.__code__.co_filename
    return root in _STANDARD_LIBRARY or file.startswith("<") or file.startswith(_folders(root))


@functools.cache
def _folders(root: str) -> tuple[str, ...]:
    package = sys.modules.get(root)
    folders = list(getattr(package, "__path__", ())) or [getattr(package, "__file__", None) or root]
    return tuple({folder for path in map(str, folders) for folder in (path, str(Path(path).resolve()))})


def _is_known_builtin(value: Any) -> bool:
    module = getattr(value, "__module__", None)
    if module is None:
        owner = getattr(value, "__objclass__", None) or getattr(value, "__self__", None)
        module = getattr(owner, "__module__", None) or type(owner).__module__
    return is_known(module)


def is_fused_kernel(function: Any) -> bool:
    """Whether a function is the attention kernel of a library that is known for it."""
    inside = unwrapped(unpatched(function))
    name = getattr(inside, "__module__", None) or type(inside).__module__
    return root_of(name) in KERNEL_LIBRARIES


def _is_disguise(cls: type) -> bool:
    """Whether a class is this package's own subclass over a module's class."""
    return "_diffmeter_original" in cls.__dict__


_UNRUN = frozenset({"__repr__", "__str__", "__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__", "__dir__"})


@functools.lru_cache(maxsize=1 << 14)
def names_in(code: types.CodeType) -> frozenset[str]:
    """Every name that a function's code, or a function inside it, mentions."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def unwrapped(value: Any) -> Any:
    """The function or object under what is wrapped around it."""
    while True:
        value = uncompiled_function(value)
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            value = value.__func__
        elif isinstance(value, functools.partialmethod):
            value = functools.partial(value.func, *value.args, **value.keywords)
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif isinstance(value, functools._lru_cache_wrapper):
            value = value.__wrapped__
        else:
            return value


def _contents_of(holder: Any) -> Any:
    """What a container holds, past whatever its class makes of that when it is asked."""
    if isinstance(holder, dict):
        return list(dict.items(holder))
    return set(holder) if isinstance(holder, set) else list(holder)


def _same_contents(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:
        return False


def _put(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    elif value is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _fill(holder: Any, contents: Any) -> None:
    """Make a container hold what :func:`_contents_of` found in it."""
    holder.clear()
    if isinstance(holder, dict):
        for name, value in contents:
            holder[name] = value
    else:
        holder.update(contents) if isinstance(holder, set) else holder.extend(contents)


def _is_compiler(value: Any) -> bool:
    """Whether a function was put into its place by torch.compile, which does so when it is first loaded."""
    return str(getattr(value, "__module__", "")).startswith("torch._dynamo.")


def _equal_atoms(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, ATOMS) and bool(a == b)
