"""Observing: the number is that of the run, whatever decides the work, or the profile says that it is not."""

from __future__ import annotations

import collections
import itertools
import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from diffmeter import observe
from diffmeter.errors import DiffmeterError, InputError
from tests.custom import Custom, CustomPipeline, component
from tests.reference import count_real_call, count_real_run, pipeline_modules
from tests.zoo import ZOO

ones = torch.ones
BOTH = 128  # MACs of one default call: two rows through 8 -> 8


def observed(pipe, call=None):
    with observe(pipe) as run:
        (call or pipe)()
    return run.profile


# Work that depends on more than structure and arguments: each case is (pipeline, MACs)

GLOBALS = {"calls": 0}


def every_second(state, advance):
    def forward(self, x):
        return self.a(x) if advance(self) % 2 else x

    return CustomPipeline(component(forward, **state)), 2 * BOTH  # four calls, two of them work


class Slotted:
    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


def bump(holder, name="n"):
    setattr(holder, name, getattr(holder, name) + 1)
    return getattr(holder, name)


def bump_item(table, key="n"):
    table[key] += 1
    return table[key]


def grow(items):
    items.append(1)
    return len(items)


def bump_buffer(self):
    self.n.add_(1)
    return int(self.n)


def cached(self, x):
    if "y" not in self.table:
        self.table["y"] = self.a(x)
    return self.table["y"]


def list_changed_between(pipe):
    for skip in ([], ["a"], []):
        pipe.net.skip[:] = skip
        pipe.net(ones(2, 8))


def forward_patched_between(pipe):
    cls = type(pipe.net).__mro__[1]
    before = cls.forward
    pipe.net(ones(2, 8))
    cls.forward = lambda self, x: x
    try:
        pipe.net(ones(2, 8))
    finally:
        cls.forward = before


def closure():
    net = component(lambda self, x: self.f(x))
    layer = net.a
    net.f = lambda x: layer(layer(x))
    return CustomPipeline(net), 4 * 2 * BOTH


def state_reset(pipe):
    for n in (2, 3, 4):
        pipe.net.kept = None
        pipe.net(ones(n, 8))
        pipe.net(ones(n, 8))


def keep(self, x):
    if self.kept is None:
        self.kept = self.a(x)
    return x + self.kept.sum()


def with_gradients(self, x):
    return self.a(self.a(x)) if torch.is_grad_enabled() else self.a(x)


def mixture_of_experts():
    def forward(self, x):
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (x[:, 0].long() == index).nonzero()[:, 0]
            if len(rows):
                out[rows] = expert(x[rows])
        return out

    net = component(forward, experts=nn.ModuleList(nn.Linear(8, 8) for _ in range(3)))
    return CustomPipeline(net, lambda pipe: pipe.net(torch.arange(5.0)[:, None].expand(5, 8))), 3 * 64


