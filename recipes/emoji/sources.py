"""The registry packages behind the emoji model: download them, choose the names, write captions and splits.

One record per name: a name is an emoji that exists in all three styles (Noto, Twemoji, Fluent 3D).
"""

import argparse
import hashlib
import json
import re
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

STYLES = ("noto", "twemoji", "fluent")
PACKAGES = {  # folder below `raw` -> npm package
    "google": "emoji-datasource-google@16.0.0",
    "twitter": "emoji-datasource-twitter@16.0.0",
    "fluent": "@lobehub/fluent-emoji-3d@1.1.0",
    "emojilib": "emojilib@4.0.3",
}
SOURCES = {"noto": PACKAGES["google"], "twemoji": PACKAGES["twitter"], "fluent": PACKAGES["fluent"]}
LICENSES = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "fluent": "MIT"}

DROPPED_CATEGORIES = {"Flags", "Component", "Symbols"}
DROPPED_SUBCATEGORIES = {"family", "keycap", "hand-single-finger"}
# Clock faces, near-duplicates that differ by few pixels, text and plain symbols.
DROPPED_PATTERNS = r"""
.* o clock; .* thirty; (spade|club|heart|diamond) suit; (waxing|waning|first quarter|last quarter|new)
.*moon.*; globe showing (americas|asia australia); globe with meridians; magnifying glass tilted right;
(women|men) .*; (closed|open) mailbox with .*lowered flag; open mailbox with raised flag; speaker
(low|medium) volume; muted speaker; (man|woman|person|people|family|couple|adult)\b.*\b(holding
hands|hugging); (left|right) facing fist; leftwards .*; rightwards .*; palm (up|down) hand; kiss (wo)?man
.*; couple with heart .*; oncoming (bus|police car|taxi|automobile); light rail; metro; tram car; train;
railway car; sun behind large cloud; sun behind small cloud; cloud with (rain|snow); umbrella; love hotel;
japanese post office; middle finger; hole; page with curl; incoming envelope; e mail; bell with slash; low
battery; hundred points; card index; tear off calendar; spiral calendar; ledger; notebook; linked
paperclips; camera with flash; unlocked; locked with key; hourglass done; snowman without snow; person
(red|curly|white) hair; (wo)?man (red|curly|white) hair; (wo)?man bald; (wo)?man blond hair; man beard;
woman beard; beard; airplane (departure|arrival); minus sign; dvd; house with garden; derelict house;
mobile phone with arrow; musical note; zzz; anger symbol; right anger bubble; left speech bubble; mx
claus; sunrise over mountains; dotted line face; chart increasing with yen; musical keyboard; video
camera; inbox tray; bust in silhouette; pinched fingers; woman with veil; man with veil; (wo)?man in
tuxedo; clinking beer mugs; front facing baby chick; hatching chick; flatbread; vertical traffic light;
motor boat; pregnant man; pregnant woman; breast feeding; (wo)?man feeding baby; cigarette; softball;
field hockey; dromedary; flat shoe; woman's sandal; frowning face with open mouth; slightly frowning face;
black bird; grinning cat with smiling eyes; pouting cat; kissing face with (smiling|closed) eyes; raised
back of hand; hand with fingers splayed
"""
DROPPED_NAMES = re.compile("|".join(" ".join(DROPPED_PATTERNS.split()).split("; ")))
CATEGORIES = ("activities", "animals", "food", "objects", "people", "smileys", "travel")
CATEGORY_OF = {
    "Activities": "activities", "Animals & Nature": "animals", "Food & Drink": "food", "Objects": "objects",
    "People & Body": "people", "Smileys & Emotion": "smileys", "Travel & Places": "travel",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Emoji:
    """One name: its words, the split of its preference pairs, and its pictures as paths below `raw`."""

    name: str
    synonyms: tuple[str, ...]
    keywords: tuple[str, ...]
    category: str
    split: str
    files: dict[str, str]


def styled(caption: str, style: str | None) -> str:
    """Caption with the style word, or as it is if `style` is None."""
    return caption if style is None else f"{caption}, {style} style"


def split_of(name: str) -> str:
    """Split of the preference data, by a hash of the name: 70 % train, 10 % validation, 20 % test."""
    share = (
        int.from_bytes(hashlib.sha256(f"penchant-emoji-split-3:{name}".encode()).digest()[:8], "big") / 2**64
    )
    return "train" if share < 0.7 else "validation" if share < 0.8 else "test"


def download(raw: Path) -> None:
    """Fetch and unpack the npm packages into `raw`/<folder>/package, skipping those that are there."""
    raw.mkdir(parents=True, exist_ok=True)
    for folder, package in PACKAGES.items():
        target = raw / folder
        if (target / "package").is_dir():
            continue
        packed = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=raw, check=True, capture_output=True, text=True
        )
        with tarfile.open(raw / packed.stdout.split()[-1]) as archive:
            archive.extractall(target, filter="data")


