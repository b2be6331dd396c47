"""The registry of cues, what `observe` fills and in which order, and the camera that a file knows."""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass

import numpy as np
import pytest

from worldline import cues
from worldline.cues import KINDS, NEEDED, auto, cue_models, cue_module, observe
from worldline.cues.camera import exif
from worldline.errors import InputError, MissingObservation
from worldline.geometry.camera import Camera
from worldline.scene.journal import Journal
from worldline.scene.observations import (
    CameraMotion,
    CameraPrior,
    DepthMaps,
    MovingMasks,
    Observations,
    PixelTracks,
    Source,
)
from worldline.scene.video import Video

FRAMES, HEIGHT, WIDTH = 3, 20, 30


def clip(**facts: float) -> Video:
    return Video(np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8), np.arange(float(FRAMES)), facts=dict(facts))


def camera_item(name: str = "fake", *notes: str) -> CameraPrior:
    return CameraPrior(Camera.from_focal(50.0, WIDTH, HEIGHT), 0.1, Source(name, notes=notes))


def item(kind: str, name: str = "fake", *notes: str):
    maps, source = np.ones((FRAMES, HEIGHT, WIDTH), np.float32), Source(name, notes=notes)
    if kind == "tracks":
        seen = np.ones((FRAMES, 4), bool)
        return PixelTracks(np.zeros((FRAMES, 4, 2)), seen, seen.astype(np.float32), np.zeros(4, int), source)
    if kind == "moving":
        return MovingMasks(np.zeros(maps.shape, np.uint8), source)
    return DepthMaps(maps, maps, source) if kind == "depth" else camera_item(name, *notes)


@dataclass
class Fake:
    """A cue that writes down when it was called and what it saw."""

    kind: str
    needs: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)
    makes: object = None
    saw: Observations | None = None

    def __call__(self, video: Video, observed: Observations, journal: Journal):
        self.calls.append(self.kind)
        self.saw = observed
        return self.makes or item(self.kind)


def fakes(**needs: tuple[str, ...]) -> tuple[dict[str, Fake], list[str]]:
    calls: list[str] = []
    return {k: Fake(k, needs.get(k, ()), calls) for k in KINDS}, calls


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in cue_models(k)])
def test_every_cue_has_settings_and_builds_something_that_says_what_it_needs(kind, name):
    module = cue_module(kind, name)
    config = module.Config()
    assert is_dataclass(config)
    assert config.__dataclass_params__.frozen
    cue = module.build(config)
    assert callable(cue)
    assert set(cue.needs) <= {*KINDS, "camera_motion"}


def test_the_folders_are_the_registration():
    assert "exif" in cue_models("camera")
    assert "flow" in cue_models("tracks")
    assert all(not name.startswith("_") for kind in KINDS for name in cue_models(kind))


def test_installed_packages_add_cues(monkeypatch):
    class Point:
        name = "depth/foreign"

        @staticmethod
        def load():
            return "its module"

    monkeypatch.setattr(cues, "entry_points", lambda group: [Point] if group == "worldline.cues" else [])
    assert "foreign" in cue_models("depth")
    assert "foreign" not in cue_models("tracks")
    assert cue_module("depth", "foreign") == "its module"


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: cue_models("sound"), "no kind of cue 'sound'"),
        (lambda: cue_module("depth", "nonsense"), "no depth cue 'nonsense'"),
        (lambda: observe(clip(), needs=("sound",)), "no observation 'sound'"),
        (lambda: observe(clip(), needs=("depth",), depth="nonsense"), "no depth cue 'nonsense'"),
        (lambda: observe(clip(), needs=("depth",), depth=3), "is no depth cue"),
    ],
)
def test_unknown_names_are_refused_with_the_names_there_are(ask, said):
    with pytest.raises(InputError, match=said):
        ask()


def test_needs_come_first_and_each_cue_runs_once():
    chosen, calls = fakes(depth=("moving", "camera"), moving=("tracks", "camera"), camera=("tracks",))
    observed = observe(clip(), **chosen)
    observed.require(NEEDED)
    assert calls == ["tracks", "camera", "moving", "depth"]
    assert chosen["depth"].saw.moving is observed.moving


def test_only_what_is_needed_is_made():
    chosen, calls = fakes(camera=("tracks",))
    observed = observe(clip(), needs=("camera",), **chosen)
    assert calls == ["tracks", "camera"]
    assert observed.depth is None


def test_given_items_are_kept_and_spare_their_cue():
    chosen, calls = fakes(moving=("tracks", "camera"))
    given = Observations(camera=camera_item("user"), notes=("a note of the user",))
    observed = observe(clip(), needs=("moving",), given=given, **chosen)
    assert observed.camera is given.camera
    assert observed.notes[0] == "a note of the user"
    assert calls == ["tracks", "moving"]


def test_a_cue_may_make_several_items_but_replaces_none():
    chosen, calls = fakes()
    motion = CameraMotion(np.tile(np.eye(4), (FRAMES, 1, 1)), np.ones(FRAMES, bool), 0.1, 0.01, Source("both"))
    chosen["camera"].makes = Observations(
        camera=camera_item("both"), camera_motion=motion, tracks=item("tracks", "both")
    )
    given = Observations(tracks=item("tracks", "user"))
    observed = observe(clip(), needs=("camera", "camera_motion"), given=given, **chosen)
    assert observed.camera_motion is motion
    assert observed.tracks.source.name == "user"
    assert calls == ["camera"]