STATES = {
    "an attribute": lambda: every_second({"n": 0}, bump),
    "a dictionary": lambda: every_second({"table": {"n": 0}}, lambda self: bump_item(self.table)),
    "a list": lambda: every_second({"items": []}, lambda self: grow(self.items)),
    "a deque": lambda: every_second({"items": collections.deque()}, lambda self: grow(self.items)),
    "an object": lambda: every_second({"o": SimpleNamespace(p=SimpleNamespace(n=0))}, lambda self: bump(self.o.p)),
    "slots": lambda: every_second({"o": Slotted()}, lambda self: bump(self.o)),
    "an iterator": lambda: every_second({"it": itertools.count(1)}, lambda self: next(self.it)),
    "the class": lambda: every_second({}, lambda self, table={"n": 0}: bump_item(table)),
    "a global": lambda: every_second({}, lambda self: bump_item(GLOBALS, "calls")),
    "around setattr": lambda: every_second({"n": 0}, lambda self: bump_item(self.__dict__)),
    "a buffer": lambda: every_second({"n": nn.Buffer(torch.tensor(0))}, bump_buffer),
    "a cache": lambda: (CustomPipeline(component(cached, table={})), BOTH),
    "a list changed between calls": lambda: (
        CustomPipeline(component(lambda self, x: x if "a" in self.skip else self.a(x), skip=[]), list_changed_between),
        2 * BOTH,
    ),
    "a class patched between calls": lambda: (
        CustomPipeline(component(lambda self, x: self.a(x)), forward_patched_between),
        BOTH,
    ),
    "a closure over a layer": closure,
    "layers in a plain list": lambda: (
        CustomPipeline(component(lambda self, x: self.hidden[1](self.hidden[0](x)), hidden=[nn.Linear(8, 8)] * 2)),
        4 * 2 * BOTH,
    ),
    "state that is reset": lambda: (CustomPipeline(component(keep, kept=None), state_reset), (2 + 3 + 4) * 64),
    "the gradient mode": lambda: (CustomPipeline(component(with_gradients)), 4 * 2 * BOTH),
    "autocast": lambda: (
        CustomPipeline(
            component(lambda self, x: self.a(self.a(x)) if torch.is_autocast_enabled("cpu") else self.a(x)),
            lambda pipe: torch.autocast("cpu", torch.bfloat16)(pipe.net)(ones(2, 8)),
        ),
        2 * BOTH,
    ),
    "a replaced method": lambda: (
        CustomPipeline(component(lambda self, x: self.extra(x), extra=lambda x: x)),
        0,
    ),
    "routing": mixture_of_experts,
    "how many are above a threshold": lambda: (
        CustomPipeline(
            component(lambda self, x: self.a(x[: max(int((x > 0.5).sum()) // 8, 4)])),
            lambda pipe: pipe.net(torch.linspace(0, 1, 320).view(40, 8)),
        ),
        20 * 64,
    ),
}


@pytest.mark.parametrize("what", STATES)
def test_what_decides_the_work_besides_the_arguments(what) -> None:
    pipe, expected = STATES[what]()
    profile = observed(pipe)
    assert profile.complete, profile.uncounted
    assert profile.matmul_macs == expected


@pytest.mark.parametrize("seed", [random.seed, np.random.seed, torch.manual_seed])
def test_random_work(seed) -> None:
    draw = {random.seed: random.random, np.random.seed: np.random.rand}.get(seed, lambda: torch.rand(()))
    pipe = CustomPipeline(component(lambda self, x: self.a(x) if draw() < 0.5 else x))
    seed(3)
    truth = count_real_run(pipe).total
    seed(3)
    profile = observed(pipe)
    assert profile.complete and profile.matmul_macs == truth


ARGUMENTS = {
    "a NumPy number": [np.int64(3), np.int64(5)],
    "a slice": [slice(0, 3), slice(0, 5)],
    "a set": [{1, 2}, {1, 4}],
    "a function": [lambda: 3, lambda: 5],
    "a mask": [torch.tensor([1, 1, 1, 0, 0]), torch.tensor([1, 1, 1, 1, 1])],
}


def take(self, x, n):
    if isinstance(n, slice):
        return self.a(x[n])
    if isinstance(n, (set, torch.Tensor)):
        n = int(sum(n))
    return self.a(x[: n() if callable(n) else int(n)])


@pytest.mark.parametrize("what", ARGUMENTS)
def test_arguments_that_decide_the_work(what) -> None:
    pipe = CustomPipeline(component(take), lambda pipe: [pipe.net(ones(9, 8), n) for n in ARGUMENTS[what]])
    profile = observed(pipe)
    assert profile.complete and profile.matmul_macs == (3 + 5) * 64


# Where products run


def test_modules_that_are_no_components_are_counted_by_name() -> None:
    def script(pipe):
        pipe.net(ones(2, 8))
        pipe.extras[0](ones(3, 8))
        nn.Conv1d(3, 5, 1)(ones(1, 3, 7))

    pipe = CustomPipeline(component(lambda self, x: self.a(x)), script)
    pipe.extras = [nn.Sequential(nn.Linear(8, 8))]
    profile = observed(pipe)
    found = {name: c.matmul_macs for name, c in profile.components.items()}
    assert found == {"net": BOTH, "Sequential": 3 * 64, "Conv1d": 5 * 7 * 3}
    assert profile.components["Conv1d"].params == 20
    assert profile.complete and profile.matmul_macs == count_real_run(pipe).total


def test_a_component_entered_by_a_submodule() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    profile = observed(CustomPipeline(net, lambda pipe: pipe.net[1](pipe.net(ones(2, 8)))))
    assert profile.matmul_macs == 3 * BOTH and profile.complete
    assert [call.method for call in profile.components["net"].calls] == ["forward", "1"]


def test_the_pipelines_own_arithmetic_is_none_of_a_component() -> None:
    profile = observed(CustomPipeline(nn.Sequential(nn.Linear(8, 8)), lambda pipe: pipe.net(ones(2, 8)) @ ones(8, 8)))
    assert profile.matmul_macs == BOTH


def test_a_backward_pass_of_the_pipeline_is_reported() -> None:
    def steered(pipe):
        x = torch.ones(2, 8, requires_grad=True)
        pipe.net(x).sum().backward()
        return pipe.net(x - x.grad)

    profile = observed(CustomPipeline(nn.Sequential(nn.Linear(8, 8)), steered))
    # Both forwards, 2 x 64 each; the products of the backward pass belong to no call.
    assert profile.matmul_macs == 256 and not profile.complete
    assert [entry["reason"] for entry in profile.uncounted] == ["products of a backward pass are not counted"]


def test_nested_components_are_counted_by_the_outermost() -> None:
    inner = nn.Sequential(nn.Linear(8, 8))
    net = component(lambda self, x: self.a(self.inner(x)), inner=inner)
    pipe = CustomPipeline(net, lambda p: (p.net(ones(2, 8)), p.components["inner"](ones(2, 8))), inner=inner)
    found = {name: c.matmul_macs for name, c in observed(pipe).components.items()}
    assert found == {"net": 2 * BOTH, "inner": BOTH}


def test_work_in_a_thread_of_the_component_is_reported() -> None:
    def forward(self, x):
        out = []
        thread = threading.Thread(target=lambda: out.append(self.a(x)))
        thread.start()
        thread.join()
        return out[0]

    profile = observed(CustomPipeline(component(forward)))
    assert not profile.complete
    assert "another thread" in profile.uncounted[0]["reason"]
    assert profile.components["net"].calls[0].total_macs is None  # unknown, not 0


def test_an_operator_without_a_formula_is_listed() -> None:
    @torch.library.custom_op("diffmeter_tests::secret", mutates_args=())
    def secret(x: torch.Tensor) -> torch.Tensor:
        return x @ x.T

    profile = observed(CustomPipeline(component(lambda self, x: secret(self.a(x)))))
    assert not profile.complete
    assert profile.uncounted == ({"component": "net", "op": "diffmeter_tests.secret", "calls": 4},)


def test_a_library_operator_without_a_formula_is_listed() -> None:
    pipe = CustomPipeline(component(lambda self, x: torch.linalg.solve(torch.eye(2), self.a(x))))
    profile = observed(pipe)
    assert profile.matmul_macs == 4 * BOTH and not profile.complete
    assert "linalg_solve" in profile.uncounted[0]["op"]


@pytest.mark.parametrize("masked", [True, False])
def test_a_transformer_encoder_with_padding(masked) -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    padding = torch.tensor([[False] * 5 + [True], [False] * 3 + [True] * 3])

    @torch.no_grad()
    def script(pipe):
        pipe.net(ones(2, 6, 8), src_key_padding_mask=padding if masked else None)

    def layer(n: int) -> int:  # four projections, two products, feed-forward 8 -> 16 -> 8
        return 4 * n * 64 + 2 * n * n * 8 + 2 * n * 128

    profile = observed(CustomPipeline(encoder, script))
    assert profile.complete, (profile.uncounted, profile.differences)
    assert profile.matmul_macs == (2 * (layer(5) + layer(3)) if masked else 4 * layer(6))


def test_a_traced_component() -> None:
    traced = torch.jit.trace(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), ones(2, 8))
    profile = observed(CustomPipeline(traced))
    assert profile.complete and profile.matmul_macs == 4 * 2 * BOTH
    assert "forward" not in vars(traced)


# Library features


def add_lora(pipe, name="default"):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    pipe.unet.add_adapter(config, adapter_name=name)


def fused_lora(pipe):
    add_lora(pipe)
    pipe.unet.fuse_lora()


def multiply(module, args, output):
    return output + torch.einsum("bchw,cd->bdhw", output, ones(output.shape[1], output.shape[1])) * 0


def user_hook(pipe):
    pipe.unet.conv_in.register_forward_hook(multiply)


def skip_middle(pipe):
    pipe.unet.mid_block.forward = lambda sample, *args, **kwargs: sample


def deep_cache(pipe):
    """Every second call returns what the one before it did."""
    forward, state = pipe.unet.forward, {"calls": 0}

    def cached_forward(*args, **kwargs):
        state["calls"] += 1
        if state["calls"] % 2:
            state["output"] = forward(*args, **kwargs)
        return state["output"]

    pipe.unet.forward = cached_forward


def merge_tokens(pipe):
    from diffusers.models.attention import BasicTransformerBlock

    class Merged(BasicTransformerBlock):
        def forward(self, hidden_states, *args, **kwargs):
            half = super().forward(hidden_states[:, ::2], *args, **kwargs)
            return half.repeat_interleave(2, 1)[:, : hidden_states.shape[1]]

    for module in pipe.unet.modules():
        if type(module) is BasicTransformerBlock:
            module.__class__ = Merged


class PlainProcessor:
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        return attn.to_out[0]((q @ k.transpose(1, 2)).softmax(-1) @ v)


def tile(pipe):
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 16, 8


def align_devices(pipe):
    hooks = pytest.importorskip("accelerate.hooks")
    for component_ in (pipe.unet, pipe.vae, pipe.text_encoder):
        hooks.add_hook_to_module(component_, hooks.AlignDevicesHook(execution_device="cpu", io_same_device=True))


def offload_models(pipe):
    accelerate = pytest.importorskip("accelerate")
    hook = None
    for component_ in (pipe.text_encoder, pipe.unet, pipe.vae):
        _, hook = accelerate.cpu_offload_with_hook(component_, "cpu", hook)


def offload_layers(pipe):
    accelerate = pytest.importorskip("accelerate")
    for component_ in (pipe.text_encoder, pipe.unet, pipe.vae):
        accelerate.cpu_offload(component_, "cpu", offload_buffers=True)


def offload_groups(pipe):
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")


def cast_layers(pipe):
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


CHANGES = {
    "adapter": add_lora,
    "fused adapter": fused_lora,
    "hook": user_hook,
    "replaced forward": skip_middle,
    "step cache of one's own": deep_cache,
    "other class": merge_tokens,
    "processor": lambda pipe: pipe.unet.set_attn_processor(PlainProcessor()),
    "fused projections": lambda pipe: pipe.fuse_qkv_projections(),
    "free lunch": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
    "attention slicing": lambda pipe: pipe.enable_attention_slicing(1),
    "tiles": tile,
    "device hooks": align_devices,
    "model offload": offload_models,
    "layer offload": offload_layers,
    "group offload": offload_groups,
    "layer casting": cast_layers,
    "training mode": lambda pipe: pipe.unet.train(),
    "another component": lambda pipe: pipe.register_modules(unet=ZOO["StableDiffusionPipeline"].build().unet),
}


def stable_diffusion():
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    return pipe, case.arguments(pipe)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_generations_of_one_block(change) -> None:
    pipe, arguments = stable_diffusion()

    def script(pipe=pipe):
        pipe(**arguments)
        CHANGES[change](pipe)
        pipe(**arguments)

    profile = observed(pipe, script)
    pipe, arguments = stable_diffusion()
    modules = pipeline_modules(pipe)
    truth = count_real_call(lambda: script(pipe), modules)
    assert profile.complete, (profile.uncounted, profile.differences)
    assert profile.matmul_macs == truth.total
    assert profile.generations == 2


def test_the_scale_of_an_image_prompt_changes_between_generations_and_steps() -> None:
    """A scale of 0 leaves the products of the image tokens out."""
    case = ZOO["StableDiffusionPipeline[IP-Adapter]"]

    def switch_off(pipe, step, timestep, values):
        pipe.set_ip_adapter_scale(0.0)
        return values

    def script(pipe, arguments):
        pipe(**arguments)
        pipe.set_ip_adapter_scale(0.0)
        pipe(**arguments)
        pipe.set_ip_adapter_scale(1.0)
        pipe(**arguments, callback_on_step_end=switch_off)

    pipe = case.build()
    arguments = case.arguments(pipe)
    profile = observed(pipe, lambda: script(pipe, arguments))
    pipe = case.build()
    truth = count_real_call(lambda: script(pipe, case.arguments(pipe)), pipeline_modules(pipe))
    assert profile.complete and profile.matmul_macs == truth.total
    assert len({call.matmul_macs for call in profile.components["unet"].calls}) == 2


@pytest.mark.parametrize("before", [1, 3, 9])
@pytest.mark.parametrize("after", [1, 3, 9])
def test_a_child_replaced_past_its_module_during_a_generation(before, after) -> None:
    inner, other = nn.Sequential(nn.Linear(8, 8)), nn.Identity()

    def script(pipe):
        for _ in range(before):
            pipe.net(torch.ones(2, 8))
        inner._modules["0"] = other
        for _ in range(after):
            pipe.net(torch.ones(2, 8))

    profile = observed(CustomPipeline(nn.Sequential(nn.Linear(8, 8), inner), script))
    if profile.complete:  # seen before the next call: then 2 x 2 x 64 each, and 2 x 64 each after it
        assert profile.matmul_macs == before * 256 + after * 128
    else:
        assert {entry["reason"] for entry in profile.uncounted} == {
            "a part of net was replaced meanwhile, past its module's methods"
        }
        kinds = {call.matmul_macs for call in profile.components["net"].calls}
        assert kinds <= {None, 256, 128}
        late = sum(call.count for call in profile.components["net"].calls if call.matmul_macs == 256)
        assert late <= before


def test_a_child_replaced_past_its_module_between_generations() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)))

    pipe, other = CustomPipeline(net), nn.Identity()

    def call():
        pipe()
        net[1]._modules["0"] = other
        pipe()

    profile = observed(pipe, call)
    # four calls of 2 x 2 x 64, then four of 2 x 64
    assert profile.complete and profile.matmul_macs == 4 * 256 + 4 * 128


