"""The README does what it says: its Python runs, its files exist, its commands are there."""

import math
import re
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_python_example_runs_and_starts_at_log_two():
    (code,) = blocks("python")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["output"].loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert all(p.grad is not None for p in names["model"].network.parameters())


def test_the_card_of_the_shipped_model_says_how_plain_diffusers_runs_it(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (code,) = blocks("python", Path("src/penchant/assets/emoji/README.md").read_text(encoding="utf-8"))
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert {part.dtype for part in (names["pipeline"].unet, names["pipeline"].text_encoder)} == {
        torch.float32
    }


def test_the_files_it_links_to_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_table_names_every_method():
    from penchant.methods import catalog

    assert [name for name in catalog.names() if f"`{name}`" not in README] == []


def test_the_make_targets_it_names_exist():
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", "\n".join(blocks("bash")), flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
