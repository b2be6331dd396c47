"""The command line: one file per verb, loaded when it is used; the one place where errors become sentences."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper

from worldline import __version__
from worldline.cli.memory import keep_freed_memory
from worldline.cli.threads import settle_threads
from worldline.errors import WorldlineError

VERBS = {
    "reconstruct": "a video (or a folder of images) in, a 4D scene with a page and stills out",
    "refine": "make a finished scene better: by its images, or by a lens, poses, depth, masks, a length",
    "compare": "how two scenes of the same clip differ, and in which frames",
    "evaluate": "compare a scene with the truth: cameras, depth, masks, tracks",
    "bench": "methods side by side, from the reports that evaluate wrote",
    "page": "write a scene as one HTML file that opens anywhere",
    "view": "look at scenes in the browser while this command runs",
    "export": "write a scene in another format: .ply .txt (TUM) .npz, 16-bit depth, COLMAP",
    "inspect": "what a log, a video or a folder holds, and which topics of a log will be used",
    "weights": "weights of networks on this machine: list, add, fetch, check, remove",
    "train": "train a network on rendered worlds with simulated sensors",
    "doctor": "what this machine has and what will run on it",
    "demo": "render a small world, reconstruct it from its pixels, and show the errors",
}

_USAGE = """usage: worldline VERB ... | worldline VERB --help | worldline --version

Camera path, depth, moving masks and 3D tracks from a video of a moving world.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0: done, 1: a bug in worldline, 2: the user can mend it, 130: interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):  # a file name may hold what the terminal's encoding has no sign for
        sys.stdout.reconfigure(errors="backslashreplace")
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE + "\n" + "\n".join(f"  {verb:<13}{line}" for verb, line in VERBS.items()))
        return 0 if args else 2
    if args[0] == "--version":
        print(f"worldline {__version__}")
        return 0
    return _guarded(lambda: _run_verb(args[0], args[1:]))


def _run_verb(verb: str, args: list[str]) -> int:
    if verb not in VERBS:
        return _fail(f"there is no verb {verb!r}; choose one of {', '.join(VERBS)}.")
    settle_threads(os.environ)
    keep_freed_memory()
    from worldline.cli.options import understood

    work = understood(import_module(f"worldline.cli.{verb}").run, verb, args)
    work()
    sys.stdout.flush()
    return 0


def _guarded(work: Callable[[], int]) -> int:
    try:
        return work()
    except WorldlineError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        warnings.simplefilter("ignore")  # what was cut off (zarr's reads) would complain at exit
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("the memory ran out; use fewer or smaller frames (--max-frames, --max-side).")
    except SystemExit as stop:  # the argument parser has already said what was wrong
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:  # noqa: BLE001 - the border: whatever is left is our bug and is told as one sentence
        if os.environ.get("WORLDLINE_DEBUG"):
            traceback.print_exc()
        what = " ".join(str(error).split())[:200]
        _fail(
            f"this is a bug in worldline ({type(error).__name__}: {what}); please report it with the output of "
            "the same command under WORLDLINE_DEBUG=1."
        )
        return 1


def _fail(sentence: str) -> int:
    print(f"worldline: {sentence}", file=sys.stderr)
    return 2