def test_a_cue_that_makes_something_else_is_reported():
    chosen, _ = fakes()
    chosen["depth"].makes = item("moving")
    with pytest.raises(MissingObservation, match="the depth cue made no depth"):
        observe(clip(), needs=("depth",), **chosen)


def test_notes_of_sources_are_told_once():
    chosen, _ = fakes()
    chosen["camera"].makes = camera_item("guess", "assumed this.", "assumed that.")
    chosen["depth"].makes = item("depth", "guess", "assumed this.")
    assert observe(clip(), needs=("camera", "depth"), **chosen).notes == ("assumed this.", "assumed that.")


def test_cues_that_need_each_other_are_refused():
    chosen, _ = fakes(camera=("tracks",), tracks=("camera",))
    with pytest.raises(InputError, match="need each other"):
        observe(clip(), needs=("camera",), **chosen)


def test_a_camera_motion_that_nothing_makes_is_reported():
    with pytest.raises(MissingObservation, match="camera motion is needed"):
        observe(clip(), needs=("camera_motion",))


def test_the_automatic_camera_is_the_recorded_one_where_there_is_one():
    assert auto("camera", clip(focal_px=40.0)) == "exif"
    assert auto("camera", clip()) == "selfcal"


def test_a_recorded_focal_length_is_trusted_to_some_per_cent():
    camera = observe(clip(focal_px=40.0), needs=("camera",)).camera
    assert camera.camera.focal == 40.0
    assert camera.focal_sigma == exif.Config().recorded_sigma
    np.testing.assert_allclose(camera.camera.at(0)[2:], [WIDTH / 2, HEIGHT / 2])


def test_a_certain_focal_length_stays_fixed():
    assert observe(clip(focal_px=40.0, focal_sigma=0.0), needs=("camera",)).camera.focal_sigma == 0.0


def test_a_config_is_as_good_as_a_name():
    config = exif.Config(recorded_sigma=0.2)
    assert observe(clip(focal_px=40.0), needs=("camera",), camera=config).camera.focal_sigma == 0.2


def test_without_a_recorded_focal_length_the_view_is_assumed_and_said():
    observed = observe(clip(), needs=("camera",), camera="exif")
    assert observed.camera.camera.fov_deg == pytest.approx(60.0)
    assert observed.camera.focal_sigma >= 0.2
    assert any("no focal length is recorded" in note for note in observed.notes)


def test_an_upright_clip_has_the_typical_view_along_its_height():
    tall = Video(np.zeros((2, 40, 20, 3), np.uint8), np.arange(2.0))
    wide = Video(np.zeros((2, 20, 40, 3), np.uint8), np.arange(2.0))
    focal = [observe(v, needs=("camera",), camera="exif").camera.camera.focal for v in (tall, wide)]
    assert focal[0] == pytest.approx(focal[1])


@pytest.mark.parametrize("focal", [0.0, -5.0, float("inf"), float("nan")])
def test_an_impossible_focal_length_is_refused(focal):
    with pytest.raises(InputError, match="impossible"):
        observe(clip(focal_px=focal), needs=("camera",), camera="exif")


def masks_known_in(known: list[bool]) -> MovingMasks:
    return MovingMasks(np.ones((FRAMES, HEIGHT, WIDTH), np.uint8), Source("a folder"), known=np.array(known))


def test_a_partly_given_item_is_handed_to_the_cue_that_completes_it():
    chosen, _ = fakes()
    given = Observations(moving=masks_known_in([True, False, True]))
    seen = observe(clip(), needs=("moving",), given=given, **chosen)
    assert chosen["moving"].saw is not None
    assert chosen["moving"].saw.moving is given.moving
    assert seen.moving is not given.moving


def test_a_wholly_given_item_is_kept():
    chosen, calls = fakes()
    given = Observations(moving=masks_known_in([True, True, True]))
    assert observe(clip(), needs=("moving",), given=given, **chosen).moving is given.moving
    assert not calls


def test_depth_with_holes_is_partial_and_whole_depth_is_not():
    maps = np.ones((FRAMES, 10, 10), np.float32)
    assert not DepthMaps(maps, maps, Source("sensor")).partial
    holed = maps.copy()
    holed[1, :2] = 0
    assert DepthMaps(holed, maps, Source("sensor")).partial


def test_a_quality_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="no quality 'superb'"):
        observe(clip(), quality="superb")


@pytest.mark.parametrize("quality", cues.QUALITIES)
def test_cues_of_one_quality_share_flow_and_structure(quality):
    chosen = [cues.with_quality(cue_module(kind, cues.AUTO[kind]).Config, quality) for kind in KINDS]
    for name in ("flow", "structure"):
        settings = [getattr(config, name) for config in chosen if hasattr(config, name)]
        assert len(settings) >= 3
        assert all(one == settings[0] for one in settings)
