"""The page of options is what the schema says."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("generate_options", ROOT / "docs" / "generate_options.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == generator().page(), (
        "run `make options`"
    )


def test_every_option_says_what_it_means():
    for line in generator().page().splitlines():
        if line.startswith("| `"):
            meaning = line.split(" | ")[-1].rstrip(" |")
            assert meaning.endswith("."), line
