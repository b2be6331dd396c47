"""A run and its folder: interruption at any point, the finished run, foreign folders, and what a failure leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from worldline.errors import InputError, OutputError, SolveFailed
from worldline.geometry.camera import Camera
from worldline.run import Reading, Request, reconstruct, reconstruct_into, reconstruction
from worldline.run.known import Known
from worldline.run.reconstruction import default_output
from worldline.scene.scene import Scene
from worldline.scene.store import load
from worldline.scene.video import Video
from worldline.synthetic import render, tiny_world

STAGES = ("one", "two", "three")


@dataclass(frozen=True)
class Config:
    """Settings of the engine below: what to do when a stage begins."""

    shape: tuple[int, int, int] = (3, 6, 8)


class Engine:
    """Three stages, each building on the one before; `before` may interrupt, `computed` lists what really ran."""

    needs: tuple[str, ...] = ()
    least_frames = 2

    def __init__(self, before=lambda name: None):
        self.before, self.computed, self.observed = before, [], None

    def wants(self, video):
        return ()

    def __call__(self, video, observed, journal) -> Scene:
        self.observed = observed
        depth = np.ones((len(video), 6, 8), np.float32)
        for name in STAGES:
            depth = journal.run(name, lambda d=depth, n=name: self.compute(n, d))["depth"]
        poses = np.broadcast_to(np.eye(4), (len(video), 4, 4)).copy()
        flags = np.ones_like(depth, bool)
        camera = Camera.from_focal(8.0, 8, 6)
        return Scene(video.times_s, camera, poses, depth, depth * 0 + 0.1, flags, flags.astype(np.uint8))

    def compute(self, name, depth):
        self.before(name)
        self.computed.append(name)
        return {"depth": depth * 1.1 + np.random.default_rng(len(name)).random(depth.shape, np.float32)}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A source file, an output name, and an engine whose `before` a test may replace."""
    engine = Engine()
    module = SimpleNamespace(Config=Config, build=lambda config: engine)
    monkeypatch.setattr(reconstruction, "engine_module", lambda name: module)
    monkeypatch.setattr(reconstruction, "read_video", lambda path, **options: clip(path, 3))
    source = tmp_path / "clip.mp4"
    source.write_bytes(b"frames")
    return SimpleNamespace(engine=engine, source=source, out=tmp_path / "out", request=Request(source))


def clip(path: Path, frames: int) -> Video:
    pixels = np.zeros((frames, 6, 8, 3), np.uint8)
    return Video(
        pixels, np.arange(frames) / 30, path.stem, original_from_stored=np.diag([2.0, 2, 1]), original_size=(16, 12)
    )


def go(bench, **options):
    products = {"page.html": lambda scene, path: path.write_text(f"{len(scene)} frames")}
    return reconstruct_into(bench.out, bench.request, **{"products": products, **options})


def depth_of(out: Path) -> bytes:
    return np.asarray(load(out / "scene").depth_z[:]).tobytes()


def test_a_run_leaves_its_pieces_and_nothing_else(bench):
    finished = go(bench)
    assert {p.name for p in bench.out.iterdir()} == {"scene", "page.html", "log.txt", "run.json"}
    record = json.loads((bench.out / "run.json").read_text())
    assert [s["name"] for s in record["stages"]] == ["read", *STAGES, "save", "page.html"]
    assert record["request"]["reading"]["max_side"] == 1024
    assert all(name in (bench.out / "log.txt").read_text() for name in STAGES)
    assert len(finished.scene) == 3 and not finished.found


def test_a_finished_run_is_found_and_nothing_is_computed_again(bench):
    go(bench)
    bench.engine.computed.clear()
    assert go(bench).found
    assert bench.engine.computed == []


