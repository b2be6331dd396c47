"""Training: samples and their sensors, batches that follow from the step, and a loop that can be stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from worldline.cli import main
from worldline.data.sequence import track_truth
from worldline.engines.any4d.checkpoint import load_network
from worldline.engines.any4d.config import NetworkConfig
from worldline.engines.any4d.network import Any4D
from worldline.errors import FormatError, InputError, OutputError
from worldline.geometry import camera, pixels, se3
from worldline.geometry.se3 import turned_xyzw
from worldline.nets.vit import DinoConfig
from worldline.nets.weights import find
from worldline.scene.journal import Silent
from worldline.synthetic.clutter import clutter
from worldline.synthetic.rendering import Quality, render
from worldline.synthetic.world import World
from worldline.train import forward_modes, fresh, run_state
from worldline.train.batches import BatchConfig, Batches, InputConfig, told
from worldline.train.colours import ColourConfig, recoloured
from worldline.train.loop import Trained, first_network, train
from worldline.train.losses import losses
from worldline.train.optimiser import OptimiserConfig, optimiser, set_rates, share
from worldline.train.recipes import RECIPES, Recipe, tiny
from worldline.train.recordings import Recordings, cut
from worldline.train.samples import Mixture, Sample, Wanted, truth_of
from worldline.train.sensors import SensorConfig, measured, on_rings
from worldline.train.worlds import Worlds, any_preset, radial_speed_mps, rendered

SMALL = NetworkConfig(
    encoder=DinoConfig(width=24, depth=1, heads=2, table_side=5), dense=(8, 8, 8), vector=(4, 4, 4), width=16, depth=4,
    heads=2, taps=(1, 2), dpt_width=8, dpt_levels=(4, 4, 8, 8), pose_width=12, scale_width=8,
)  # fmt: skip
WANTED = Wanted(3, 42, 28)
BATCH = BatchConfig(images=4, views=(2, 2), sizes=((28, 28),), repeats=2, streams=2, workers=0)
RECIPE = Recipe(
    network=SMALL, batches=BATCH, optimiser=OptimiserConfig(rate=1e-3, encoder_rate=1e-3), steps=6,
    precision="float32", recompute=False, save_every=100, log_every=1, watched=1,
)  # fmt: skip


def flat(random: np.random.Generator, wanted: Wanted) -> Sample:
    """A wall at a random distance whose upper half slides aside: a source that costs nothing."""
    shape = (wanted.views, wanted.height, wanted.width)
    z = random.uniform(1, 3)
    flow = np.zeros((*shape, 3))
    flow[1:, : wanted.height // 2, :, 0] = random.uniform(0.1, 0.3)
    return Sample(
        random.integers(0, 256, (*shape, 3)).astype(np.uint8), np.arange(wanted.views) / 10,
        np.tile([30.0, 30.0, wanted.width / 2, wanted.height / 2], (wanted.views, 1)),
        np.tile(np.eye(4), (wanted.views, 1, 1)), None, np.full(shape, z), np.ones(shape, dtype=bool), flow,
        flow[..., 0] > 0, np.zeros(shape), synthetic=True,
    )  # fmt: skip


@cache
def world() -> World:
    return clutter(3, frames=6, size=(42, 28), fps=10.0)


@cache
def sample() -> Sample:
    return rendered(world(), [2, 0, 5], Quality(antialias=False))


# --- samples -----------------------------------------------------------------------------------------------------


def test_the_reference_sees_its_own_points_where_the_truth_puts_them():
    true = truth_of(sample()).cleaned()
    k = torch.from_numpy(world().camera.at(2).copy()).float()
    uv = camera.project(true.points_world[0, 0][true.valid[0, 0]], k)
    centres = pixels.centres(28, 42, dtype=torch.float32)[true.valid[0, 0]]
    assert torch.allclose(uv, centres, atol=1e-3)


def test_flow_leads_to_where_the_point_is_seen_later():
    true = truth_of(sample())
    known = true.has_flow[1, 0]
    points = true.cleaned().points_world[0, 0] + true.flow[1, 0]
    back = true.quaternion[1, 0] * torch.tensor([-1.0, -1, -1, 1])
    cam = turned_xyzw(back.expand(*points.shape[:2], 4), points - true.translation[1, 0])
    uv = camera.project(cam[known], torch.from_numpy(world().camera.at(0).copy()).float())
    row, column = pixels.indices(uv, 28, 42)
    inside = pixels.inside(uv, 28, 42) & (cam[known][:, 2] > 0)
    seen = true.cleaned().depth[1, 0][row, column]
    error = (cam[known].norm(dim=-1) / seen - 1).abs()[inside]
    assert float((error < 0.02).float().mean()) > 0.75  # the rest is hidden by something nearer, or at an outline


def test_what_moves_by_itself_has_flow_and_what_rests_has_none():
    true = truth_of(sample())
    length = true.flow[2, 0].norm(dim=-1)
    moving = true.moving[2, 0]
    assert bool(moving.any()) and float(length[moving].min()) > 1e-3
    assert float(length[true.has_flow[2, 0] & ~moving].max()) < 1e-5


def test_a_view_without_a_pose_or_depth_is_not_made_up():
    part = replace(sample(), has_pose=np.array([True, False, True]), depth_z=None, flow=None, moving=None)
    true = truth_of(part)
    assert true.has_pose[:, 0].tolist() == [True, False, True]
    assert not true.valid.any() and not true.has_flow.any() and not true.has_moving.any()
    without_first = truth_of(replace(sample(), has_pose=np.array([False, True, True])))
    assert without_first.has_pose[:, 0].tolist() == [True, False, False]


def test_another_scale_changes_lengths_alone():
    true, other = truth_of(sample()), truth_of(sample().rescaled(2.5))
    for name in ("depth", "translation", "flow"):
        assert torch.allclose(
            getattr(other, name).nan_to_num(), 2.5 * getattr(true, name).nan_to_num(), rtol=1e-5, atol=1e-6
        )
    assert torch.equal(true.quaternion, other.quaternion) and not other.metric.any()


def test_a_mixture_draws_by_its_weights():
    def constant(metric: bool):
        return lambda random, wanted: replace(flat(random, wanted), metric=metric)

    random = np.random.default_rng(0)
    mixture = Mixture((constant(True), constant(False)), (3.0, 1.0))
    drawn = [mixture(random, Wanted(2, 14, 14)).metric for _ in range(200)]
    assert 0.65 < np.mean(drawn) < 0.85
    with pytest.raises(InputError, match="one weight for each"):
        Mixture((flat,), (1.0, 2.0))


@pytest.mark.parametrize("make", [None, any_preset])
def test_worlds_give_the_views_and_the_size_that_are_wanted(make):
    source = Worlds(frames=4) if make is None else Worlds(make, frames=4)
    first, again = (source(np.random.default_rng(5), WANTED) for _ in range(2))
    assert first.images.shape == (3, 28, 42, 3) and np.array_equal(first.images, again.images)
    assert np.isfinite(first.depth_z).all() and first.solid.any()


def test_a_recorded_clip_tells_the_same_as_the_world_it_was_made_of():
    made = render(world(), Quality(antialias=False, track_step_px=3))
    frames, size = np.array([1, 4]), Wanted(2, 42, 28)
    recorded = cut(made.video, track_truth(made.scene), frames, size)
    exact = rendered(world(), [1, 4], Quality(antialias=False))
    assert np.array_equal(recorded.images, exact.images)
    assert np.allclose(recorded.depth_z, exact.depth_z, rtol=1e-5)
    known = np.isfinite(recorded.flow).all(-1) & np.isfinite(exact.flow).all(-1)
    moving = known & exact.moving
    assert known.mean() > 0.5 and moving[1].sum() > 3
    assert np.abs(recorded.flow - exact.flow)[known & ~exact.moving].max() < 1e-5
    assert np.median(np.linalg.norm((recorded.flow - exact.flow)[moving], axis=-1)) < 0.02


def test_points_alone_give_sparse_depth_and_motion():
    made = render(world(), Quality(antialias=False, track_step_px=6))
    truth = replace(track_truth(made.scene), depth_z=None, moving=None)
    source = Recordings(((made.video, truth),), reach=4)
    one = source(np.random.default_rng(0), WANTED)
    true = truth_of(one)
    assert 0 < true.valid.float().mean() < 0.2 and 0 < true.has_flow.float().mean() < 0.2
    assert not true.has_solid.any() and not true.has_moving.any() and true.has_pose.all()
    without_poses = truth_of(
        Recordings(((made.video, replace(truth, world_from_cam=None)),))(np.random.default_rng(0), WANTED)
    )
    assert without_poses.has_pose[:, 0].tolist() == [True, False, False] and not without_poses.has_flow.any()
    with pytest.raises(InputError, match="no clip"):
        Recordings(())


# --- sensors -----------------------------------------------------------------------------------------------------


def test_perfect_sensors_say_the_truth():
    devices = measured(sample(), replace(SensorConfig.exact(), sparse=0), np.random.default_rng(0))
    assert np.allclose(devices.intrinsics, sample().intrinsics)
    assert np.allclose(devices.depth_z, sample().depth_z)
    assert np.allclose(devices.world_from_cam, sample().first_from_cam)
    assert np.allclose(devices.speed_mps, sample().speed_mps, equal_nan=True)


def approached(step_m: float) -> World:
    """A world whose camera goes straight ahead by this much in each frame."""
    still = clutter(3, frames=4, size=(42, 28), fps=10.0, flying=(0, 0))
    motions = np.tile(still.ground_from_cam[0], (4, 1, 1))
    motions[:, :3, 3] += step_m * np.arange(4)[:, None] * motions[0, :3, 2]
    return replace(still, ground_from_cam=motions)


def test_doppler_is_negative_where_the_camera_comes_nearer_and_spans_the_time_until_the_next_view():
    coming = approached(1e-4)
    one = rendered(coming, [0, 2], Quality(antialias=False))
    uv = pixels.centres(28, 42, dtype=torch.float64)
    along = torch.nn.functional.normalize(camera.rays_z1(uv, torch.from_numpy(coming.camera.at(0).copy())), dim=-1)
    analytic = -1e-4 / 0.1 * along[..., 2].numpy()
    known = np.isfinite(one.speed_mps[0])
    assert np.abs(one.speed_mps[0] - analytic)[known].max() < 1e-5
    devices = measured(one, SensorConfig.exact(), np.random.default_rng(0))
    views = told(one.images, one, devices, InputConfig(multimodal=1, radial=1, dropped=0), np.random.default_rng(0))
    vectors = 0.2 * analytic[..., None] * along.numpy()
    assert np.abs(views.radial[0, 0].numpy() - vectors)[known].max() < 1e-5


def test_a_thing_that_flies_away_has_a_positive_speed():
    speeds = [radial_speed_mps(world(), frame) for frame in range(5)]
    seen = rendered(world(), list(range(6)), Quality(antialias=False))
    distance = np.linalg.norm(truth_of(seen).cleaned().points_cam[:, 0].numpy(), axis=-1)
    growing = np.stack(speeds) > 0.5
    assert growing.any() and (distance[:5][growing] > 0).all()


def test_sparse_depth_keeps_a_tenth_and_rings_lie_on_lines_of_equal_elevation():
    config = replace(SensorConfig.exact(), sparse=1.0, sparse_removed=0.9)
    kept = measured(sample(), config, np.random.default_rng(1)).depth_z > 0
    assert 0.07 < kept.sum() / (sample().depth_z > 0).sum() < 0.13
    k = np.array([[400.0, 400.0, 100.0, 100.0]])
    rings = on_rings(k, (200, 200), 2.0, 0.0)
    assert 8 < rings[0, :, 100].sum() < 18 and not rings.all()


def test_returns_get_rarer_with_distance():
    config = replace(SensorConfig.exact(), radar_full_m=float(np.median(sample().depth_z)) / 2)
    devices = measured(sample(), config, np.random.default_rng(0))
    near = sample().depth_z < np.median(sample().depth_z)
    assert (devices.range_m > 0)[near].mean() > 1.5 * (devices.range_m > 0)[~near].mean()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_noise_of_poses_is_as_large_as_it_is_said_to_be_and_spares_the_reference(seed: int):
    devices = measured(sample(), SensorConfig(), np.random.default_rng(seed))
    assert np.allclose(devices.world_from_cam[0], np.eye(4))
    off = np.linalg.inv(sample().first_from_cam) @ devices.world_from_cam
    turned = se3.angle_rad(torch.from_numpy(off[:, :3, :3]))
    assert np.degrees(float(turned.max())) < 6 * 0.3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_colours_stay_colours_and_all_views_change_alike(seed: int):
    twice = np.repeat(sample().images[:1], 2, 0)
    changed = recoloured(twice, ColourConfig(), np.random.default_rng(seed))
    assert changed.dtype == np.uint8 and np.array_equal(changed[0], changed[1])
    assert np.array_equal(recoloured(twice, ColourConfig.none(), np.random.default_rng(seed)), twice)


# --- batches -----------------------------------------------------------------------------------------------------


def test_a_batch_follows_from_seed_step_and_rank():
    def image(seed: int = 0, rank: int = 0, step: int = 5) -> torch.Tensor:
        return Batches(flat, BATCH, seed, rank)[step].views.image

    used = Batches(flat, BATCH)
    for step in range(5):
        used[step]
    assert torch.equal(used[5].views.image, image())
    assert not any(torch.equal(image(), other) for other in (image(seed=1), image(rank=1), image(step=3)))


def test_worlds_are_repeated_and_sensors_are_not():
    batches = Batches(flat, replace(BATCH, colours=ColourConfig.none(), inputs=InputConfig(multimodal=1.0)))
    first, other, again, later = (batches[step] for step in (0, 1, 2, 4))
    assert torch.equal(first.truth.depth, again.truth.depth) and not torch.equal(first.views.depth, again.views.depth)
    assert not torch.equal(first.truth.depth, other.truth.depth)
    assert not torch.equal(first.truth.depth, later.truth.depth)


def test_workers_in_the_background_change_nothing():
    alone, helped = (Batches(flat, replace(BATCH, workers=workers)) for workers in (0, 2))
    for a, b in zip(alone.from_step(1, 5), helped.from_step(1, 5), strict=True):
        assert torch.equal(a.views.image, b.views.image) and torch.equal(a.truth.depth, b.truth.depth)


def test_modalities_are_told_as_often_as_the_recipe_says():
    random = np.random.default_rng(0)
    one = flat(random, Wanted(2, 14, 14))
    devices = measured(one, SensorConfig(), random)
    drawn = [told(one.images, one, devices, InputConfig(), random) for _ in range(800)]
    expected = 0.7 * 0.5 * 0.95
    for name in ("rays", "depth", "pose", "radial"):
        share_of = np.mean([getattr(views, f"has_{name}").numpy().mean() for views in drawn])
        assert abs(share_of - expected) < 0.05
    assert abs(np.mean([views.metric.numpy().mean() for views in drawn]) - 0.95) < 0.02


def test_the_unit_of_the_radial_motion_is_the_best_distance_that_is_told():
    random = np.random.default_rng(0)
    one = replace(flat(random, Wanted(2, 14, 14)), depth_z=np.full((2, 14, 14), 2.0))
    devices = measured(one, SensorConfig.exact(), random)
    devices = replace(devices, depth_z=np.full((2, 14, 14), 3.0), range_m=np.full((2, 14, 14), 5.0))
    everything = InputConfig(multimodal=1, depth=1, rays=0, poses=0, radial=1, dropped=0)
    with_depth = told(one.images, one, devices, everything, random)
    without = told(one.images, one, devices, replace(everything, depth=0), random)
    assert float(with_depth.radial_unit) == pytest.approx(float(with_depth.depth[0].mean()))
    assert float(without.radial_unit) == pytest.approx(5.0)


def test_the_network_takes_what_a_batch_tells_and_every_part_of_it_learns():
    network = Any4D(SMALL)
    fresh.begin(network, 0)
    with torch.no_grad():
        network.scene_flow_dpt_regressor_head.conv2[2].weight.fill_(0.01)
    config = replace(BATCH, inputs=InputConfig(1, 1, 1, 1, 1, 0, 0))
    batch = Batches(flat, config)[0]
    losses(network(batch.views), batch.truth).total.backward()
    still = {name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    assert not still


# --- weights and optimiser ---------------------------------------------------------------------------------------


def test_a_fresh_network_says_that_nothing_moves_and_that_depth_is_about_one():
    network = Any4D(SMALL)
    fresh.begin(network, 0)
    with torch.no_grad():
        said = network(Batches(flat, BATCH)[0].views)
    assert float(said.flow.abs().max()) == 0
    assert 0.3 < float(said.depth.median()) < 3 and float(said.rays[..., 2].min()) > 0.5
    assert float(said.quaternion[..., 3].min()) > 0.9
    network2 = Any4D(SMALL)
    fresh.begin(network2, 0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), network2.parameters(), strict=True))


def test_vectors_do_not_decay_and_the_encoder_learns_more_slowly():
    network = Any4D(SMALL)
    groups = optimiser(network, OptimiserConfig()).param_groups
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    for group in groups:
        assert group["weight_decay"] == (0.05 if group["params"][0].ndim > 1 else 0)
    assert {g["top"] for g in groups} == {1e-4, 5e-6}
    frozen = optimiser(Any4D(SMALL), OptimiserConfig(encoder_rate=0))
    assert {g["top"] for g in frozen.param_groups} == {1e-4}


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    rates = [share(step, 100, OptimiserConfig(warm_up=0.1, last_share=0.01)) for step in range(100)]
    assert np.allclose(np.diff(rates[:10]), 0.1) and rates[10] == 1.0
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False)) and rates[-1] == pytest.approx(
        0.01, abs=2e-3
    )


def test_recomputed_blocks_give_the_same_gradients():
    batch = Batches(flat, BATCH)[0]
    plain, saving = first_network(RECIPE, None), first_network(RECIPE, None)
    forward_modes.recompute(saving)
    for network in (plain, saving):
        losses(network(batch.views), batch.truth).total.backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is None and b.grad is None or torch.allclose(a.grad, b.grad, atol=1e-6), name


def test_half_precision_is_for_transformers_only():
    network = first_network(RECIPE, None)
    forward_modes.halve(network, torch.device("cpu"))
    seen: dict[str, torch.dtype] = {}
    for name in ("info_sharing.self_attention_blocks.0.mlp.fc2", "dpt_feature_head", "pose_head"):
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.dtype}))
    batch = Batches(flat, BATCH)[0]
    losses(network(batch.views), batch.truth).total.backward()
    assert list(seen.values()) == [torch.bfloat16, torch.float32, torch.float32]
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}


# --- the loop ----------------------------------------------------------------------------------------------------


class StopsAt(Silent):
    """Asks the process to end, as Ctrl-C does, when a share is done."""

    def __init__(self, done: float) -> None:
        self.done = done

    def share(self, done: float) -> None:
        if done >= self.done:
            os.kill(os.getpid(), signal.SIGINT)


@cache
def whole(tmp: Path) -> Trained:
    return train(RECIPE, flat, tmp / "whole", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def same(a: Path, b: Path) -> bool:
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_an_interrupted_run_ends_with_the_bits_of_one_that_was_not(folder: Path):
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, flat, folder / "cut", device="cpu", progress=StopsAt(0.5))
    assert not (folder / "cut" / run_state.WEIGHTS).exists()
    resumed = train(RECIPE, flat, folder / "cut", device="cpu")
    assert same(resumed.weights, whole(folder).weights)
    assert (resumed.before, resumed.after) == (whole(folder).before, whole(folder).after)
    logged = [json.loads(line)["step"] for line in (folder / "cut" / run_state.LOG).read_text().splitlines()]
    assert logged == list(range(6))


def test_a_finished_run_is_not_done_again(folder: Path):
    again = train(RECIPE, flat, whole(folder).weights.parent, device="cpu")
    assert again.steps == 6 and again.after == whole(folder).after


def test_another_recipe_does_not_go_on_with_a_run_and_half_a_state_is_told(folder: Path):
    with pytest.raises(InputError, match="other settings"):
        train(replace(RECIPE, seed=1), flat, whole(folder).weights.parent, device="cpu")
    torn = folder / "torn"
    torn.mkdir()
    (torn / run_state.STATE).write_bytes((whole(folder).weights.parent / run_state.STATE).read_bytes()[:5000])
    with pytest.raises(FormatError, match="no state of a training run"):
        train(RECIPE, flat, torn, device="cpu")


def test_weights_that_come_out_can_go_in_again(folder: Path):
    network = load_network(find(whole(folder).weights), SMALL)
    assert isinstance(network, nn.Module)
    further = train(replace(RECIPE, steps=1), flat, folder / "further", initial=whole(folder).weights, device="cpu")
    assert further.before == pytest.approx(whole(folder).after, rel=1e-5)


def test_a_gradient_that_is_not_finite_is_left_out(folder: Path):
    def broken(random: np.random.Generator, wanted: Wanted) -> Sample:
        good = flat(random, wanted)
        return replace(good, depth_z=np.full_like(good.depth_z, 1e30))

    result = train(replace(RECIPE, steps=2), broken, folder / "broken", device="cpu")
    assert all(torch.isfinite(x).all() for x in load_file(result.weights).values() if x.is_floating_point())


def test_weights_that_somebody_else_put_there_are_not_replaced(folder: Path):
    taken = folder / "taken"
    taken.mkdir()
    (taken / run_state.WEIGHTS).write_bytes(b"precious")
    with pytest.raises(OutputError, match="already exists"):
        train(RECIPE, flat, taken, device="cpu")
    assert (taken / run_state.WEIGHTS).read_bytes() == b"precious"
    (folder / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        train(RECIPE, flat, folder / "file", device="cpu")


def test_a_recipe_without_a_step_is_told():
    with pytest.raises(InputError, match="at least one step"):
        replace(RECIPE, steps=0)


def test_an_unknown_device_is_told(folder: Path):
    with pytest.raises(InputError, match="cannot be used here"):
        train(RECIPE, flat, folder / "nowhere", device="abacus")


def one_of_two(rank: int, port: int, out: Path) -> None:
    """What torchrun starts twice."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()}
    train(replace(RECIPE, steps=3), flat, out, device="cpu")


