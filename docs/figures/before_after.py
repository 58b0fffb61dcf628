"""Write docs/images/before-after.png from the samples of a run: base left, tuned right, equal places.

.venv/bin/python docs/figures/before_after.py runs/demo
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLUMNS, ROWS, SIDE, GAP, LABEL = 6, 4, 72, 4, 18


def main(run_folder: Path) -> None:
    """Take every nth pair of the index, so that the choice is not ours."""
    lines = (run_folder / "samples" / "index.jsonl").read_text(encoding="utf-8").splitlines()
    count = COLUMNS * ROWS
    rows = [json.loads(line) for line in lines[:: max(1, len(lines) // count)]][:count]
    block = COLUMNS * (SIDE + GAP) + 4 * GAP
    sheet = Image.new("RGB", (2 * block, LABEL + ROWS * (SIDE + GAP)), "white")
    drawn = ImageDraw.Draw(sheet)
    for left, side, name in ((0, "base", "before"), (block, "tuned", "after")):
        drawn.text((left + GAP, 3), name, fill="black")
        for number, row in enumerate(rows):
            place = (left + number % COLUMNS * (SIDE + GAP), LABEL + number // COLUMNS * (SIDE + GAP))
            with Image.open(run_folder / "samples" / row[side]) as image:
                sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
    out = Path(__file__).parents[1] / "images" / "before-after.png"
    sheet.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