def interrupt_at(name):
    def before(stage):
        if stage == name:
            raise KeyboardInterrupt

    return before


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_goes_on_behind_its_last_finished_stage(bench, stage, tmp_path):
    whole = bench.out
    go(bench)
    bench.out = tmp_path / "again"
    bench.engine.before = interrupt_at(stage)
    with pytest.raises(KeyboardInterrupt):
        go(bench)
    assert not (bench.out / "run.json").exists()
    bench.engine.before = lambda name: None
    bench.engine.computed.clear()
    go(bench)
    assert bench.engine.computed == list(STAGES[STAGES.index(stage) :])
    assert depth_of(bench.out) == depth_of(whole)


def test_an_interruption_after_the_scene_was_written_only_makes_the_rest(bench):
    def interrupted(scene, path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(bench, products={"page.html": interrupted})
    bench.engine.computed.clear()
    go(bench)
    assert bench.engine.computed == []


def test_a_half_made_product_is_made_again(bench):
    def half(scene, path):
        path.mkdir()
        (path / "first.png").write_bytes(b"")
        raise KeyboardInterrupt

    def full(scene, path):
        path.mkdir()
        (path / "second.png").write_bytes(b"")

    with pytest.raises(KeyboardInterrupt):
        go(bench, products={"stills": half})
    go(bench, products={"stills": full})
    assert [p.name for p in (bench.out / "stills").iterdir()] == ["second.png"]


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(bench, tmp_path):
    whole = bench.out
    go(bench)
    bench.out = tmp_path / "killed"
    child = os.fork()
    if child == 0:
        bench.engine.before = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == "three" else None
        go(bench)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    bench.engine.computed.clear()
    go(bench)
    assert bench.engine.computed == ["three"]
    assert depth_of(bench.out) == depth_of(whole)


@pytest.mark.parametrize(
    "other",
    [
        {"reading": Reading(every=2)},
        {"known": Known(fov_deg=60.0)},
        {"known": Known(focal_px=20.0)},
    ],
)
def test_other_options_are_another_run_and_do_not_replace_a_finished_one(bench, other):
    go(bench)
    before = depth_of(bench.out)
    bench.request = Request(bench.source, **other)
    with pytest.raises(OutputError, match="result of another run"):
        go(bench)
    assert depth_of(bench.out) == before and go(bench, overwrite=True).found is False


def test_other_content_of_the_same_file_is_another_run(bench):
    go(bench)
    bench.source.write_bytes(b"other frames")
    with pytest.raises(OutputError, match="another run"):
        go(bench)


def test_an_interrupted_run_of_other_options_is_not_dropped_unasked(bench):
    bench.engine.before = interrupt_at("two")
    with pytest.raises(KeyboardInterrupt):
        go(bench)
    bench.request = Request(bench.source, known=Known(fov_deg=60.0))
    with pytest.raises(OutputError, match="interrupted run"):
        go(bench)


def test_an_interrupted_overwrite_keeps_the_old_result_and_goes_on(bench):
    go(bench)
    bench.request = Request(bench.source, known=Known(fov_deg=60.0))
    bench.engine.before = interrupt_at("three")
    with pytest.raises(KeyboardInterrupt):
        go(bench, overwrite=True)
    assert load(bench.out / "scene") and (bench.out / "run.json").exists()
    bench.engine.before = lambda name: None
    bench.engine.computed.clear()
    assert not go(bench, overwrite=True).found
    assert bench.engine.computed == ["three"]


def test_overwriting_a_finished_run_computes_everything_again(bench):
    go(bench, keep_stages=True)
    bench.engine.computed.clear()
    go(bench, overwrite=True)
    assert bench.engine.computed == list(STAGES)


def test_kept_stages_stay_and_the_run_is_still_found(bench):
    go(bench, keep_stages=True)
    assert len(list((bench.out / ".stages").glob("*.npz"))) == len(STAGES)
    assert go(bench).found


def test_foreign_files_are_never_touched(bench):
    bench.out.mkdir()
    (bench.out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        go(bench)
    assert [p.name for p in bench.out.iterdir()] == ["thesis.txt"]
    go(bench, overwrite=True)
    assert (bench.out / "thesis.txt").read_text() == "mine"


def test_an_output_below_a_file_is_refused_before_the_work(bench):
    bench.out = bench.source / "below"
    with pytest.raises(OutputError, match="cannot write|is a file"):
        go(bench)
    assert bench.engine.computed == []


def test_an_output_whose_name_is_too_long_is_refused(bench):
    bench.out = bench.out.with_name("x" * 300)
    with pytest.raises(OutputError, match="too long"):
        go(bench)


def test_an_output_that_is_a_file_is_refused(bench):
    bench.out = bench.source
    with pytest.raises(OutputError, match="is a file"):
        go(bench)


def test_an_output_inside_the_folder_of_images_does_not_change_the_run(bench, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 6)).save(folder / "0.png")
    bench.request, bench.out = Request(folder), folder / "out"
    go(bench)
    assert go(bench).found


def test_two_processes_do_not_write_one_folder(bench):
    def second(name):
        if name == "two":
            with pytest.raises(OutputError, match="another process"):
                go(bench)

    bench.engine.before = second
    go(bench)


@pytest.mark.parametrize("error", [InputError("no."), SolveFailed("no.")])
def test_a_failure_leaves_nothing_behind(bench, error):
    def fail(name):
        raise error

    bench.engine.before = fail
    bench.out = bench.out / "deep" / "er"
    with pytest.raises(type(error)):
        go(bench)
    assert not bench.out.parent.parent.exists()


def test_a_full_disk_keeps_the_stages(bench):
    def full(scene, path):
        raise OutputError("no space left.")

    with pytest.raises(OutputError):
        go(bench, products={"page.html": full})
    bench.engine.computed.clear()
    go(bench)
    assert bench.engine.computed == []


def test_a_disk_that_fills_up_anywhere_is_told_as_such(bench):
    def full(scene, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        go(bench, products={"page.html": full})


def test_the_default_output_is_named_after_the_link_not_its_target(tmp_path):
    (tmp_path / "holiday.mp4").symlink_to("holiday.mp4")
    assert default_output(tmp_path / "holiday.mp4") == Path("holiday_worldline")


def test_one_frame_is_refused_with_advice(bench, monkeypatch):
    monkeypatch.setattr(reconstruction, "read_video", lambda path, **options: clip(path, 1))
    with pytest.raises(InputError, match="at least two"):
        go(bench)
    assert not bench.out.exists()


def test_a_known_focal_length_is_meant_in_original_pixels(bench):
    bench.request = Request(bench.source, known=Known(focal_px=20.0))
    go(bench)
    prior = bench.engine.observed.camera
    assert prior.focal_sigma == 0 and np.allclose(prior.camera.intrinsics, [10, 10, 4, 3])


def test_a_known_field_of_view_does_not_depend_on_the_size(bench):
    bench.request = Request(bench.source, known=Known(fov_deg=70.0))
    go(bench)
    assert bench.engine.observed.camera.camera.fov_deg == pytest.approx(70.0)


@pytest.mark.parametrize(
    "wrong",
    [{"focal_px": -1.0}, {"focal_px": 1e-3}, {"focal_px": 1e6}, {"fov_deg": 200.0}, {"focal_px": 9.0, "fov_deg": 9.0}],
)
def test_impossible_cameras_are_refused(bench, wrong):
    bench.request = Request(bench.source, known=Known(**wrong))
    with pytest.raises(InputError):
        go(bench)
    assert not bench.out.exists()


def test_reconstruct_writes_no_files(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    scene = reconstruct(clip(bench.source, 3))
    assert len(scene) == 3 and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("frames", [2, 3])
def test_the_shortest_clips_give_a_scene(frames):
    """The real cues and engine, which look further ahead than there are frames."""
    video = render(tiny_world(0, frames=frames, width=160, height=112)).video
    scene = reconstruct(video)
    assert len(scene) == frames and np.isfinite(scene.world_from_cam).all()
    assert np.asarray(scene.valid[:]).any()
