"""The training loss: published values, and truth of which parts are missing."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from worldline.engines.any4d.network import Prediction
from worldline.train.losses import LossConfig, Losses, Weights, losses
from worldline.train.normalisers import units
from worldline.train.published_terms import reference_losses
from worldline.train.regression import Robust, log_space, mean_where, without_worst
from worldline.train.truth import PER_SAMPLE, Truth, joined

DATA = Path(__file__).parent / "data" / "any4d"
VALUES = json.loads((DATA / "losses_values.json").read_text())
V, B, H, W = 3, 2, 6, 8
LEARNT = ("rays", "depth", "quaternion", "translation", "flow", "scale", "confidence", "mask_logit")
OF = {
    "points": ("points_world",), "poses": ("points_world", "quaternion", "translation"),
    "rays": ("points_world", "points_cam", "depth", "rays", "normals", "gradients"), "flow": ("flow",),
    "solid": ("mask",), "metric": ("scale",), "synthetic": ("normals", "gradients"),
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    return reference_losses(load_file(DATA / "losses_inputs.safetensors"))


@pytest.mark.parametrize("criterion", VALUES)
def test_published_values_are_met(criterion: str, found: dict[str, dict[str, float]]):
    assert found[criterion].keys() == VALUES[criterion].keys()
    assert found[criterion] == pytest.approx(VALUES[criterion], rel=2e-5)


def drawn(seed: int = 0) -> tuple[Prediction, Truth]:
    """A prediction and an unrelated truth of which everything is known."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(normal(*shape), dim=-1)

    true = Truth(
        rays=unit(V, B, H, W, 3), has_rays=torch.ones(V, B) > 0, depth=normal(V, B, H, W).exp(),
        valid=torch.ones(V, B, H, W) > 0, solid=normal(V, B, H, W) > -1, has_solid=torch.ones(V, B) > 0,
        quaternion=unit(V, B, 4), translation=normal(V, B, 3), has_pose=torch.ones(V, B) > 0,
        flow=normal(V, B, H, W, 3), has_flow=torch.ones(V, B, H, W) > 0, moving=normal(V, B, H, W) > 0,
        has_moving=torch.ones(B) > 0, metric=torch.ones(B) > 0, synthetic=torch.ones(B) > 0,
    )  # fmt: skip
    said = Prediction(
        rays=unit(V, B, H, W, 3), depth=normal(V, B, H, W).exp(), quaternion=unit(V, B, 4),
        translation=normal(V, B, 3), flow=normal(V, B, H, W, 3), scale=normal(B).exp(),
        confidence=1 + normal(V, B, H, W).exp(), mask_logit=normal(V, B, H, W),
    )  # fmt: skip
    return said, true


def followed(said: Prediction) -> Prediction:
    """The same, with gradients."""
    return Prediction(**{name: getattr(said, name).clone().requires_grad_() for name in LEARNT})


def gradients(said: Prediction) -> dict[str, Tensor]:
    return {name: x.grad for name in LEARNT if (x := getattr(said, name)).grad is not None}


def without(true: Truth, what: str) -> Truth:
    """The truth with something unknown everywhere, and NaN in its place."""
    nothing = {"points": "valid", "poses": "has_pose", "rays": "has_rays", "flow": "has_flow", "solid": "has_solid"}
    values = {"points": ("depth",), "poses": ("quaternion", "translation"), "rays": ("rays",), "flow": ("flow",)}
    flag = nothing.get(what, what)
    lost = {name: torch.full_like(getattr(true, name), torch.nan) for name in values.get(what, ())}
    return replace(true, **{flag: torch.zeros_like(getattr(true, flag))}, **lost)


@pytest.mark.parametrize("what", OF)
def test_what_is_unknown_counts_for_nothing_and_leaves_finite_gradients(what: str):
    said, true = drawn()
    said = followed(said)
    result = losses(said, without(true, what))
    result.total.backward()
    assert all(float(result.terms[name].detach().abs().sum()) == 0 for name in OF[what])
    assert torch.isfinite(result.total) and all(torch.isfinite(g).all() for g in gradients(said).values())


def test_motion_without_geometry_moves_nothing_but_the_flow():
    said, true = drawn()
    said = followed(said)
    for what in ("points", "poses", "rays", "solid", "metric"):
        true = without(true, what)
    result = losses(said, true)
    result.total.backward()
    assert float(result.terms["flow"].detach().sum()) > 0 and float(result.total.detach()) == pytest.approx(
        float(result.terms["flow"].detach().sum())
    )
    moved = {name for name, g in gradients(said).items() if float(g.abs().max()) > 1e-6}
    assert moved == {"flow"}


def test_a_batch_that_knows_nothing_costs_nothing():
    said, true = drawn()
    said = followed(said)
    for what in OF:
        true = without(true, what)
    total = losses(said, true).total
    total.backward()
    assert float(total.detach()) == 0 and all(float(g.abs().max()) == 0 for g in gradients(said).values())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), lost=st.sets(st.sampled_from(sorted(OF))), still=st.booleans())
def test_any_part_of_the_truth_may_be_missing_for_any_sample(seed: int, lost: set[str], still: bool):
    said, whole = drawn(seed)
    part = whole
    for what in sorted(lost):
        part = without(part, what)
    batch = joined([one(whole, 0), one(part, 1)])
    said = followed(replace(said, flow=torch.zeros_like(said.flow)) if still else said)
    result = losses(said, batch)
    result.total.backward()
    assert torch.isfinite(result.total) and all(torch.isfinite(g).all() for g in gradients(said).values())