def test_two_processes_train_one_network(folder: Path):
    out = folder / "two"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forked = multiprocessing.get_context("fork")
    both = [forked.Process(target=one_of_two, args=(rank, port, out)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in both] == [0, 0]
    alone = train(replace(RECIPE, steps=3), flat, folder / "alone", device="cpu")
    assert not same(out / run_state.WEIGHTS, alone.weights)
    network = load_network(out / run_state.WEIGHTS, SMALL)
    expected = mean_gradient_steps(3)
    for (name, a), (_, b) in zip(network.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4), name


def mean_gradient_steps(steps: int) -> Any4D:
    """What two processes should do, in one."""
    network = first_network(RECIPE, None)
    updates = optimiser(network, RECIPE.optimiser)
    for step in range(steps):
        set_rates(updates, share(step, steps, RECIPE.optimiser))
        for rank in range(2):
            batch = Batches(flat, BATCH, 0, rank)[step]
            (losses(network(batch.views), batch.truth).total / 2).backward()
        nn.utils.clip_grad_norm_(network.parameters(), RECIPE.optimiser.clip)
        updates.step()
        updates.zero_grad(set_to_none=True)
    return network


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_every_loss_before_and_after(tmp_path: Path, capsys, monkeypatch):
    recipe, _ = tiny()
    short = replace(recipe, network=SMALL, steps=2, batches=replace(BATCH, images=2), watched=1)
    monkeypatch.setitem(RECIPES, "tiny", lambda: (short, flat))
    assert main(["train", "any4d", "-o", str(tmp_path / "out"), "--config", "tiny", "--device", "cpu", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "2 steps" in said and all(name in said for name in ("depth", "flow", "points_world"))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {run_state.WEIGHTS, run_state.LOG, run_state.STATE}


def test_recipes_are_what_their_names_say():
    paper, _ = RECIPES["paper"]()
    assert paper.batches.sizes[0] == (518, 518) and len(paper.batches.sizes) == 10
    assert paper.network == NetworkConfig() and paper.losses.moving_weight == 10
    small, source = RECIPES["tiny"]()
    batches = Batches(source, small.batches)
    samples = {stream: batches.wanted(stream, 0) for stream in range(small.batches.streams)}
    assert sum(small.batches.images // wanted.views for wanted in samples.values()) == 8