@pytest.mark.parametrize("when", ["in the generation", "after it", "between two"])
def test_a_weight_of_another_shape_put_into_a_layer(when) -> None:
    net, short = nn.Sequential(nn.Linear(8, 8)), torch.ones(4, 8)

    def put():
        net[0].weight.data, net[0].bias.data = short, short[:, 0]

    def script(pipe):
        pipe.net(torch.ones(2, 8))
        if when == "in the generation":
            put()
            pipe.net(torch.ones(2, 8))

    pipe = CustomPipeline(net, script)

    def call():
        pipe()
        if when != "in the generation":
            put()
        if when == "between two":
            pipe()

    profile = observed(pipe, call)
    # What the weight was when it was used is gone: no number is made up. The second generation found it as it is.
    assert not profile.complete and "past its module's methods" in profile.uncounted[0]["reason"]
    assert profile.matmul_macs == (64 if when == "between two" else 0)


def my_attention(query, key, value, *args, **kwargs):
    """Attention by a kernel of one's own, whose work PyTorch does not see."""
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def test_attention_replaced_by_ones_own_kernel_is_counted_natively(monkeypatch) -> None:
    pipe, arguments = stable_diffusion()
    plain = observed(pipe, lambda: pipe(**arguments))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", my_attention)
    profile = observed(pipe, lambda: pipe(**arguments))
    assert torch.nn.functional.scaled_dot_product_attention is my_attention
    assert profile.complete and profile.matmul_macs == plain.matmul_macs


