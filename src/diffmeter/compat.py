"""The private names of torch, diffusers, transformers and accelerate that diffmeter leans on, all of them.

A private name may go with any release, so each stands here once, behind a public name that says what it is used for.
When a new release breaks one, this is the file to mend. Elsewhere in the package ruff's SLF rule refuses them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn, overrides
from torch.autograd import forward_ad
from torch.nn.modules import module as module_globals
from torch.nn.modules.conv import _ConvNd
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes

#: What all convolution layers are.
ConvNd = _ConvNd

# --- torch: operators ---------------------------------------------------------------------------------------------

#: The compiled ``F.scaled_dot_product_attention``, whatever somebody has put in its place.
NATIVE_ATTENTION: Callable[..., torch.Tensor] = torch._C._nn.scaled_dot_product_attention

#: The compiled recurrent functions behind ``nn.LSTM`` and its like, by name ("lstm", "gru_cell").
RECURRENT_FUNCTIONS: Any = torch._VF


def packet_of(operator: Any) -> Any:
    """The packet (``aten.add``) of an overload (``aten.add.Tensor``); anything else as it is."""
    return getattr(operator, "_overloadpacket", operator)


def overload_name(operator: Any) -> str:
    """The name of an overload within its packet ("Tensor"), or "" for what is no overload."""
    return str(getattr(operator, "_overloadname", ""))


def qualified_name(packet: Any) -> str | None:
    """The name of an operator packet with its namespace ("aten.add"); None for what is no operator."""
    name = getattr(packet, "_qualified_op_name", None)
    return None if name is None else str(name).replace("::", ".")


def all_operators() -> list[str]:
    """Every overload that the dispatcher knows ("aten::add.Tensor")."""
    return sorted(torch._C._dispatch_get_all_op_names())


def schema_of(operator: Any) -> Any | None:
    """The schema of an overload: its arguments, defaults and what it writes into; None for what has none."""
    return getattr(operator, "_schema", None)


def is_composite(operator: Any) -> bool:
    """Whether PyTorch carries an overload out by calling other operators, which a dispatch mode then sees."""
    if getattr(operator, "namespace", "prim") == "prim":  # asked of a tensor's device, not dispatched
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd"))


def takes_tensors(formula: Callable[..., int]) -> Callable[..., int]:
    """Mark a FLOPs formula so that ``FlopCounterMode`` hands it tensors instead of shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


# --- torch: modes, tensors, autograd, compiler -----------------------------------------------------------------------


def without_dispatch_modes() -> AbstractContextManager[Any]:
    """Run the block outside every dispatch mode."""
    return _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()


@contextmanager
def without_function_modes() -> Iterator[None]:
    """Run the block outside every function mode, the one of a default device included."""
    modes = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)


def leave_dispatch_mode(mode: TorchDispatchMode) -> None:
    """Leave a mode, also where tasks or generators have put others over it meanwhile, or it is gone already."""
    at = torch._C._get_dispatch_stack_at
    if not any(at(index) is mode for index in range(torch._C._len_torch_dispatch_stack())):
        return
    above = []
    while top_dispatch_mode() is not mode:
        above.append(_python_dispatch._pop_mode())
    mode.__exit__(None, None, None)
    for other in reversed(above):
        _python_dispatch._push_mode(other)


def top_dispatch_mode() -> Any | None:
    """The dispatch mode that sees the next operator first; None where there is none."""
    return _python_dispatch._get_current_dispatch_mode() if torch._C._len_torch_dispatch_stack() else None


@contextmanager
def paused_dispatch_mode(mode: TorchDispatchMode) -> Iterator[None]:
    """Take ``mode`` off the stack for the block, if it lies on top."""
    if top_dispatch_mode() is mode:
        with _python_dispatch._pop_mode_temporarily():
            yield
    else:
        yield


