"""The gallery: every clip of a folder reconstructed, and one page with its stills and its line of docs/gallery.md.

    python benchmarks/gallery.py DATA -o OUT [--only camel dog] [--max-frames 12] [--best | --fast]

A clip is a video in DATA or in DATA/videos, or a folder of images DATA/NAME or DATA/NAME/rgb. OUT/NAME is an output
folder of `worldline reconstruct`, so that an interrupted gallery goes on where it was; OUT/index.html shows them all.
Without --only, the clips are those of the table in docs/gallery.md.
"""

from __future__ import annotations

import argparse
import html
import re
from pathlib import Path
from typing import Any

from worldline.cli.progress import shown
from worldline.cli.reconstruct import PRODUCTS, quality_of
from worldline.errors import WorldlineError
from worldline.io.image_folders import SUFFIXES as IMAGES
from worldline.run import Reading, Request, reconstruct_into
from worldline.scene.atomic import write_whole

LINES = Path(__file__).resolve().parents[1] / "docs" / "gallery.md"
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi"}
STILLS = ("camera.png", "overview.png", "sheet.png")
_ROW = re.compile(r"^\| *`([^`]+)` *\|(.*)\|$", re.M)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
section { margin: 3rem 0; } h2 { margin: 0; } img { max-width: 100%; max-height: 22rem; margin: .3rem .3rem 0 0; }
p { margin: .3rem 0; } .fact { color: #666; }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the clips")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the results and of index.html")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only clips with one of these names")
    parser.add_argument("--max-frames", type=int, help="use at most so many frames of each clip")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--best", action="store_true")
    args = parser.parse_args()
    found, said = clips(args.data), lines(LINES.read_text())
    chosen = {name: path for name, path in found.items() if name in (args.only or said)}
    if not chosen:
        parser.error(f"none of these clips is in {args.data}; it has {', '.join(found) or 'none'}")
    reading, quality = Reading(max_frames=args.max_frames), quality_of(args.fast, args.best)
    records = {
        name: made(args.out / name, Request(path, quality=quality, reading=reading)) for name, path in chosen.items()
    }
    write_whole(args.out / "index.html", page(records, said), overwrite=True)
    print(f"wrote {args.out / 'index.html'}")


def clips(data: Path) -> dict[str, Path]:
    """Name -> video file or folder of images, in order of their names."""
    found = {}
    for path in sorted([*data.iterdir(), *data.glob("videos/*")]):
        images = next((folder for folder in (path / "rgb", path) if _holds_images(folder)), None)
        if path.suffix.lower() in VIDEOS or images is not None:
            found[path.stem.removeprefix("davis_")] = images or path
    return found


def made(out: Path, request: Request) -> dict[str, Any]:
    """The record of a run, or the sentence that says why there is none."""
    try:
        with shown(quiet=False) as progress:
            progress.note(f"{out.name}: {request.source}")
            return dict(reconstruct_into(out, request, products=PRODUCTS, progress=progress).record)
    except WorldlineError as error:
        return {"refused": str(error)}


def lines(text: str) -> dict[str, str]:
    """Clip -> its line, of the table in docs/gallery.md: the last column."""
    return {name: cells.split("|")[-1].strip() for name, cells in _ROW.findall(text)}


def page(records: dict[str, dict[str, Any]], said: dict[str, str]) -> str:
    """One page: each clip with its line, figures, notes and stills, which lie beside it."""
    parts = [section(name, record, said.get(name, "")) for name, record in records.items()]
    head = f"<!doctype html><meta charset='utf-8'><title>worldline: gallery</title><style>{_STYLE}</style>"
    return head + "<h1>Gallery</h1>" + "\n".join(parts)


def section(name: str, record: dict[str, Any], line: str) -> str:
    title = f"<h2>{html.escape(name)}</h2><p>{html.escape(line)}</p>"
    if "refused" in record:
        return f"<section>{title}<p class='fact'>refused: {html.escape(record['refused'])}</p></section>"
    scene = record["scene"]
    facts = (
        f"{scene['frames']} frames of {scene['size'][0]}x{scene['size'][1]}, {record['wall_s']:.0f} s, "
        f"field of view {scene['fov_deg']:.0f} degrees, "
        f"{scene['static_points']} static points, {scene['moving_tracks']} moving tracks"
    )
    notes = "".join(f"<p class='fact'>note: {html.escape(note)}</p>" for note in record["notes"])
    stills = "".join(f"<img src='{html.escape(name)}/stills/{still}' alt='{still}'>" for still in STILLS)
    look = f"<p><a href='{html.escape(name)}/page.html'>open the scene</a></p>"
    return f"<section>{title}<p class='fact'>{facts}</p>{notes}{look}{stills}</section>"


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(p.suffix.lower() in IMAGES for p in folder.iterdir())


if __name__ == "__main__":
    main()
