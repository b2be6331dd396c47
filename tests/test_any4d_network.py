"""The network of any4d says what the published one says, and behaves as its design promises."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from worldline.engines.any4d.config import NetworkConfig
from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.network import Any4D
from worldline.nets import linear
from worldline.nets.attention import attend
from worldline.nets.hashed_weights import fill, hashed_uniform
from worldline.nets.linear import Linear, half_linear

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from any4d_reference import BAR, Variant, compare, views_of  # noqa: E402

HERE = Path(__file__).parent / "data" / "any4d"
SHARED = Path(__file__).parents[2] / "shared" / "fixtures" / "any4d"
KEPT = sorted(p for p in HERE.glob("*.safetensors") if not p.stem.startswith("losses"))
WHOLE = sorted(p for p in SHARED.glob("tiny_*.safetensors") if p.stem != "tiny_inputs")


@pytest.fixture(scope="module")
def network():
    made = Any4D(NetworkConfig.tiny()).eval()
    fill(made)
    return made


def views(kind: str) -> Views:
    return views_of(Variant.of(f"tiny_{kind}"), {})


def said(network, given):
    with torch.inference_mode():
        return network(given)


@pytest.mark.parametrize("path", KEPT, ids=lambda p: p.stem)
def test_it_says_what_the_published_network_says(path):
    for line in compare(path):
        assert line["error"] <= BAR, line


@pytest.mark.data
@pytest.mark.skipif(not WHOLE, reason="the published outputs are not beside this checkout")
@pytest.mark.parametrize("path", WHOLE, ids=lambda p: p.stem)
def test_it_makes_on_the_way_what_the_published_network_makes(path):
    for line in compare(path):
        assert line["error"] <= BAR, line


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the published keys are not beside this checkout")
def test_its_parameters_bear_the_published_names_and_shapes(network):
    published = json.loads((SHARED / "tiny_keys.json").read_text())["parameters"]
    assert {name: list(p.shape) for name, p in network.named_parameters()} == published


def test_its_answer_is_the_same_every_time(network):
    a, b = (said(network, views("all")) for _ in range(2))
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("rays", "depth", "flow", "quaternion"))


def test_views_after_the_first_have_no_order(network):
    given = views("img")
    turned = replace(given, image=given.image[[0, 2, 1]])
    a, b = said(network, given), said(network, turned)
    assert torch.allclose(a.depth[[0, 2, 1]], b.depth, rtol=1e-4)
    assert torch.allclose(a.translation[[0, 2, 1]], b.translation, atol=1e-5)


def test_the_first_view_is_the_reference(network):
    given = views("img")
    a, b = said(network, given), said(network, replace(given, image=given.image[[1, 0, 2]]))
    assert not torch.allclose(a.depth[[1, 0, 2]], b.depth, rtol=1e-2)


def test_features_of_an_image_can_be_handed_in(network):
    given = views("all")
    with torch.inference_mode():
        features = torch.cat([network.features(Views(given.image[v : v + 1])) for v in range(3)])
        kept = network(given, features)
    assert torch.allclose(kept.depth, said(network, given).depth, rtol=1e-5)


def test_scenes_of_a_batch_do_not_see_each_other(network):
    both = views("b2_all")
    alone = {
        name: x[:, 1:] if getattr(x, "ndim", 0) > 1 else x[1:]
        for name, x in vars(both).items()
        if x is not None
    }  # fmt: skip
    assert torch.allclose(said(network, both).depth[:, 1:], said(network, Views(**alone)).depth, rtol=1e-4)


@pytest.mark.parametrize("kind", ["rays", "depth_metric", "pose_metric", "doppler"])
def test_what_no_view_has_changes_nothing(network, kind):
    given = views(kind)
    nobody = torch.zeros(given.image.shape[:2], dtype=torch.bool)
    masked = replace(given, has_rays=nobody, has_depth=nobody, has_pose=nobody, has_radial=nobody)
    assert torch.equal(said(network, masked).depth, said(network, Views(given.image)).depth)
    assert not torch.allclose(said(network, given).depth, said(network, masked).depth, rtol=1e-3)


def test_only_metric_depth_tells_its_scale(network):
    given = views("depth_nonmetric")
    twice = replace(given, depth=given.depth * 2)
    assert torch.allclose(said(network, given).depth, said(network, twice).depth, rtol=1e-4)
    metres = replace(given, metric=torch.ones_like(given.metric))
    again = replace(metres, depth=given.depth * 2)
    assert not torch.allclose(said(network, metres).depth, said(network, again).depth, rtol=1e-3)


def test_poses_count_only_relative_to_the_first(network):
    given = views("pose_metric")
    moved = replace(given, translation=given.translation + torch.tensor([3.0, -2.0, 1.0]))
    assert torch.allclose(said(network, given).translation, said(network, moved).translation, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 2])
def test_heads_may_take_views_a_few_at_a_time(network, at_once, monkeypatch):
    whole = said(network, views("img"))
    monkeypatch.setattr(network, "views_at_once", at_once)
    assert torch.allclose(said(network, views("img")).depth, whole.depth, rtol=1e-5)


def test_mixed_precision_stays_within_two_per_cent():
    network = Any4D(NetworkConfig.tiny()).eval()
    fill(network)
    exact = said(network, views("all"))
    half_linear(network.encoder)
    half_linear(network.info_sharing)
    rough = said(network, views("all"))
    for name in ("rays", "depth", "flow", "translation", "quaternion", "scale"):
        a, b = getattr(rough, name), getattr(exact, name)
        assert a.dtype == torch.float32 and float((a - b).norm() / b.norm()) < 0.02, name


class TestLinear:
    @pytest.mark.parametrize("onednn", [True, False])
    def test_it_is_a_linear_layer_either_way(self, monkeypatch, onednn):
        monkeypatch.setattr(linear, "_HAS_ONEDNN", onednn and linear._HAS_ONEDNN)
        layer, x = Linear(7, 5), torch.randn(2, 3, 7)
        expected = functional.linear(x, layer.weight, layer.bias)
        with torch.inference_mode():
            assert torch.allclose(layer(x), expected, atol=1e-5)
            assert torch.allclose(layer.with_gelu(x), functional.gelu(expected), atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_attention_is_that_of_torch(self, dtype):
        q, k, v = (torch.randn(2, 3, n, 8, dtype=dtype) for n in (600, 700, 700))
        expected = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
        with torch.inference_mode():
            found = attend(q, k, v)
        assert found.dtype == dtype
        assert torch.allclose(found.float(), expected, atol=1e-5 if dtype == torch.float32 else 1e-2)

    def test_gradients_flow_through_attention(self):
        q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
        attend(q, k, v).sum().backward()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))

    def test_gradients_flow_when_they_are_wanted(self):
        layer, x = Linear(4, 3), torch.randn(5, 4, requires_grad=True)
        layer.with_gelu(x).sum().backward()
        assert layer.weight.grad is not None and x.grad is not None and float(layer.weight.grad.abs().sum()) > 0

    def test_half_layers_take_any_precision_and_return_their_own(self):
        network = nn.Sequential(Linear(4, 3), nn.Linear(3, 2).to(torch.bfloat16))
        half_linear(network)
        with torch.inference_mode():
            assert network(torch.randn(2, 4)).dtype == torch.bfloat16


def test_hashed_numbers_are_spread_evenly_and_follow_from_the_name_alone():
    a = hashed_uniform("a.weight", 20_000)
    assert (a == hashed_uniform("a.weight", 30_000)[:20_000]).all() and not (a == hashed_uniform("b", 20_000)).any()
    assert abs(a.mean()) < 0.02 and abs(a.var() - 1 / 3) < 0.01 and a.min() >= -1 and a.max() < 1