def _set_modes_aside(above: Any = None) -> list[tuple[Callable[[Any], None], Any]]:
    """Take modes off this thread's two stacks, down to the mode ``above`` (which stays); how to push each back."""
    aside: list[tuple[Callable[[Any], None], Any]] = []
    while torch._C._len_torch_function_stack():
        mode = overrides._pop_mode()
        aside.append((overrides._push_mode, mode))
        if mode is above:
            overrides._push_mode(aside.pop()[1])
            break
    while torch._C._len_torch_dispatch_stack():
        mode = _python_dispatch._get_current_dispatch_mode()
        if mode is above or getattr(mode, "_mode_key", None) is not None:  # PyTorch's own tracing lies beneath all
            break
        aside.append((_python_dispatch._push_mode, _python_dispatch._pop_mode()))
    return aside


@contextmanager
def unseen() -> Iterator[None]:
    """Around looking at tensors: no mode of anybody sees it, and what it makes are ordinary tensors."""
    with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.no_grad():
        aside = _set_modes_aside() if torch._C._len_torch_dispatch_stack() else []
        try:
            yield
        finally:
            for push, mode in reversed(aside):
                push(mode)


@contextmanager
def without_modes() -> Iterator[None]:
    """Run the block outside every mode: dispatch, function, inference and gradient mode."""
    aside = _set_modes_aside()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for push, mode in reversed(aside):
            push(mode)


def active_modes() -> list[Any]:
    """Every dispatch and function mode that this thread has entered, the outermost of each first."""
    modes: list[Any] = []
    if torch._C._len_torch_dispatch_stack():
        modes += _python_dispatch._get_current_dispatch_mode_stack()
    if torch._C._len_torch_function_stack():
        modes += overrides._get_current_function_mode_stack()
    return modes


@contextmanager
def beneath_other_modes(mode: AbstractContextManager[Any]) -> Iterator[None]:
    """Enter a mode so that those entered before are asked first: it sees what is really carried out."""
    aside = _set_modes_aside()
    try:
        mode.__enter__()
    finally:
        for push, other in reversed(aside):
            push(other)
    try:
        yield
    finally:
        aside = _set_modes_aside(above=mode)
        try:
            mode.__exit__(None, None, None)
        finally:
            for push, other in reversed(aside):
                push(other)


def active_transform() -> str | None:
    """The function transform (vmap, grad, jvp, forward-mode derivatives) that this thread is in; None where none."""
    interpreter = torch._C._functorch.peek_interpreter_stack()
    if interpreter is not None:
        return str(interpreter.key()).rpartition(".")[2].lower()
    return "forward-mode derivatives" if forward_ad._current_level >= 0 else None


@contextmanager
def outside_transforms() -> Iterator[None]:
    """Run the block outside every function transform."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        yield
        return
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack():
        yield


def take_off(mode: TorchDispatchMode) -> None:
    """Leave a mode, also where tasks or generators have put others over it meanwhile, or it is gone already."""
    count, at = torch._C._len_torch_dispatch_stack, torch._C._get_dispatch_stack_at
    if not any(at(index) is mode for index in range(count())):
        return
    above = []
    while top_dispatch_mode() is not mode:
        above.append(_python_dispatch._pop_mode())
    mode.__exit__(None, None, None)
    for other in reversed(above):
        _python_dispatch._push_mode(other)


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)


def base_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor that ``tensor`` is a view of, or None."""
    return tensor._base


def tensor_identity(tensor: torch.Tensor) -> int:
    """A number that tells tensors apart while they live, also where Python has made a second object for one."""
    return int(tensor._cdata)


def storage_identity(tensor: torch.Tensor) -> int:
    """A number that tells the memory of tensors apart while it lives: a view has that of what it looks at."""
    return int(tensor.untyped_storage()._cdata)


#: Set what TorchDynamo does with Python frames (None: nothing) and return what it did before. The compiled function
#: itself, since a Python function around it would be a frame that TorchDynamo looks at.
set_frame_evaluation: Callable[[Any], Any] = torch._C._dynamo.eval_frame.set_eval_frame


def uncompiled_here() -> AbstractContextManager[Any]:
    """Run the block without ``torch.compile``: what is compiled does its work as the Python code that it was."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled yet
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def never_compile(function: Callable[..., Any]) -> None:
    """Keep ``torch.compile`` away from a function, without importing the compiler."""
    frames: Any = torch._C._dynamo.eval_frame
    code = function.__code__
    if hasattr(frames, "set_code_exec_strategy"):
        skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.DEFAULT)
        frames.set_code_exec_strategy(code, skip)
    elif hasattr(frames, "skip_code"):  # PyTorch 2.6
        frames.skip_code(code)


def caller_frame(depth: int) -> Any:
    """The Python frame ``depth`` calls above the caller's."""
    return sys._getframe(depth + 1)