def test_attention_replaced_in_a_component_that_is_counted_in_the_run_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", my_attention)

    def attends(self, x):
        return torch.nn.functional.scaled_dot_product_attention(*[self.a(x)[None]] * 3)

    profile = observed(CustomPipeline(component(attends)))
    assert not profile.complete and "was replaced" in profile.uncounted[0]["reason"]


def test_another_backend_of_diffusers_is_counted_natively(monkeypatch) -> None:
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")
    registry, name = dispatch._AttentionBackendRegistry, dispatch.AttentionBackendName.SAGE
    case = ZOO["FluxPipeline"]
    pipe = case.build()
    arguments = case.arguments(pipe)
    plain = observed(pipe, lambda: pipe(**arguments))
    kernel = registry._backends[name]
    # The kernel is not installed: what stands for it has its arguments, and works without PyTorch's operators.
    monkeypatch.setitem(registry._backends, name, lambda query, key, value: my_attention(query, key, value))
    monkeypatch.setitem(registry._supported_arg_names, name, {"query", "key", "value"})
    assert kernel is not None
    registry.set_active_backend(name)
    try:
        profile = observed(pipe, lambda: pipe(**arguments))
        assert registry.get_active_backend()[0] is name
    finally:
        registry.set_active_backend(dispatch.AttentionBackendName.NATIVE)
    assert profile.complete and profile.matmul_macs == plain.matmul_macs


