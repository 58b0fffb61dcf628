"""Candidates are drawn once: what is on disk, what is drawn again, and where an image comes from."""

import io

import pytest
import torch
from PIL import Image

from penchant.builders.candidates import Wanted, draw_candidates
from penchant.data import store

WANTED = [Wanted(prompt, seed) for prompt in ("a", "b", "c") for seed in (1, 2)]


class Model:
    """Paints the seed into the red channel; remembers what it drew."""

    def __init__(self, fails_at=None):
        self.drawn, self.fails_at = [], fails_at

    def __call__(self, batch):
        if len(self.drawn) == self.fails_at:
            raise KeyboardInterrupt
        self.drawn.append([(one.prompt, one.seed) for one in batch])
        images = torch.zeros(len(batch), 3, 4, 4)
        images[:, 0] = torch.tensor([one.seed / 255 for one in batch])[:, None, None]
        return images


def drawn(folder, model, wanted=WANTED, **options):
    settings = {"batch_size": 4, "provenance": {"model": "tiny", "num_steps": 2}}
    return draw_candidates(folder, wanted, model, **settings | options)


def test_every_image_is_stored_with_where_it_comes_from(tmp_path):
    seen = []
    files = drawn(tmp_path, Model(), progress=seen.append)
    examples = [example for file in files for example in store.read(file)]
    assert [(e.prompt, e.candidates[0].meta["seed"]) for e in examples] == [
        (w.prompt, w.seed) for w in WANTED
    ]
    candidate = examples[1].candidates[0]
    assert candidate.source == "tiny"
    assert candidate.meta == {"model": "tiny", "num_steps": 2, "seed": 2}
    assert Image.open(io.BytesIO(candidate.content())).getpixel((0, 0)) == (2, 0, 0)
    assert seen == [4, 6]


def test_an_interrupted_run_draws_only_what_is_missing(tmp_path):
    stopped, resumed = Model(fails_at=1), Model()
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, stopped)
    files = drawn(tmp_path, resumed)
    assert stopped.drawn + resumed.drawn == [
        [("a", 1), ("a", 2), ("b", 1), ("b", 2)],
        [("c", 1), ("c", 2)],
    ]
    assert drawn(tmp_path, Model(fails_at=0)) == files  # nothing is drawn, so nothing fails


@pytest.mark.parametrize(
    "change", [{"provenance": {"model": "tiny", "num_steps": 3}}, {"wanted": [Wanted("a", 9), *WANTED[1:]]}]
)
def test_other_settings_draw_anew(tmp_path, change):
    drawn(tmp_path, Model())
    again = Model()
    drawn(tmp_path, again, **change)
    assert len(again.drawn) >= 1
