"""Calibration files in every form that tools write, and what wrong ones are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldline.errors import InputError, WorldlineError
from worldline.io.known.intrinsics import Calibration, camera_of, read_calibration
from worldline.scene.video import Video

INTEGER = np.array([520.9, 521.0, 325.1, 249.7])
OURS = INTEGER + (0, 0, 0.5, 0.5)
LENS = (0.23, -0.78, -0.003, -0.0001, 0.9)


def clip(width: int = 64, height: int = 48, original: tuple[int, int] = (640, 480)) -> Video:
    scale = np.diag([original[0] / width, original[1] / height, 1.0])
    frames = np.zeros((2, height, width, 3), np.uint8)
    return Video(frames, np.arange(2) / 30, "clip", original_from_stored=scale, original_size=original)


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


FX, FY, CX, CY = INTEGER.tolist()
K = [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
K4 = [[FX, 0, CX, 0], [0, FY, CY, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
D = list(LENS)


def lines(matrix: list[list[float]]) -> str:
    return "\n".join(" ".join(map(str, row)) for row in matrix)


INTEGER_CENTRED = {
    "matrix.json": K,
    "named_matrix.json": {"K": K},
    "numbers.json": {"fx": FX, "fy": FY, "cx": CX, "cy": CY, "w": 640, "h": 480},
    "open3d.json": {"width": 640, "height": 480, "intrinsic_matrix": [FX, 0, 0, 0, FY, 0, CX, CY, 1]},
    "realsense.json": {"width": 640, "height": 480, "fx": FX, "fy": FY, "ppx": CX, "ppy": CY, "coeffs": [0] * 5},
    "ros.json": {"width": 640, "height": 480, "K": np.ravel(K).tolist(), "D": [0] * 5, "distortion_model": "plumb_bob"},
    "nested.json": {"color": {"fx": FX, "fy": FY, "cx": CX, "cy": CY}},
    "matrix.txt": "# K\n" + lines(K),
    "deepdeform.txt": lines(K4),
    "line.txt": f"{FX} {FY} {CX} {CY}\n",
    "commas.txt": f"{FX}, {FY}, {CX}, {CY}\n",
    "flat.txt": " ".join(map(str, np.ravel(K))),
    "ros.yaml": (
        f"image_width: 640\nimage_height: 480\ncamera_matrix:\n  rows: 3\n  cols: 3\n  data: {np.ravel(K).tolist()}\n"
    ),
    "opencv.yaml": (
        f"%YAML:1.0\n---\nK: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   data: {np.ravel(K).tolist()}\n"
    ),
    "tum.yaml": "intrinsics:\n" + "".join(f"  - - {a}\n    - {b}\n    - {c}\n" for a, b, c in K),
    "euroc.yaml": f"resolution: [640, 480]\nintrinsics: [{FX}, {FY}, {CX}, {CY}]\n",
    "orbslam.yaml": f"Camera.fx: {FX}\nCamera.fy: {FY}\nCamera.cx: {CX}\nCamera.cy: {CY}\n",
}


@pytest.mark.parametrize("name", INTEGER_CENTRED)
def test_files_with_integer_pixel_centres(tmp_path, name):
    found = read_calibration(written(tmp_path, name, INTEGER_CENTRED[name]))
    np.testing.assert_allclose(found.intrinsics, OURS)
    assert found.distortion == () and found.size in (None, (640, 480))


HALF_CENTRED = {
    "transforms.json": {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "w": 640, "h": 480, "k1": 0.1, "k2": -0.2},
    "cameras.txt": f"# CAMERA_ID, MODEL\n1 OPENCV 640 480 {FX} {FY} {CX} {CY} 0.1 -0.2 0 0\n",
}


@pytest.mark.parametrize("name", HALF_CENTRED)
def test_colmap_and_nerfstudio_have_their_pixel_centres_where_we_have(tmp_path, name):
    found = read_calibration(written(tmp_path, name, HALF_CENTRED[name]))
    np.testing.assert_allclose(found.intrinsics, INTEGER)
    assert found.size == (640, 480) and found.distortion[:4] == (0.1, -0.2, 0.0, 0.0)


@pytest.mark.parametrize(
    ("model", "intrinsics", "distortion"),
    [
        ("SIMPLE_PINHOLE 640 480 500 320 240", (500, 500, 320, 240), ()),
        ("PINHOLE 640 480 500 510 320 240", (500, 510, 320, 240), ()),
        ("SIMPLE_RADIAL 640 480 500 320 240 0.1", (500, 500, 320, 240), (0.1, 0.0)),
        ("RADIAL 640 480 500 320 240 0.1 0.2", (500, 500, 320, 240), (0.1, 0.2)),
        ("FULL_OPENCV 640 480 500 510 320 240 1 2 3 4 5 0 0 0", (500, 510, 320, 240), (1, 2, 3, 4, 5)),
    ],
)
def test_camera_models_of_colmap(tmp_path, model, intrinsics, distortion):
    found = read_calibration(written(tmp_path, "cameras.txt", f"1 {model}\n"))
    assert tuple(found.intrinsics) == intrinsics and found.distortion == distortion
    assert read_calibration(tmp_path).size == (640, 480), "a COLMAP model is a folder"


LENSES = {
    "line.txt": f"{FX} {FY} {CX} {CY} " + " ".join(map(str, D)),
    "ros.json": {"K": np.ravel(K).tolist(), "D": D, "distortion_model": "plumb_bob"},
    "nerf.json": {"fl_x": FX, "cx": CX, "cy": CY, **dict(zip(("k1", "k2", "p1", "p2", "k3"), D, strict=True))},
    "opencv.json": {"camera_matrix": {"data": np.ravel(K).tolist()}, "distortion_coefficients": {"data": [D]}},
}


@pytest.mark.parametrize("name", LENSES)
def test_the_distortion_comes_along_in_the_order_of_opencv(tmp_path, name):
    assert read_calibration(written(tmp_path, name, LENSES[name])).distortion == LENS


REFUSED = {
    "negative.txt": ("-500 500 320 240", "positive"),
    "zero.json": ({"fx": 0, "fy": 0, "cx": 1, "cy": 1}, "positive"),
    "words.txt": ("five hundred", "no number"),
    "nan.txt": ("nan 500 320 240", "not finite"),
    "count.txt": ("500 500 320 240 1", "3x3"),
    "ragged.txt": ("1 2 3\n4 5", "unlike lengths"),
    "pose.txt": (lines([[0, 1, 0, 2], [1, 0, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]]), "calibration"),
    "skew.txt": (lines([[500, 3, 320], [0, 500, 240], [0, 0, 1]]), "skew"),
    "size.txt": ("500 500 320 240 640 480", "image size"),
    "missing.json": ({"fx": 500, "fy": 500, "cx": 320}, "cy"),
    "text.json": ({"fx": "500", "fy": 500, "cx": 320, "cy": 240}, "fx"),
    "bool.json": ({"fx": True, "fy": 500, "cx": 320, "cy": 240}, "fx"),
    "empty.json": ({}, "neither"),
    "broken.json": ("{", "JSON"),
    "broken.yaml": ("a: [1, 2", "YAML"),
    "empty.txt": ("", "no numbers"),
    "fisheye.json": ({"K": K, "D": [0.1] * 4, "distortion_model": "equidistant"}, "not supported"),
    "nerf_fisheye.json": ({"fl_x": FX, "cx": CX, "cy": CY, "camera_model": "OPENCV_FISHEYE"}, "not supported"),
    "colmap_fisheye.txt": ("1 OPENCV_FISHEYE 640 480 500 500 320 240 0 0 0 0", "not supported"),
    "two.txt": ("1 PINHOLE 640 480 500 500 320 240\n2 PINHOLE 640 480 400 500 320 240", "2 cameras"),
    "short.txt": ("1 PINHOLE 640 480 500 500", "too few"),
    "rational.json": ({"K": K, "D": [0.1] * 8}, "coefficients"),
    "three.json": ({"K": K, "D": [0.1] * 3}, "3 numbers"),
    "binary.bin": ("x", "binary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_calibration_is_told_in_one_sentence(tmp_path, name):
    content, reason = REFUSED[name]
    with pytest.raises(InputError, match=reason) as refusal:
        read_calibration(written(tmp_path, name, content))
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_missing_file_and_a_binary_one_are_told(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_calibration(tmp_path / "none.txt")
    (tmp_path / "noise.txt").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="not a text file"):
        read_calibration(tmp_path / "noise.txt")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.text(max_size=60), st.text("0123456789.,-+e #\nnaif", max_size=60)), st.sampled_from(["txt", "json"])
)
def test_any_text_gives_a_calibration_or_one_sentence(tmp_path, text, suffix):
    path = tmp_path / f"any.{suffix}"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        assert (read_calibration(path).intrinsics[:2] > 0).all()
    except WorldlineError as refusal:
        assert str(refusal).endswith(".")


@given(st.integers(-2, 4), st.integers(-2, 4))
def test_a_calibration_of_resized_images_is_scaled(a, b):
    calibrated, original = (round(640 * 2.0**a), round(480 * 2.0**a)), (round(640 * 2.0**b), round(480 * 2.0**b))
    found = Calibration(np.array([500.0, 500, 320, 240]) * 2.0**a, calibrated)
    camera = camera_of(found, clip(original=original), "file")
    np.testing.assert_allclose(camera.intrinsics, [50, 50, 32, 24])


def test_a_calibration_of_another_shape_or_with_an_outside_centre_is_refused(tmp_path):
    turned = read_calibration(written(tmp_path, "k.json", {**HALF_CENTRED["transforms.json"], "w": 480, "h": 640}))
    with pytest.raises(InputError, match="another shape"):
        camera_of(turned, clip(), "k.json")
    large = read_calibration(written(tmp_path, "large.txt", "1000 1000 960 540"))
    with pytest.raises(InputError, match="outside of the images"):
        camera_of(large, clip(), "large.txt")