def test_adapters_come_and_go() -> None:
    def script(pipe, arguments):
        add_lora(pipe, "x")
        pipe(**arguments)
        add_lora(pipe, "y")
        pipe.unet.set_adapters(["x", "y"])
        pipe(**arguments)
        pipe.unet.disable_adapters()
        pipe(**arguments)
        pipe.unet.enable_adapters()
        pipe.unet.fuse_lora()
        pipe(**arguments)
        pipe.unet.unfuse_lora()
        pipe.unet.delete_adapters("x")
        pipe(**arguments)

    pipe, arguments = stable_diffusion()
    profile = observed(pipe, lambda: script(pipe, arguments))
    pipe, arguments = stable_diffusion()
    truth = count_real_call(lambda: script(pipe, arguments), pipeline_modules(pipe))
    assert profile.complete and profile.matmul_macs == truth.total


def test_hooks_removed_inside_the_block_stay_removed() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    pipe, arguments = stable_diffusion()
    offload_models(pipe)
    with observe(pipe) as run:
        pipe(**arguments)
        for module in (pipe.unet, pipe.vae, pipe.text_encoder):
            hooks.remove_hook_from_module(module, recurse=True)
        pipe(**arguments)
    assert not any("_hf_hook" in vars(m) for m in pipe.unet.modules())
    plain, _ = stable_diffusion()  # what accelerate leaves behind by itself
    offload_models(plain)
    hooks.remove_hook_from_module(plain.unet, recurse=True)
    assert vars(pipe.unet).keys() == vars(plain.unet).keys()
    assert run.profile.complete
    assert {call.counted for call in run.profile.components["unet"].calls} == {"twin"}


