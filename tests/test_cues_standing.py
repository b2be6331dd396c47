"""Where moving objects are put: on their own feet, piece by piece, in hands, and how surely."""

from __future__ import annotations

import numpy as np
import pytest

from worldline.cues.standing import Standing, stand

HEIGHT, WIDTH, FRAMES = 60, 80, 20
GROUND = np.repeat(np.linspace(0.05, 1.0, HEIGHT, dtype=np.float32)[:, None], WIDTH, 1)


def placed(ids: np.ndarray, settings: Standing | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth and sigma after standing on a plane whose inverse depth grows down the image."""
    inverse = np.repeat(GROUND[None], len(ids), 0)
    sigma = np.full(ids.shape, 0.05, dtype=np.float32)
    stand(inverse, sigma, ids, 80.0, settings or Standing())
    return inverse, sigma


def empty() -> np.ndarray:
    return np.zeros((FRAMES, HEIGHT, WIDTH), dtype=np.uint8)


def test_two_pieces_of_one_number_stand_on_their_own_feet() -> None:
    ids = empty()
    ids[:, 10:30, 10:22] = ids[:, 30:50, 50:62] = 1
    inverse, _ = placed(ids)
    assert inverse[9, 20, 15] == pytest.approx(GROUND[29, 0], rel=0.05)
    assert inverse[9, 40, 55] == pytest.approx(GROUND[49, 0], rel=0.05)


def test_what_is_above_a_gap_is_where_the_piece_below_it_is() -> None:
    ids = empty()
    ids[:, 10:24, 30:44] = ids[:, 28:50, 30:44] = 1
    inverse, _ = placed(ids)
    assert inverse[9, 15, 35] == inverse[9, 40, 35] == pytest.approx(GROUND[49, 0], rel=0.05)


def test_a_small_piece_has_no_place_of_its_own() -> None:
    ids = empty()
    ids[:, 20:50, 10:30] = 1
    ids[:, 20:24, 34:38] = 1
    inverse, _ = placed(ids)
    assert inverse[9, 22, 36] == inverse[9, 40, 20]


def test_a_ball_in_a_hand_is_where_the_person_is_and_in_flight_between_both() -> None:
    ids = empty()
    ids[:, 20:55, 5:25], ids[:, 10:40, 60:75] = 1, 2
    for t in range(FRAMES):
        u = 16 if t < 7 else 66 if t > 12 else 16 + 50 * (t - 6) // 7
        v = 30 if t < 7 else 20 if t > 12 else 12
        ids[t, v : v + 5, u : u + 5] = 3
    inverse, sigma = placed(ids)
    ball = [float(np.median(inverse[t][ids[t] == 3])) for t in range(FRAMES)]
    assert ball[2] == pytest.approx(inverse[2, 50, 10], rel=0.1)
    assert ball[17] == pytest.approx(inverse[17, 35, 62], rel=0.1)
    assert all(inverse[9, 35, 62] * 0.9 < q < inverse[9, 50, 10] * 1.1 for q in ball)
    doubt = [float(np.median(sigma[t][ids[t] == 3])) for t in range(FRAMES)]
    assert min(doubt) > 1.5 * np.median(sigma[2][ids[2] == 1])


def test_what_is_hidden_up_to_its_knees_says_less_and_is_no_nearer_than_what_hides_it() -> None:
    ids = empty()
    ids[:, 10:36, 30:44] = 1
    ids[:, 30:55, 20:60] = 2
    inverse, sigma = placed(ids)
    assert GROUND[29, 0] < inverse[9, 15, 35] < inverse[9, 50, 40]
    assert sigma[9, 15, 35] > 1.4 * sigma[9, 50, 40]


def test_a_foot_that_is_seen_for_a_while_tells_the_place_of_one_that_is_cut_off() -> None:
    ids = empty()
    ids[:, 20:50, 30:44] = 1
    cut = ids.copy()
    cut[12:, 50:, 30:44] = 1
    cut[12:, :30] = 0
    inverse, sigma = placed(cut)
    assert sigma[19, 55, 35] > sigma[14, 55, 35] > sigma[5, 40, 35]
    assert abs(np.log(inverse[13, 55, 35] / inverse[5, 40, 35])) < abs(np.log(GROUND[59, 0] / GROUND[49, 0]))


def test_around_an_object_sigma_knows_that_the_mask_may_be_wrong() -> None:
    ids = empty()
    ids[:, 10:50, 30:44] = 1
    _, sigma = placed(ids)
    assert sigma[9, 14, 45] > 3 * sigma[9, 14, 60] and sigma[9, 14, 60] == pytest.approx(0.05)
    assert sigma[9, 14, 30] > 2 * sigma[9, 14, 36]
