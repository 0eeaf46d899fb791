"""Draws the pictures of docs/findings.md anew, from what the jobs of remeasure.sh left in a folder.

    python benchmarks/pictures.py WORK

Pictures whose job has not run stay as they are. They must be looked at, and what the text says of them read again.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tav_core.world.draw import SIZE
from tav_core.world.protocol import clips_to_choose_by, clips_to_report

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH, TITLE = 1492, 22
QUALITY = 85

# Clips of the report that are shown, by the names of their plans, each with these variants beside each other.
PLANS = ("arc", "leave", "approach", "circle", "behind", "two", "walk-past")
VARIANTS = {"full": "Tune-A-Video", "keep-all": "structure, layout and all outside of the true mask kept"}
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
    if (sheets := work / "eval" / ".eval").exists():
        for clip in clips_to_report():
            if clip.plan.name in PLANS:
                save(side_by_side(sheets, clip.name, VARIANTS), DOCS / "findings" / f"{clip.plan.name}.jpg")
    if (sheets := work / "keeping").exists():
        (clip,) = (clip for clip in clips_to_choose_by() if clip.plan.name == CHOOSING)
        save(side_by_side(sheets, clip.name, SETTINGS), DOCS / "kept.jpg")
    sheets = [work / f"onwards.{name}.png" for name in CONTINUED]
    if all(sheet.exists() for sheet in sheets):
        save(continued(sheets), DOCS / "findings" / "onwards.jpg")
    if (sheet := work / "sibling" / "edits" / "sheet.png").exists():
        save(Image.open(sheet).convert("RGB"), DOCS / "findings" / "sibling.jpg")


def side_by_side(sheets: Path, clip: str, shown: Mapping[str, str]) -> Image.Image:
    """A clip's contact sheets of some variants, each under its title. shown: variants -> titles."""
    parts, width = [], WIDTH // len(shown)
    for variant, title in shown.items():
        sheet = Image.open(sheets / f"{clip}.{variant}.png")
        sheet = sheet.resize((width, round(sheet.height * width / sheet.width)), Image.Resampling.LANCZOS)
        part = Image.new("RGB", (width, sheet.height + TITLE), "white")
        part.paste(sheet, (0, TITLE))
        ImageDraw.Draw(part).text((14, 7), title, fill=(140, 0, 0), font=ImageFont.load_default(16))
        parts.append(part)
    picture = Image.new("RGB", (WIDTH, max(part.height for part in parts)), "white")
    for number, part in enumerate(parts):
        picture.paste(part, (number * width, 0))
    return picture


def continued(sheets: list[Path]) -> Image.Image:
    """Some rows of each sheet, below each other."""
    pictures = [np.asarray(Image.open(sheet)) for sheet in sheets]
    return Image.fromarray(np.concatenate([each[row * SIZE : (row + 1) * SIZE] for each in pictures for row in ROWS]))


def save(picture: Image.Image, path: Path) -> None:
    picture.save(path, quality=QUALITY)
    print(path)


if __name__ == "__main__":
    main()