@pytest.mark.parametrize("hooks", [align_devices, offload_models, offload_layers, offload_groups])
def test_a_replaced_forward_under_trusted_hooks(hooks) -> None:
    pipe, arguments = stable_diffusion()
    deep_cache(pipe)
    hooks(pipe)
    arguments["num_inference_steps"] = 4
    profile = observed(pipe, lambda: pipe(**arguments))
    found = [(call.count, bool(call.matmul_macs)) for call in profile.components["unet"].calls]
    assert profile.complete and found == [(2, True), (2, False)]


def interrupt(pipe, step, timestep, values):
    pipe._interrupt = step == 1
    return values


def cut_off_guidance(pipe, step, timestep, values):
    if step == 1:
        pipe._guidance_scale = 0.0
        values["prompt_embeds"] = values["prompt_embeds"][-1:]
    return values


@pytest.mark.parametrize(
    ("callback", "calls"), [(interrupt, [(2, 2)]), (cut_off_guidance, [(2, 2), (3, 1)]), (None, [(5, 2)])]
)
def test_callbacks_stay_the_users(callback, calls) -> None:
    pipe, arguments = stable_diffusion()
    arguments |= {"num_inference_steps": 5}
    if callback is not None:
        arguments |= {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    profile = observed(pipe, lambda: pipe(**arguments))
    assert [(call.count, call.batch) for call in profile.components["unet"].calls] == calls
    assert profile.steps_run == sum(n for n, _ in calls)


@pytest.mark.parametrize(
    ("scheduler", "steps", "calls"),
    [
        ("PNDMScheduler", 5, 6),  # plms: one extra call
        ("HeunDiscreteScheduler", 5, 9),  # two calls a step, one in the last
        ("LCMScheduler", 4, 4),
    ],
)
def test_schedulers_that_call_more_often(scheduler, steps, calls) -> None:
    import diffusers

    pipe, arguments = stable_diffusion()
    more = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    pipe.scheduler = getattr(diffusers, scheduler)(beta_schedule="scaled_linear", **more)
    profile = observed(pipe, lambda: pipe(**{**arguments, "num_inference_steps": steps}))
    assert profile.components["unet"].call_count == calls
    assert profile.conditions.num_inference_steps == profile.steps_run == steps


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("how", ["component", "in place", "method"])
def test_compiled_components(how, inside) -> None:
    pipe, arguments = stable_diffusion()
    expected = observed(pipe, lambda: pipe(**arguments)).matmul_macs

    def compile_it():
        if how == "component":
            pipe.vae = torch.compile(pipe.vae, backend="eager")
        elif how == "in place":
            pipe.vae.compile(backend="eager")
        else:
            pipe.vae.decode = torch.compile(pipe.vae.decode, backend="eager")

    if not inside:
        compile_it()

    def script():
        if inside:
            compile_it()
        pipe(**arguments)

    profile = observed(pipe, script)
    torch._dynamo.reset()
    assert profile.complete and profile.matmul_macs == expected


# Bad input


@pytest.mark.parametrize("thing", [None, 3, "a/model", nn.Linear(3, 3), object(), {"unet": nn.Linear(3, 3)}])
def test_no_pipeline(thing) -> None:
    with pytest.raises(InputError, match="pipeline"):
        observe(thing)


def test_a_block_without_a_call() -> None:
    with observe(CustomPipeline(Custom())) as run:
        pass
    with pytest.raises(DiffmeterError, match="run the pipeline inside it"):
        _ = run.profile


def test_the_profile_is_there_after_the_block() -> None:
    pipe = CustomPipeline(nn.Sequential(nn.Linear(8, 8)))
    with observe(pipe) as run:
        pipe()
        with pytest.raises(DiffmeterError, match="when the block is over"):
            _ = run.profile
    assert run.profile.matmul_macs == 4 * BOTH and run.profile is run.profile


def test_a_nested_block_of_the_same_pipeline() -> None:
    pipe = CustomPipeline(nn.Sequential(nn.Linear(8, 8)))
    with observe(pipe) as run:
        with pytest.raises(InputError, match="being observed already"), observe(pipe):
            pass
        pipe()
    assert run.profile.matmul_macs == 4 * BOTH


def test_a_call_that_raises() -> None:
    class Mine(Exception):
        pass

    def forward(self, x):
        self.a(x)
        raise Mine("mine")

    net = component(forward)
    pipe = CustomPipeline(net, lambda pipe: pipe.net(ones(2, 8)))
    with pytest.raises(Mine, match="mine") as caught, observe(pipe) as run:
        pipe()
    assert caught.value.__cause__ is None
    assert not run.profile.complete and "Mine" in run.profile.uncounted[0]["reason"]
    assert type(net).__mro__[1] is Custom


def test_a_block_is_used_once() -> None:
    pipe = CustomPipeline(nn.Sequential(nn.Linear(8, 8)))
    block = observe(pipe)
    with block:
        pipe()
    with pytest.raises(DiffmeterError, match=r"observe\(pipe\) again"), block:
        pass