def on_every_forward(
    before: Callable[..., Any], after: Callable[..., Any], always: bool = False
) -> Callable[[], None]:
    """Call ``before(module, args)`` and ``after(module, args, kwargs, output)`` around every module's forward.

    What is returned ends it, and takes back a note that PyTorch leaves behind when such a hook is removed.
    """
    first = module_globals.register_module_forward_pre_hook(before)
    second = module_globals.register_module_forward_hook(after, with_kwargs=True, always_call=always)

    def end() -> None:
        first.remove()
        second.remove()
        module_globals._global_forward_hooks_with_kwargs.pop(second.id, None)

    return end


def global_module_hooks() -> tuple[dict[int, Any], ...]:
    """The tables of hooks that are called around the forward of every module, before and after it."""
    return module_globals._global_forward_pre_hooks, module_globals._global_forward_hooks


# --- torch: modules --------------------------------------------------------------------------------------------------

#: What ``nn.Module.__call__`` and ``forward`` run through: a frame with one of these names is a module at work.
MODULE_ENTRIES = ("forward", "_call_impl", "_slow_forward")


#: Hooks that every module calls before and after its forward, in the order in which they were put there.
GLOBAL_PRE_HOOKS: Any = module_globals._global_forward_pre_hooks
GLOBAL_HOOKS: Any = module_globals._global_forward_hooks
_HOOK_KINDS: Any = (
    module_globals._global_forward_hooks_with_kwargs,
    module_globals._global_forward_hooks_always_called,
)


def set_global_hook(key: str, hook: Callable[..., Any] | None) -> None:
    """Put a hook ``(module, args, kwargs, output)`` after every forward, failed ones included, or take it off.

    It has no numbered handle, so that taking it off and on leaves nothing behind and costs next to nothing.
    """
    for table in _HOOK_KINDS:
        if hook is None:
            table.pop(key, None)
        else:
            table[key] = True
    if hook is None:
        GLOBAL_HOOKS.pop(key, None)
    else:
        GLOBAL_HOOKS[key] = hook


def keywords_of_call(module: nn.Module, depth: int) -> dict[str, Any] | None:
    """The keyword arguments that ``module`` was called with, asked from a hook ``depth`` calls above; None if unknown.

    PyTorch hands them to hooks of one module, but not to hooks of all modules.
    """
    names = sys._getframe(depth + 1).f_locals
    keywords = names.get("kwargs")
    return dict(keywords) if names.get("self") is module and isinstance(keywords, dict) else None


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The table of a module's own parameters; writing to it replaces them without the module's checks."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """The table of a module's own buffers; writing to it replaces them without the module's checks."""
    return module._buffers


def uncompiled(module: nn.Module) -> nn.Module:
    """The module inside what ``torch.compile(module)`` returned; any other module as it is."""
    inside = getattr(module, "_orig_mod", None)
    return inside if isinstance(inside, nn.Module) else module


def uncompiled_function(function: Any) -> Any:
    """The function inside what ``torch.compile(function)`` returned; anything else as it is."""
    return getattr(function, "_torchdynamo_orig_callable", function)


# --- diffusers, transformers, accelerate ----------------------------------------------------------------------------


def execution_device(pipe: Any) -> torch.device:
    """The device that a pipeline computes on, offloading considered. May raise what the pipeline raises."""
    return torch.device(pipe._execution_device)


def active_attention_backend() -> str:
    """The name of the attention backend that diffusers has set; "native" where it has no choice of them."""
    registry = attention_registry()
    if registry is None:
        return "native"
    name = registry.get_active_backend()[0]
    return str(getattr(name, "value", name))


def attention_registry() -> Any | None:
    """The class in which diffusers keeps its attention backends, if diffusers has been loaded that far."""
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    return getattr(dispatch, "_AttentionBackendRegistry", None)


def native_attention_backend() -> tuple[Any, Any] | None:
    """Diffusers' name for PyTorch's own attention and the function behind it; None where there is no such choice."""
    registry = attention_registry()
    if registry is None:
        return None
    native = sys.modules["diffusers.models.attention_dispatch"].AttentionBackendName.NATIVE
    return native, registry._backends[native]


def use_native_backend(processor: Any) -> None:
    """Let an attention processor that has another backend use PyTorch's own."""
    if getattr(processor, "_attention_backend", None) is not None:
        from diffusers.models.attention_dispatch import AttentionBackendName

        processor._attention_backend = AttentionBackendName.NATIVE


