"""The recorder: which products belong to which component, wherever they run."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from tests.custom import CustomPipeline, component
from tests.metering.recording.runs import observed
from tests.metering.recording.states import BOTH
from tests.reference import count_real_run

ones = torch.ones


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
