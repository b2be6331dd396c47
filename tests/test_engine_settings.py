"""Settings of an engine as texts: names and kinds are those of its Config, and what is wrong is one sentence."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from worldline.engines.any4d import Config
from worldline.errors import InputError
from worldline.run.engine_settings import adjusted, files_named


@dataclass(frozen=True)
class Inner:
    depth: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int = 3
    on: bool = True
    name: str | None = "a"
    pair: tuple[int, int] = (1, 2)
    many: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)


def test_values_become_what_the_field_is():
    made = adjusted(Outer(), ["count=7", "on=no", "name=none", "pair=3x4", "many=1,2,3", "inner.depth=0.25"])
    assert made == Outer(7, False, None, (3, 4), (1, 2, 3), Inner(0.25))


def test_settings_of_settings_can_be_chosen_by_the_name_of_their_maker():
    assert adjusted(Config(), ["network=tiny"]).network == Config.tiny().network
    with pytest.raises(InputError, match="network cannot be 'huge'"):
        adjusted(Config(), ["network=huge"])


def test_the_engines_own_settings_can_be_set():
    made = adjusted(Config.tiny(), ["window=24", "size=112x84", "edges=none", "weights=some.safetensors"])
    assert (made.window, made.size, made.edges, made.weights) == (24, (112, 84), None, "some.safetensors")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("window", "write NAME=VALUE"),
        ("windo=3", "there is no setting 'windo'; choose one of count"),
        ("count=many", "count cannot be 'many'; it is int"),
        ("pair=1", "pair cannot be '1'"),
        ("on=perhaps", "on cannot be 'perhaps'"),
        ("inner.width=3", "no setting 'inner.width'"),
        ("count.more=1", "no setting 'count.more'"),
    ],
)
def test_what_cannot_be_set_is_told_in_one_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence):
        adjusted(Outer(), [text])


def test_files_among_the_values_are_part_of_a_run(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"w")
    assert files_named(["window=3", f"weights={weights}"]) == [weights]