def attention_implementation(config: Any) -> str | None:
    """The attention that a transformers model was configured with ("sdpa", "flash_attention_2"), if it says so."""
    return getattr(config, "_attn_implementation", None)


def set_attention_implementation(config: Any, name: str) -> None:
    """Configure the attention of a transformers model."""
    config._attn_implementation = name


def step_cache_of(module: nn.Module) -> Any | None:
    """The configuration of the step cache that was enabled on a diffusers model, or None."""
    return getattr(module, "_cache_config", None)


def progress_bar_settings(pipe: Any) -> dict[str, Any] | None:
    """What ``set_progress_bar_config`` was given, or None if it never was."""
    return getattr(pipe, "_progress_bar_config", None)


def restore_progress_bar(pipe: Any, before: dict[str, Any] | None) -> None:
    """Put back what :func:`progress_bar_settings` returned."""
    if before is None:
        vars(pipe).pop("_progress_bar_config", None)
    else:
        pipe._progress_bar_config = before


#: Instance attributes in which accelerate and diffusers keep the hooks of a module.
ACCELERATE_HOOK = "_hf_hook"
DIFFUSERS_HOOKS = "_diffusers_hook"
FORWARD_BEFORE_HOOKS = "_old_forward"  # accelerate keeps the module's own forward here


def packs_latents(pipe: Any) -> bool:
    """Whether a pipeline packs 2 x 2 latents into one token before its transformer."""
    return hasattr(pipe, "_pack_latents")


def name_or_path(config: Any) -> str | None:
    """Where a pipeline or model was loaded from, as its configuration notes it."""
    name = config.get("_name_or_path") if hasattr(config, "get") else getattr(config, "_name_or_path", None)
    return name or None


# --- diffusers: files of weights -------------------------------------------------------------------------------------


def single_file_source(checkpoint: dict[str, torch.Tensor]) -> str:
    """The repository whose configuration diffusers takes for a file with these tensors.

    What diffusers does not recognize it takes for Stable Diffusion 1.5: compare the tensors before you believe it.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    return str(fetch_diffusers_config(checkpoint)["pretrained_model_name_or_path"])


def single_file_sources() -> list[str]:
    """The repositories whose configurations diffusers knows for single files, base models before their relatives."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS

    return [str(entry["pretrained_model_name_or_path"]) for entry in DIFFUSERS_DEFAULT_PIPELINE_PATHS.values()]


def single_file_optional_components() -> list[str]:
    """The components that a pipeline made from a single file does without, unless they are given."""
    from diffusers.loaders.single_file import SINGLE_FILE_OPTIONAL_COMPONENTS

    return list(SINGLE_FILE_OPTIONAL_COMPONENTS)


def single_file_conversion(cls: type[nn.Module]) -> Callable[..., dict[str, torch.Tensor]] | None:
    """The function that gives the tensors of a file diffusers' names for this class; None for classes without one.

    It takes ``checkpoint`` (which it empties) and ``config``.
    """
    from diffusers.loaders.single_file_model import (
        SINGLE_FILE_LOADABLE_CLASSES,
        _get_single_file_loadable_mapping_class,
    )

    name = _get_single_file_loadable_mapping_class(cls)
    known: Any = SINGLE_FILE_LOADABLE_CLASSES
    return None if name is None else known[name]["checkpoint_mapping_fn"]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Advice of diffusers and transformers about themselves is not shown in the block; their errors are."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    # Asking for the level first makes each library set its own up, which would undo what is set here.
    before = [(library, library.get_verbosity()) for library in (of_diffusers, of_transformers)]
    try:
        for library, _ in before:
            library.set_verbosity_error()
        yield
    finally:
        for library, level in before:
            library.set_verbosity(level)
