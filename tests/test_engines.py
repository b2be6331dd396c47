"""What every engine promises, tested on whatever engines are found."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

import worldline as wl
from worldline.engines import engine_module
from worldline.errors import InputError
from worldline.scene.journal import Journal
from worldline.scene.observations import Observations
from worldline.synthetic.noise import NoiseModel, observations
from worldline.synthetic.presets import tiny_world
from worldline.synthetic.rendering import Quality, render

ENGINES = wl.engines()
FOLDERS = Path(__file__).parents[1] / "src" / "worldline" / "engines"


@pytest.fixture(scope="module")
def rendered():
    return render(tiny_world(4, frames=6), Quality())


@pytest.mark.parametrize("name", ENGINES)
def test_settings_are_frozen_and_have_a_small_form_for_tests(name):
    config = engine_module(name).Config
    assert is_dataclass(config) and config.__dataclass_params__.frozen
    assert isinstance(config.tiny(), config) and hash(config.tiny()) is not None


@pytest.mark.parametrize("name", ENGINES)
def test_it_names_what_it_needs(name, rendered):
    engine = engine_module(name).build(engine_module(name).Config.tiny())
    known = {f.name for f in fields(Observations)}
    assert set(engine.needs) <= known and set(engine.wants(rendered.video)) <= known
    assert engine.least_frames >= 1


@pytest.mark.parametrize("name", ENGINES)
def test_a_video_and_what_it_needs_become_a_scene_with_a_history(name, rendered):
    module = engine_module(name)
    engine = module.build(module.Config.tiny())
    scene = engine(rendered.video, observations(rendered, NoiseModel.realistic()), Journal(name))
    assert len(scene) == 6 and scene.valid[:].any() and np.isfinite(scene.depth_z[:][scene.valid[:]]).all()
    assert scene.history and "trust" in scene.health and scene.health["trust"].shape == (6,)
    corner = scene.original_from_stored @ [scene.width, scene.height, 1]
    assert (corner[:2] <= np.array(scene.original_size) + 1e-6).all()


@pytest.mark.parametrize("name", ENGINES)
def test_its_folder_has_a_page_that_says_what_each_file_is(name):
    page = (FOLDERS / name / "README.md").read_text()
    files = {p.name for p in (FOLDERS / name).glob("*.py")} - {"__init__.py"}
    assert not {f for f in files if f not in page}


def test_an_engine_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(InputError, match=", ".join(ENGINES)):
        engine_module("nerf")
