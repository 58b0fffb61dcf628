"""Feedback of rewards: scores, filters, pairs and relabelled rows, with numbers worked by hand."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from penchant.builders import duplicates
from penchant.builders.candidates import Wanted, draw_candidates
from penchant.builders.feedback import Tally, examples_from, relabelled
from penchant.data.build import BuildRule
from penchant.data.rows import Candidate, Example, as_ranked
from penchant.errors import ConfigError, DataError


@dataclass(frozen=True)
class Red:
    """The red channel, 0 to 255, times a factor."""

    name: str = "red"
    factor: float = 1.0
    unit: str = "levels"
    version: str = "7"
    judges: bool = True

    def __call__(self, images, prompts):
        assert len(images) == len(prompts)
        return self.factor * (255 * images[:, 0].mean(dim=(1, 2))).round()


PROMPTS = {"cat": (10, 40, 20, 40), "dog": (30, 30), "owl": (5, 6, 90)}


@pytest.fixture
def files(tmp_path):
    """Candidates in batches of 4, which cut the prompts apart; their seed is their red."""
    wanted = [Wanted(prompt, red) for prompt, reds in PROMPTS.items() for red in reds]

    def draw(batch):
        images = torch.zeros(len(batch), 3, 4, 4)
        images[:, 0] = torch.tensor([one.seed / 255 for one in batch])[:, None, None]
        return images

    return draw_candidates(tmp_path, wanted, draw, batch_size=4, provenance={"model": "tiny"})


def built(files, rule=BuildRule.BEST_VS_WORST, rewards=(Red(),), **options):
    tally = Tally()
    examples = list(examples_from(files, rewards, rule, tally=tally, **options))
    return [(e.prompt, *(round(c.scores["red"]) for c in e.candidates)) for e in examples], tally, examples


def test_best_against_worst_of_every_prompt(files):
    rows, tally, examples = built(files)
    assert rows == [("cat", 40, 10), ("owl", 90, 5)]
    assert (tally.num_prompts, tally.num_images, tally.num_ties, tally.num_single) == (3, 9, 1, 0)
    assert examples[0].preference == (1.0, 0.0)
    assert examples[0].provenance == {
        "feedback": "reward",
        "judge": {"name": "red", "version": "7"},
        "rule": "best-vs-worst",
        "min_gap": 0.0,
    }
    assert examples[0].candidates[0].meta == {"model": "tiny", "seed": 40, "scorers": {"red": "7"}}


def test_a_gap_and_a_lowest_score(files):
    assert built(files, BuildRule.ALL, min_gap=30)[0] == [
        ("cat", 40, 10), ("cat", 40, 10), ("owl", 90, 6), ("owl", 90, 5)
    ]  # fmt: skip
    rows, tally, _ = built(files, min_score=6)
    assert rows == [("cat", 40, 10), ("owl", 90, 6)]
    assert tally.num_low == 1
    rows, tally, _ = built(files, min_score=20, rule=BuildRule.LIST)
    assert rows == [("cat", 40, 20, 40), ("dog", 30, 30)]
    assert (tally.num_low, tally.num_single) == (3, 1)


def test_a_random_pair_is_ordered_by_its_scores(files):
    rows, tally, _ = built(files, BuildRule.RANDOM)
    assert all(winner > loser for _, winner, loser in rows)
    assert len(rows) + tally.num_ties == 3


def test_the_first_reward_decides_and_all_are_stored(files):
    against = Red(name="less red", factor=-1.0, version="8")
    rows, tally, examples = built(files, rewards=(against, Red()))
    assert rows == [("cat", 10, 40), ("owl", 5, 90)]
    assert examples[0].candidates[0].meta["scorers"] == {"less red": "8", "red": "7"}
    reds = [red for some in PROMPTS.values() for red in some]
    mean, std = tally.scale("red")
    assert (mean, std) == (pytest.approx(np.mean(reds), abs=1e-4), pytest.approx(np.std(reds), abs=1e-4))


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_near_duplicates_leave_the_first():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    other = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    brighter = np.clip(noise.astype(int) + 3, 0, 255).astype(np.uint8)
    candidates = [Candidate(image=png(array)) for array in (noise, brighter, other, noise)]
    assert duplicates.far_apart(candidates, 4) == [candidates[0], candidates[2]]
    assert duplicates.far_apart(candidates, 64) == [candidates[0]]


def test_duplicates_are_left_out_before_they_are_compared(files):
    rows, tally, _ = built(files, near_duplicates=0)  # flat pictures all have one hash
    assert rows == []
    assert (tally.num_duplicates, tally.num_single) == (6, 3)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    with pytest.raises(ConfigError, match="near_duplicates: needs the package imagehash. Install it with"):
        duplicates.far_apart([], 4)


def example(*reds, preference, size=4, **more):
    arrays = [np.full((size, size + number, 3), red, np.uint8) for number, red in enumerate(reds)]
    candidates = tuple(Candidate(image=png(array), scores={"old": 1.0}) for array in arrays)
    return Example(prompt="p", candidates=candidates, preference=preference, **more)


def test_rows_are_judged_anew_and_the_earlier_preference_is_kept():
    rows = [
        example(10, 20, preference=(1.0, 0.0), split="train", provenance={"from": "people"}),
        example(10, 20, preference=(0.0, 1.0)),
        example(10, 20, preference=(0.5, 0.5)),
        example(10, 20, 30, preference=None),
        example(7, 7, preference=(1.0, 0.0)),
        example(7, 9, preference=(0.0, 1.0)),
    ]
    tally, seen = Tally(), []
    found = list(relabelled(rows, (Red(),), tally=tally, min_gap=3, progress=seen.append))
    assert [e.preference for e in found] == [(10, 20), (10, 20), (10, 20), (10, 20, 30)]
    assert found[0].split == "train"
    assert found[0].provenance == {
        "from": "people",
        "feedback": "reward",
        "judge": {"name": "red", "version": "7"},
        "min_gap": 3,
        "earlier_preference": [1.0, 0.0],
    }
    assert found[3].provenance["earlier_preference"] is None
    assert found[0].candidates[1].scores == {"red": 20.0}
    assert found[0].candidates[1].meta == {"earlier_scores": {"old": 1.0}, "scorers": {"red": "7"}}
    (again,) = relabelled(found[:1], (Red(),), tally=Tally(), min_gap=3)
    assert again.candidates[1].meta["earlier_scores"] == {"old": 1.0, "red": 20.0}
    assert (tally.num_prompts, tally.num_ties) == (6, 2)
    assert (tally.num_agreed, tally.num_decided) == (2, 3)  # rows 1 (against), 2 and 6 (alike)
    assert seen == [6]


def test_a_ranked_list_counts_wins_over_the_new_rewards_alone(files):
    _, _, lists = built(files, BuildRule.LIST)
    against, extra = Red(name="less red", factor=-1.0), Red(name="twice red", factor=2.0)
    [judged, *_] = relabelled(lists, (against,), tally=Tally())
    best_first, phi = as_ranked(judged)
    assert [c.scores["less red"] for c in best_first] == [-10, -20, -40, -40]  # cat: 10, 40, 20 and 40
    assert phi == pytest.approx([3 / 3, 2 / 3, 0, 0])
    [both, *_] = relabelled(lists, (against, extra), tally=Tally())
    assert both.preference == (-10, -40, -20, -40)  # the first decides
    assert as_ranked(both)[1] == pytest.approx([0.5, 0.5, 1 / 3, 1 / 3])  # 3 + 0, 2 + 1, 0 + 2, of 2 * 3


def test_texts_cannot_be_judged_by_images():
    texts = Example(prompt="p", candidates=(Candidate(text="a"), Candidate(text="b")), preference=(1.0, 0.0))
    with pytest.raises(DataError, match="must be an image, got text"):
        list(relabelled([texts], (Red(),), tally=Tally()))
