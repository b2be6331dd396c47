"""The command line as its user meets it: one sentence and an exit code for what is wrong, JSON alone on stdout."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from worldline.cli import VERBS, main
from worldline.cli.progress import LiveBar, PlainLines
from worldline.cli.threads import settle_threads
from worldline.geometry.camera import Camera
from worldline.io.video_files import write_video
from worldline.run import reconstruction
from worldline.scene.scene import Scene
from worldline.scene.store import load, save
from worldline.scene.video import Video
from worldline.synthetic import render, tiny_world


def plain_scene(video: Video) -> Scene:
    """A flat wall two units away, and a camera that moves sideways."""
    shape = (len(video), video.height, video.width)
    poses = np.broadcast_to(np.eye(4), (len(video), 4, 4)).copy()
    poses[:, 0, 3] = np.linspace(0, 0.5, len(video))
    flags = np.ones(shape, bool)
    depth = np.full(shape, 2.0, np.float32)
    image = np.asarray(video.frames)
    camera = Camera.from_focal(float(video.width), video.width, video.height)
    health = {"trust": np.ones(len(video))}
    return Scene(
        video.times_s, camera, poses, depth, depth * 0.05, flags, np.zeros(shape, np.uint8), image, health=health
    )


@dataclass(frozen=True)
class Config:
    """No settings."""


@pytest.fixture
def wall(monkeypatch):
    """An engine that sees a wall in every video, in no time."""

    def solve(video, observed, journal):
        journal.run("wall", lambda: {"frames": np.array(len(video))})
        return plain_scene(video)

    solve.needs, solve.wants, solve.least_frames = (), lambda video: (), 2
    module = SimpleNamespace(Config=Config, build=lambda config: solve)
    monkeypatch.setattr(reconstruction, "engine_module", lambda name: module)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Eight frames of drifting noise, 64 x 48."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, np.stack([noise[:, t : t + 64] for t in range(8)]), 24.0)
    return path


def call(capsys, *args) -> SimpleNamespace:
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return SimpleNamespace(code=code, out=out, err=err)


def assert_refused(done: SimpleNamespace, out: Path) -> None:
    """One sentence on stderr, exit code 2, and nothing written."""
    sentences = [line for line in done.err.splitlines() if line.startswith("worldline: ")]
    assert done.code == 2 and len(sentences) == 1 and sentences[0].endswith("."), done.err
    assert "Traceback" not in done.err and done.out == ""
    assert not out.exists()


def test_help_lists_every_verb_with_one_line(capsys):
    done = call(capsys, "--help")
    assert done.code == 0
    assert all(any(line.strip().startswith(verb) for line in done.out.splitlines()) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_file_and_its_help(capsys, verb):
    done = call(capsys, verb, "--help")
    assert done.code == 0 and f"worldline {verb}" in done.out


def test_the_files_of_the_command_line_are_its_verbs():
    folder = Path(sys.modules["worldline.cli"].__file__).parent
    assert {p.stem for p in folder.glob("*.py") if "\ndef run(" in p.read_text()} == set(VERBS)


def test_help_is_instant():
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from worldline.cli import main; main(['--help'])"], check=True, capture_output=True
    )
    assert time.perf_counter() - start < 1.0  # about 0.05 s on a quiet machine


def test_an_unknown_verb_and_no_verb_are_told(capsys):
    assert call(capsys, "reconstrut").code == 2
    assert call(capsys).code == 2


def test_an_unknown_option_is_told(capsys):
    done = call(capsys, "reconstruct", "clip.mp4", "--fps", "3")
    assert done.code == 2 and "--fps" in done.err


def test_a_run_prints_where_its_results_are_and_the_second_says_it_is_done(capsys, wall, clip, tmp_path):
    out = tmp_path / "out"
    first = call(capsys, "reconstruct", clip, "-o", out)
    assert first.code == 0 and "page.html" in first.out, first.err
    assert {p.name for p in out.iterdir()} == {"scene", "page.html", "stills", "log.txt", "run.json"}
    again = call(capsys, "reconstruct", clip, "-o", out)
    assert again.code == 0 and "already done" in again.out


def test_with_json_stdout_is_one_document(capsys, wall, clip, tmp_path):
    done = call(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--json", "--max-frames", "4")
    assert done.code == 0 and json.loads(done.out)["scene"]["frames"] == 4


def test_quiet_says_nothing_on_stderr(capsys, wall, clip, tmp_path):
    assert call(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--quiet").err == ""


def test_two_frames_work(capsys, wall, clip, tmp_path):
    assert call(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--max-frames", 2).code == 0


def text(clip: Path, path: Path) -> Path:
    path.write_text("this is no video\n" * 50)
    return path


def empty(clip: Path, path: Path) -> Path:
    path.write_bytes(b"")
    return path


def no_images(clip: Path, path: Path) -> Path:
    path.with_suffix("").mkdir()
    return path.with_suffix("")


def sound_only(clip: Path, path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def one_frame(clip: Path, path: Path) -> Path:
    write_video(path, np.zeros((1, 48, 64, 3), np.uint8), 24.0)
    return path


def nothing(clip: Path, path: Path) -> Path:
    return path


@pytest.mark.parametrize("made", [nothing, text, empty, no_images, sound_only, one_frame], ids=lambda f: f.__name__)
def test_bad_input_is_one_sentence_and_leaves_nothing(capsys, wall, clip, tmp_path, made):
    done = call(capsys, "reconstruct", made(clip, tmp_path / "bad.mp4"), "-o", tmp_path / "out", "--quiet")
    assert_refused(done, tmp_path / "out")


def test_a_truncated_clip_gives_a_scene_of_what_is_left_and_says_so(capsys, wall, clip, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.8)])
    done = call(capsys, "reconstruct", cut, "-o", tmp_path / "out", "--quiet", "--json")
    record = json.loads(done.out)
    assert done.code == 0 and 2 <= record["scene"]["frames"] < 8
    assert any("of 8 frames could be decoded" in note for note in record["notes"])


def test_a_folder_with_one_image_is_told_that_motion_needs_two(capsys, wall, tmp_path):
    from PIL import Image

    folder = tmp_path / "one"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    done = call(capsys, "reconstruct", folder, "-o", tmp_path / "out", "--quiet")
    assert_refused(done, tmp_path / "out")
    assert "two" in done.err


@pytest.mark.parametrize("where", ["clip", "/proc/worldline_out", "/dev/full/out"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(capsys, wall, clip, monkeypatch, where):
    monkeypatch.setattr(reconstruction, "read_video", lambda *a, **k: pytest.fail("the work began"))
    out = clip / "below" if where == "clip" else Path(where)
    assert_refused(call(capsys, "reconstruct", clip, "-o", out, "--quiet"), out)


def test_an_existing_output_is_not_touched(capsys, wall, clip, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = call(capsys, "reconstruct", clip, "-o", tmp_path, "--quiet")
    assert done.code == 2 and "already holds" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interruption_says_how_to_go_on(capsys, wall, clip, tmp_path, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(reconstruction, "read_video", stopped)
    done = call(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--quiet")
    assert done.code == 130 and "same command again" in done.err


def test_a_bug_is_one_sentence_unless_debugging(capsys, wall, clip, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLDLINE_DEBUG", raising=False)
    monkeypatch.setattr(reconstruction, "read_video", lambda *a, **k: 1 / 0)
    done = call(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--quiet")
    assert done.code == 1 and "report" in done.err and "Traceback" not in done.err
    monkeypatch.setenv("WORLDLINE_DEBUG", "1")
    assert "Traceback" in call(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--quiet").err


@pytest.fixture
def scene_folder(tmp_path) -> Path:
    rng = np.random.default_rng(1)
    video = Video(rng.integers(0, 255, (5, 24, 32, 3), np.uint8), np.arange(5) / 10)
    return save(plain_scene(video), tmp_path / "scene")


def test_a_scene_evaluated_against_itself_has_no_error(capsys, scene_folder):
    done = call(capsys, "evaluate", scene_folder, scene_folder, "--json")
    assert done.code == 0 and json.loads(done.out)["metrics"]["ate_m"] == pytest.approx(0, abs=1e-9)


def test_a_path_in_tum_format_is_a_truth(capsys, scene_folder, tmp_path):
    assert call(capsys, "export", scene_folder, tmp_path / "path.txt").code == 0
    done = call(capsys, "evaluate", scene_folder, tmp_path / "path.txt", "--json")
    assert done.code == 0 and json.loads(done.out)["metrics"]["ate_m"] == pytest.approx(0, abs=1e-5)


def test_page_writes_one_file(capsys, scene_folder, tmp_path):
    done = call(capsys, "page", scene_folder, tmp_path / "scene.html")
    assert done.code == 0 and (tmp_path / "scene.html").stat().st_size > 1000
    assert call(capsys, "page", scene_folder, tmp_path / "scene.html").code == 2


@pytest.mark.parametrize("verb", ["evaluate", "page", "export"])
def test_verbs_on_something_that_is_no_scene_say_so(capsys, tmp_path, verb):
    (tmp_path / "folder").mkdir()
    done = call(capsys, verb, tmp_path / "folder", tmp_path / "out.ply")
    assert done.code == 2 and "Traceback" not in done.err


def test_view_without_a_scene_says_so(capsys):
    assert call(capsys, "view").code == 2


def test_doctor_says_what_will_run(capsys):
    done = call(capsys, "doctor", "--json")
    facts = json.loads(done.out)
    assert done.code == 0 and "uni4d" in facts["engines"] and facts["packages"]["torch"] != "missing"
    assert "ready" in call(capsys, "doctor").out


def test_threads_are_settled_only_where_the_user_did_not():
    small: dict[str, str] = {}
    settle_threads(small, cores=2)
    assert small == {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    large: dict[str, str] = {}
    settle_threads(large, cores=64)
    assert large["OMP_NUM_THREADS"] == "8"
    own = {"OMP_NUM_THREADS": "3"}
    settle_threads(own, cores=64)
    assert own == {"OMP_NUM_THREADS": "3"}


def test_lines_of_a_long_stage_say_how_long_it_will_take(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("worldline.cli.progress.time.monotonic", lambda: float(next(clock)))
    lines = PlainLines(sys.stderr)
    lines.stage("solve")
    lines.share(0.5)
    assert "50%, about" in capsys.readouterr().err


def test_on_a_terminal_finished_stages_stay_with_their_time():
    screen = io.StringIO()
    with Bars(console=Console(file=screen, force_terminal=True), transient=True) as bars:
        live = LiveBar(bars)
        live.stage("read")
        live.share(0.5)
        live.note("two frames were lost.")
        live.stage("solve")
        live.close()
    assert all(text in screen.getvalue() for text in ("read", "solve", " s", "two frames were lost."))


def test_the_result_of_a_run_is_a_scene(capsys, wall, clip, tmp_path):
    call(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--quiet")
    assert load(tmp_path / "out").history[0].name == "read"
    assert os.path.getsize(tmp_path / "out" / "page.html") > 1000


@pytest.mark.slow
def test_the_real_pipeline_killed_in_the_middle_ends_with_the_same_bits(tmp_path):
    """End to end, from pixels alone, through the installed command."""
    clip = write_video(
        tmp_path / "world.mp4", render(tiny_world(0, frames=10, width=128, height=96)).video.frames, 10.0
    )
    command = [
        sys.executable,
        "-c",
        "import sys; from worldline.cli import main; sys.exit(main())",
        "reconstruct",
        clip,
    ]
    subprocess.run([*command, "-o", tmp_path / "whole"], check=True, capture_output=True)
    with subprocess.Popen([*command, "-o", tmp_path / "cut"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("moving/rigid" in line for line in process.stderr)
        process.kill()
    assert not (tmp_path / "cut" / "run.json").exists()
    subprocess.run([*command, "-o", tmp_path / "cut"], check=True, capture_output=True)
    whole, cut = load(tmp_path / "whole"), load(tmp_path / "cut")
    for name in ("world_from_cam", "depth_z", "depth_sigma", "valid", "moving"):
        assert np.array_equal(getattr(whole, name)[:], getattr(cut, name)[:]), name
    assert whole.tracks is None or np.array_equal(whole.tracks.points_world, cut.tracks.points_world, equal_nan=True)
    assert np.array_equal(whole.camera.intrinsics, cut.camera.intrinsics)


def test_freed_memory_is_kept_where_the_c_library_can_do_it():
    code = "from worldline.cli.memory import keep_freed_memory; print(keep_freed_memory())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == str(sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc")


def test_a_reader_that_has_seen_enough_is_no_bug():
    read_end, write_end = os.pipe()
    os.close(read_end)
    code = "from worldline.cli import main; raise SystemExit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["reconstruct"], "INPUT is missing"),
        (["compare"], "A and B are missing"),
        (["reconstruct", "clip", "--focal", "abc"], "--focal cannot be 'abc'"),
        (["reconstruct", "clip", "--every", "x"], "--every cannot be 'x'"),
        (["reconstruct", "clip", "--focl", "300"], "perhaps --focal was meant"),
        (["reconstruct", "clip", "other"], "other is not understood"),
        (["reconstruct", "clip", "--focal"], "missing value for argument '--focal'"),
    ],
)
def test_options_that_cannot_be_understood_are_one_sentence(words, sentence, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1
    assert said.err.startswith("worldline: ") and sentence in said.err
    assert said.err.endswith(f"; see worldline {words[0]} --help.\n")
