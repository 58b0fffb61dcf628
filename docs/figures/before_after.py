"""Write docs/images/before-after.png from the samples of a run: base above, tuned below, equal seeds.

.venv/bin/python docs/figures/before_after.py runs/demo
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLUMNS, SIDE, GAP, LABEL = 12, 64, 6, 52


def main(run_folder: Path) -> None:
    """Take every nth pair of the index, so that the choice is not ours."""
    lines = (run_folder / "samples" / "index.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:: max(1, len(lines) // (2 * COLUMNS))]][: 2 * COLUMNS]
    width, height = LABEL + COLUMNS * (SIDE + GAP), 4 * (SIDE + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, height), "white")
    drawn = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        x = LABEL + number % COLUMNS * (SIDE + GAP)
        top = number // COLUMNS * (2 * (SIDE + GAP) + 2 * GAP)
        for line, side in enumerate(("base", "tuned")):
            y = top + line * (SIDE + GAP)
            drawn.text((4, y + SIDE // 2 - 6), "before" if side == "base" else "after", fill="black")
            with Image.open(run_folder / "samples" / row[side]) as image:
                sheet.paste(image.resize((SIDE, SIDE)), (x, y))
    out = Path(__file__).parents[1] / "images" / "before-after.png"
    sheet.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
