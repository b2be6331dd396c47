"""Numbers of objects that meet, part, hide and have gaps, on made masks with exact flow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.cues.companions import Company, Pair
from worldline.cues.identities import IdentitySettings, identities
from worldline.cues.parallax import FlowChain

HEIGHT, WIDTH = 48, 112
COLOURS = {1: (200, 40, 40), 2: (40, 40, 200), 3: (40, 180, 60)}


def disc(centre: tuple[float, float], radius: float) -> np.ndarray:
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return (u - centre[0]) ** 2 + (v - centre[1]) ** 2 <= radius**2


def linked(
    layers: list[list[np.ndarray]], hidden: np.ndarray | None = None, colours: bool = True, smeared: range = range(0)
) -> np.ndarray:
    """Ids of a clip of `layers` (per object its mask per frame, later ones in front), with the flow of their centres.

    `hidden` pixels are not seen to move: a pole, a belt. In the `smeared` frames all flow is that of the last layer.
    """
    frames = len(layers[0])
    images = np.full((frames, HEIGHT, WIDTH, 3), 110, dtype=np.uint8)
    steps = np.zeros((2, frames - 1, HEIGHT, WIDTH, 3), dtype=np.float16)
    moving = np.zeros((frames, HEIGHT, WIDTH), dtype=bool)
    for number, masks in enumerate(layers, start=1):
        centre = np.array([np.argwhere(m).mean(0)[::-1] if m.any() else (0, 0) for m in masks])
        for t, mask in enumerate(masks):
            moving[t] |= mask
            images[t][mask] = COLOURS[number] if colours else (150, 90, 40)
            if t + 1 < frames:
                steps[0, t][mask, :2] = centre[t + 1] - centre[t]
            if t:
                steps[1, t - 1][mask, :2] = centre[t - 1] - centre[t]
    seen = _top(layers)
    for t in range(frames - 1):
        steps[0, t, ..., 2], steps[1, t, ..., 2] = _lost(seen, steps, t, 1), _lost(seen, steps, t, -1)
    for t in smeared:
        flow = np.diff([np.argwhere(layers[-1][k]).mean(0)[::-1] for k in (t, t + 1)], axis=0)[0]
        steps[0, t], steps[1, t] = (*flow, 0), (*-flow, 0)
    if hidden is not None:
        moving &= ~hidden
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    chain = FlowChain(np.stack([u, v], -1).astype(np.float32), (HEIGHT, WIDTH), steps)
    return identities(chain, images, moving, {}, 1 / 24, IdentitySettings())


def _top(layers: list[list[np.ndarray]]) -> np.ndarray:
    """The object that is seen in every pixel."""
    out = np.zeros((len(layers[0]), HEIGHT, WIDTH), dtype=int)
    for number, masks in enumerate(layers, start=1):
        out[np.stack(masks)] = number
    return out


def _lost(seen: np.ndarray, steps: np.ndarray, pair: int, way: int) -> np.ndarray:
    """A large disagreement where the flow of a pair of frames leads onto something else."""
    here, there = (seen[pair], seen[pair + 1]) if way > 0 else (seen[pair + 1], seen[pair])
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    flow = np.round(steps[0 if way > 0 else 1, pair, ..., :2].astype(float)).astype(int)
    row, column = np.clip(v + flow[..., 1], 0, HEIGHT - 1), np.clip(u + flow[..., 0], 0, WIDTH - 1)
    return np.where(there[row, column] == here, 0.0, 50.0)


def main_number(ids: np.ndarray, mask: np.ndarray) -> int:
    return int(np.bincount(ids[mask]).argmax())


def walking(start: float, speed: float, frames: int, row: float = 24, radius: float = 9) -> list[np.ndarray]:
    return [disc((start + speed * t, row), radius) for t in range(frames)]


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("apart", [0, 8])
def test_two_discs_that_cross_keep_their_numbers(colours: bool, apart: int) -> None:
    behind, front = walking(16, 2, 40, row=24 - apart), walking(96, -2, 40)
    ids = linked([behind, front], colours=colours)
    first, second = main_number(ids[0], behind[0]), main_number(ids[0], front[0])
    assert first != second and set(np.unique(ids)) == {0, 1, 2}
    assert main_number(ids[-1], front[-1]) == second and main_number(ids[-1], behind[-1]) == first


def test_colours_put_right_what_flow_that_smears_over_a_crossing_mixed_up() -> None:
    behind, front = walking(32, 1, 52, row=20), walking(82, -1, 52)
    ids = linked([behind, front], smeared=range(17, 34))
    first, second = main_number(ids[0], behind[0]), main_number(ids[0], front[0])
    assert first != second and set(np.unique(ids)) == {0, 1, 2}
    for t in (40, 51):
        assert main_number(ids[t], front[t]) == second and main_number(ids[t], behind[t]) == first


@given(st.integers(8, 16), st.floats(1.0, 1.5))
@settings(max_examples=5, deadline=None)
def test_discs_that_start_as_one_region_have_two_numbers_from_the_start(still: int, speed: float) -> None:
    frames = still + 25
    stays = [disc((40, 24), 9)] * frames
    goes = [disc((54 + speed * max(0, t - still), 24), 9) for t in range(frames)]
    ids = linked([stays, goes])
    assert set(np.unique(ids)) == {0, 1, 2}
    for t in (0, still, frames - 1):
        assert (ids[t][stays[t] & ~goes[t]] == ids[-1, 24, 40]).mean() > 0.9
        assert (ids[t][goes[t] & ~stays[t]] == main_number(ids[-1], goes[-1])).mean() > 0.9
    assert ids[-1, 24, 40] != main_number(ids[-1], goes[-1])


def test_a_body_with_a_belt_is_one() -> None:
    hidden = np.zeros((HEIGHT, WIDTH), dtype=bool)
    hidden[23:26] = True
    assert set(np.unique(linked([walking(20, 2, 30, radius=12)], hidden))) == {0, 1}


def test_a_mover_that_passes_behind_a_pole_is_one() -> None:
    hidden = np.zeros((HEIGHT, WIDTH), dtype=bool)
    hidden[:, 54:58] = True
    assert set(np.unique(linked([walking(20, 2, 35, radius=12)], hidden))) == {0, 1}


def test_a_hand_that_flickers_off_its_arm_is_one_with_it() -> None:
    body = walking(30, 1, 30, radius=11)
    arm = [np.roll(disc((46 + t, 24), 6), round(3 * np.sin(t)), axis=0) for t in range(30)]
    whole = [b | a for b, a in zip(body, arm, strict=True)]
    for t in (8, 9, 15, 22):
        whole[t] = body[t] & ~arm[t] | np.roll(arm[t], 3, axis=1)
    assert set(np.unique(linked([whole]))) == {0, 1}


def test_a_ball_thrown_from_one_to_another_has_a_number_of_its_own_in_every_hand() -> None:
    left, right = [disc((20, 24), 12)] * 60, [disc((92, 24), 12)] * 60
    place = np.clip((np.arange(60) - 18) * 2.4, 0, 44) + 34
    ball = [disc((float(u), 24), 5) for u in place]
    ids = linked([left, right, ball])
    number = main_number(ids[28], ball[28])
    for t in (0, 20, 40, 59):
        assert main_number(ids[t], ball[t] & ~left[t] & ~right[t]) == number
        assert len({main_number(ids[t], left[t] & ~ball[t]), main_number(ids[t], right[t] & ~ball[t]), number}) == 3


def test_company_that_goes_abreast_all_its_life_is_one_and_that_drifts_is_not() -> None:
    def pair(drift: float) -> Pair:
        moved = np.stack([np.stack([np.linspace(0, drift, 30), np.zeros(30)], -1)] * 2)
        return Pair(np.arange(30), np.full(30, 2.0), np.full(30, 10.0), np.full(30, 20.0), moved)

    assert pair(1.0).one_object(1 / 24, (30, 40), False, 0.0, Company())
    assert not pair(9.0).one_object(1 / 24, (30, 40), False, 0.0, Company())
    assert not pair(1.0).one_object(1 / 24, (80, 90), False, 0.2, Company())
    assert pair(1.0).one_object(1 / 24, (80, 90), False, 0.9, Company())
