"""Draws the pictures of docs/findings.md anew, from what the jobs of remeasure.sh left in a folder.

    python benchmarks/pictures.py WORK

Pictures whose job has not run stay as they are. They must be looked at, and what the text says of them read again.
"""

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tav_core.world.draw import SIZE
from tav_core.world.protocol import clips_to_choose_by, clips_to_report

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH, NARROW, TITLE = 1492, 994, 22
QUALITY = 85

# Clips of the report that are shown, by the names of their plans, each with these variants beside each other.
PLANS = ("arc", "leave", "approach", "circle", "behind", "two", "walk-past")
VARIANTS = {"full": "Tune-A-Video", "keep-all": "structure, layout and all outside of the true mask kept"}
# One of them, by the original and by ours.
COMPARED = "walk"
# One of those for choosing settings, with two settings of keeping.py.
CHOOSING = "line"
SETTINGS = {"plain": "Tune-A-Video", "structure 0.8, layout 0.4, mask true": VARIANTS["keep-all"]}
# Sheets of known_frames.py, and the rows of each: what is known, what is true, what goes on, and what ours makes of it.
CONTINUED = ("arc.back", "walk.on")
ROWS = (0, 1, 4, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK")
    work = parser.parse_args().work
    for clip in clips_to_report():
        if clip.plan.name in PLANS:
            sheets = {work / "eval" / ".eval" / f"{clip.name}.{name}.png": title for name, title in VARIANTS.items()}
            draw(f"findings/{clip.plan.name}.jpg", side_by_side, sheets)
    (clip,) = (clip for clip in clips_to_choose_by() if clip.plan.name == CHOOSING)
    sheets = {work / "keeping" / f"{clip.name}.{name}.png": title for name, title in SETTINGS.items()}
    draw("kept.jpg", side_by_side, sheets)
    draw("findings/onwards.jpg", continued, [work / f"onwards.{name}.png" for name in CONTINUED])
    draw("findings/sibling.jpg", scaled, [work / "sibling" / "edits" / "sheet.png"])
    (clip,) = (clip for clip in clips_to_report() if clip.plan.name == COMPARED)
    draw("findings/original.jpg", scaled, [work / "original" / f"{clip.name}.png"])


def draw(name: str, picture: Callable[[Collection[Path]], Image.Image], sheets: Collection[Path]) -> None:
    """Makes a picture of docs/ from some sheets, if all are there."""
    if all(sheet.exists() for sheet in sheets):
        picture(sheets).save(DOCS / name, quality=QUALITY)
        print(name)


def side_by_side(sheets: Mapping[Path, str]) -> Image.Image:
    """Contact sheets of a clip, each under its title."""
    parts, width = [], WIDTH // len(sheets)
    for path, title in sheets.items():
        sheet = Image.open(path)
        sheet = sheet.resize((width, round(sheet.height * width / sheet.width)), Image.Resampling.LANCZOS)
        part = Image.new("RGB", (width, sheet.height + TITLE), "white")
        part.paste(sheet, (0, TITLE))
        ImageDraw.Draw(part).text((14, 7), title, fill=(140, 0, 0), font=ImageFont.load_default(16))
        parts.append(part)
    picture = Image.new("RGB", (WIDTH, max(part.height for part in parts)), "white")
    for number, part in enumerate(parts):
        picture.paste(part, (number * width, 0))
    return picture


def continued(sheets: Iterable[Path]) -> Image.Image:
    """Some rows of each sheet, below each other."""
    pictures = [np.asarray(Image.open(sheet)) for sheet in sheets]
    return Image.fromarray(np.concatenate([each[row * SIZE : (row + 1) * SIZE] for each in pictures for row in ROWS]))


def scaled(sheets: Iterable[Path]) -> Image.Image:
    (sheet,) = sheets
    picture = Image.open(sheet).convert("RGB")
    return picture.resize((NARROW, round(picture.height * NARROW / picture.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
