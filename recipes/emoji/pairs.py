"""The preference pairs that ship: the Fluent 3D drawing preferred to the flat one of the same name.

Pick-a-Pic's columns and what a reader needs to attribute each picture. The caption has no style word.
"""

import argparse
import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from images import load_images
from PIL import Image
from sources import LICENSES, SOURCES, STYLES, load
from torch import Tensor

SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
    ]
    + [(f"{column}_{side}", pa.string()) for column in ("style", "source", "license") for side in (0, 1)]
    + [("name", pa.string()), ("category", pa.string()), ("split", pa.string())]
)


def encoded(image: Tensor) -> bytes:
    """A uint8 [3, H, W] picture as PNG bytes (loss-free; the column is called jpg as in Pick-a-Pic)."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def winner_side(name: str, loser: str) -> int:
    """0 or 1 by a keyed hash, about half each."""
    return hashlib.sha256(f"penchant-emoji-side:{name}:{loser}".encode()).digest()[0] & 1


def rows(work: Path) -> list[dict]:
    """Two pairs per name: Fluent against Noto and Fluent against Twemoji."""
    table = []
    for emoji, images in zip(load(work), load_images(work), strict=True):
        pngs = dict(zip(STYLES, map(encoded, images), strict=True))
        for loser in ("noto", "twemoji"):
            winner = winner_side(emoji.name, loser)
            row = {
                "caption": emoji.name,
                "name": emoji.name,
                "category": emoji.category,
                "split": emoji.split,
            }
            for side, style in ((winner, "fluent"), (1 - winner, loser)):
                row |= {
                    f"jpg_{side}": pngs[style],
                    f"label_{side}": float(style == "fluent"),
                    f"style_{side}": style,
                    f"source_{side}": SOURCES[style],
                    f"license_{side}": LICENSES[style],
                }
            table.append(row)
    return table


def main() -> None:
    """Write the parquet file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("src/penchant/assets/emoji-pairs.parquet"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows(options.work), SCHEMA)
    temporary = options.out.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd", row_group_size=256)
    temporary.replace(options.out)
    left = sum(1 for value in table["label_0"].to_pylist() if value == 1)
    print(f"{table.num_rows} pairs, winner on side 0 in {left}, {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