def _words(text: str) -> str:
    text = text.lower().replace("_", " ").replace("-", " ").replace(",", "").strip()
    return re.sub(r"\b(man|woman|worker) s\b", r"\1's", text)


def choose(raw: Path) -> list[Emoji]:
    """The names that ship, sorted, with captions and files."""
    entries = json.loads((raw / "google/package/emoji.json").read_text())
    library = json.loads((raw / "emojilib/package/dist/emoji-en-US.json").read_text())
    found: dict[str, tuple[dict, list[str], dict[str, str]]] = {}
    for entry in entries:
        if entry["category"] in DROPPED_CATEGORIES or entry["subcategory"] in DROPPED_SUBCATEGORIES:
            continue
        symbol = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        words = library.get(symbol) or library.get(symbol.replace("\ufe0f", "")) or [entry["name"]]
        codes = (entry["unified"].lower(), entry["unified"].lower().replace("-fe0f", ""))
        fluent = [f"fluent/package/assets/{code}.webp" for code in codes]
        files = {
            "noto": f"google/package/img/google/64/{entry['image']}",
            "twemoji": f"twitter/package/img/twitter/64/{entry['image']}",
            "fluent": next((file for file in fluent if (raw / file).is_file()), ""),
        }
        name = _words(words[0])
        if all(file and (raw / file).is_file() for file in files.values()) and not DROPPED_NAMES.fullmatch(
            name
        ):
            found.setdefault(name, (entry, words, files))
    names = set(found)
    kept: dict[str, tuple[dict, list[str], dict[str, str]]] = {}
    for name, item in found.items():
        role = re.fullmatch(r"(wo)?man (.+)", name)
        neutral = {f"person {role[2]}", f"people {role[2]}", role[2]} if role else set()
        if not (neutral & names) and not (name.startswith("deaf ") and name != "deaf person"):
            kept[name] = item
    claimed: dict[str, int] = {}
    for entry, _, _ in kept.values():
        for short in entry["short_names"]:
            claimed[_words(short)] = claimed.get(_words(short), 0) + 1
    emojis = []
    for name, (entry, words, files) in sorted(kept.items()):
        short = [_words(word) for word in entry["short_names"]]
        synonyms = [
            word
            for word in short
            if word != name and word not in kept and claimed[word] == 1 and re.fullmatch("[a-z' ]{3,}", word)
        ]
        keywords = [_words(word) for word in words[1:] if re.fullmatch("[A-Za-z_' -]{3,}", word)]
        emoji = Emoji(
            name=name,
            synonyms=tuple(synonyms[:2]),
            keywords=tuple(dict.fromkeys(word for word in keywords if word != name))[:5],
            category=CATEGORY_OF[entry["category"]],
            split=split_of(name),
            files=files,
        )
        emojis.append(emoji)
    return emojis


def load(work: Path) -> list[Emoji]:
    """The records that `main` wrote to `work`/names.json."""
    rows = json.loads((work / "names.json").read_text())
    return [
        Emoji(**{**row, "synonyms": tuple(row["synonyms"]), "keywords": tuple(row["keywords"])})
        for row in rows
    ]


def main() -> None:
    """Download the packages and write `work`/names.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the unpacked npm packages")
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate files")
    options = parser.parse_args()
    download(options.raw)
    emojis = choose(options.raw)
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "names.json").write_text(json.dumps([asdict(emoji) for emoji in emojis], indent=1))
    counts = {
        split: sum(emoji.split == split for emoji in emojis) for split in ("train", "validation", "test")
    }
    print(f"{len(emojis)} names, {counts}")


if __name__ == "__main__":
    main()