def one(true: Truth, sample: int) -> Truth:
    """One sample of a batch."""

    def cut(name: str) -> Tensor:
        x = getattr(true, name)
        return x[sample : sample + 1] if name in PER_SAMPLE else x[:, sample : sample + 1]

    return Truth(**{f.name: cut(f.name) for f in fields(Truth)})


def exact(true: Truth, scale: float) -> Prediction:
    """The truth, said in a unit of length of one's own."""
    ones = torch.ones(B)
    return Prediction(
        true.rays, true.depth * scale, true.quaternion, true.translation * scale, true.flow * scale, ones,
        torch.ones(V, B, H, W), torch.where(true.solid, 30.0, -30.0),
    )  # fmt: skip


def test_the_truth_costs_nothing_at_any_scale_but_for_the_scale_itself():
    _, true = drawn()
    terms = losses(exact(true, 3.0), true).terms
    assert float(terms.pop("scale")) > 1
    terms.pop("normals")  # an angle below a degree costs as much as a degree
    assert all(float(term.abs().max()) < 1e-4 for term in terms.values())
    assert float(losses(exact(true, 1.0), true).terms["scale"]) < 1e-6


def test_the_scale_alone_is_moved_by_its_term():
    said, true = drawn()
    said = followed(said)
    losses(said, true).terms["scale"].backward()
    moved = {name for name, g in gradients(said).items() if float(g.abs().max()) > 0}
    assert moved == {"scale"}


def test_a_moving_pixel_weighs_ten_times_a_static_one():
    said, true = drawn()
    moving = torch.zeros(V, B, H, W, dtype=torch.bool)
    moving[..., 0] = True

    def cost(where: Tensor) -> Losses:
        return losses(replace(said, flow=torch.where(where[..., None], said.flow, true.flow * ratio)), still)

    still = replace(true, moving=moving)
    by = units(said, still.cleaned())
    ratio = (by.predicted * said.scale / by.true)[None, :, None, None, None]
    on_moving = cost(moving).terms["flow"] * (10 * 1 + 7)
    one_static = torch.zeros_like(moving)
    one_static[..., 1] = True
    everywhere = replace(still, moving=moving | one_static)
    both = losses(
        replace(said, flow=torch.where((moving | one_static)[..., None], said.flow, true.flow * ratio)), everywhere
    )
    on_static = cost(one_static).terms["flow"] * (10 * 1 + 7)
    assert torch.allclose(both.terms["flow"] * (10 * 2 + 6), on_moving + 10 * on_static, rtol=1e-4)


def test_who_does_not_say_what_moves_is_asked_for_a_centimetre_or_half_a_percent():
    said, true = drawn()
    small = replace(true, flow=torch.zeros_like(true.flow), has_moving=torch.zeros(B, dtype=torch.bool))
    small.flow[..., 0, 0, 0] = 0.011
    told = replace(small, moving=small.flow.norm(dim=-1) > 0.01, has_moving=torch.ones(B, dtype=torch.bool))
    assert torch.equal(losses(said, small).terms["flow"], losses(said, told).terms["flow"])
    small.flow[..., 0, 0, 0] = 0.009
    nowhere = replace(told, moving=torch.zeros_like(told.moving), flow=small.flow)
    assert torch.equal(losses(said, small).terms["flow"], losses(said, nowhere).terms["flow"])


def test_zero_flow_has_a_gradient_so_that_a_network_that_says_so_can_learn():
    said, true = drawn()
    said = followed(replace(said, flow=torch.zeros_like(said.flow)))
    losses(said, true, LossConfig(weights=Weights(*[0.0] * 10, flow=1.0))).total.backward()
    assert float(said.flow.grad.abs().min(dim=-1)[0].max()) > 0


def test_log_space_shortens_to_the_logarithm_and_is_the_identity_at_zero():
    x = torch.tensor([[3.0, 4.0, 0.0], [1e-6, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(log_space(x).norm(dim=-1), torch.log1p(x.norm(dim=-1)), rtol=1e-9)
    at_zero = torch.autograd.functional.jacobian(log_space, torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(at_zero, torch.eye(3, dtype=torch.float64))


def test_the_robust_penalty_is_a_parabola_near_zero_and_flat_far_away():
    error = torch.tensor([[1e-3], [100.0], [200.0]], dtype=torch.float64)
    near, far, farther = Robust()(error, torch.zeros_like(error))
    assert float(near) == pytest.approx(0.5 * (1e-3 / 0.05) ** 2, rel=1e-3)
    assert float(farther / far) == pytest.approx(2**0.5, rel=0.05)


def test_the_worst_twentieth_of_every_real_image_is_left_out():
    values = torch.arange(40.0).expand(1, 2, 40).clone()
    known = torch.ones(1, 2, 40, dtype=torch.bool)
    known[..., 39] = False
    kept = without_worst(values, known, 0.05, torch.tensor([False, True]))
    assert kept[0, 0].nonzero()[:, 0].tolist() == list(range(37)) and int(kept[0, 1].sum()) == 39


def test_a_mean_over_nothing_is_zero():
    assert mean_where(torch.full((2, 3), torch.inf), torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0, 0]
