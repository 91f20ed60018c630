"""Observing: what libraries and users do to a pipeline, before, between and during generations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmeter import observe
from tests.custom import CustomPipeline, component
from tests.metering.recording.changes import (
    CHANGES,
    add_lora,
    align_devices,
    deep_cache,
    offload_groups,
    offload_layers,
    offload_models,
    stable_diffusion,
)
from tests.metering.recording.runs import observed
from tests.reference import count_real_call, pipeline_modules
from tests.zoo import ZOO


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


def without_attention(profile) -> int:
    """The products of a profile but for those of attention."""
    calls = [call for part in profile.components.values() for call in part.calls]
    return profile.matmul_macs - sum(call.count * call.macs_by_op.get("attention", 0) for call in calls)


def test_attention_replaced_by_a_function_is_counted_as_what_the_function_runs(monkeypatch) -> None:
    """It multiplies nothing: the products of PyTorch's own attention are not assumed of it."""
    pipe, arguments = stable_diffusion()
    plain = observed(pipe, lambda: pipe(**arguments))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", my_attention)
    profile = observed(pipe, lambda: pipe(**arguments))
    assert torch.nn.functional.scaled_dot_product_attention is my_attention
    assert profile.complete
    assert profile.matmul_macs == without_attention(plain) < plain.matmul_macs


def test_attention_replaced_in_foreign_code_is_counted_as_what_it_runs(monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", my_attention)

    def attends(self, x):
        return torch.nn.functional.scaled_dot_product_attention(*[self.a(x)[None]] * 3)

    profile = observed(CustomPipeline(component(attends)))
    assert profile.complete
    assert set(profile.macs_by_op) == {"linear"}


def test_a_backend_of_diffusers_that_is_a_users_function_is_counted_as_what_it_runs(monkeypatch) -> None:
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")
    registry, name = dispatch._AttentionBackendRegistry, dispatch.AttentionBackendName.SAGE
    case = ZOO["FluxPipeline"]
    pipe = case.build()
    arguments = case.arguments(pipe)
    plain = observed(pipe, lambda: pipe(**arguments))
    monkeypatch.setitem(registry._backends, name, lambda query, key, value: my_attention(query, key, value))
    monkeypatch.setitem(registry._supported_arg_names, name, {"query", "key", "value"})
    registry.set_active_backend(name)
    try:
        profile = observed(pipe, lambda: pipe(**arguments))
        assert registry.get_active_backend()[0] is name
    finally:
        registry.set_active_backend(dispatch.AttentionBackendName.NATIVE)
    assert profile.complete
    lost = sum(call.count * call.macs_by_op["attention"] for call in plain.components["transformer"].calls)
    assert profile.matmul_macs == plain.matmul_macs - lost


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
