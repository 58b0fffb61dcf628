"""Errors of the reference that are measured once say what the reference says, and make it superfluous."""

from dataclasses import replace

import pytest
import torch
from tests import small

from penchant.data.rows import Candidate, Example
from penchant.data.store import write_parquet
from penchant.errors import PenchantError, TrainingStopped
from penchant.slots.compose import step
from penchant.training.reference import frozen_copy
from penchant.training.source import repeated_draws

FULL = {"training.mode": "full", "training.lora": small.REMOVED, "training.learning_rate": 1e-3}


def cached(options, draws=2, **changes):
    changes.setdefault("objective", {"beta": 5000})
    reference = {"kind": "cached", "draws": draws, **changes.pop("reference", {})}
    return options(**changes, **{"training.reference": reference})


@pytest.mark.parametrize("changes", [{}, FULL], ids=["lora", "full"])
def test_a_step_is_the_one_with_a_reference_network(options, changes):
    random = {"data.prompt_dropout": 0.5, "data.flip": True, "training.steps": 8}
    parts = small.assembled(cached(options, **changes, **random))
    assert parts.models.reference is None
    anchor = parts.family.denoiser(frozen_copy(parts.bare))
    with torch.no_grad():
        for parameter in (p for p in parts.bare.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    for number in (0, 3, 7):  # 12 groups in batches of 4: epochs 0, 1 and 2
        batch = parts.sources.train(number)
        assert batch.draws == repeated_draws(number // 3 % 2)
        for piece in batch.micro:
            asked = replace(piece, reference_error=None)
            models = replace(parts.models, reference=anchor)
            expected = step(parts.method, models, asked, batch.draws).measured["margin/mean"]
            got = step(parts.method, parts.models, piece, batch.draws).measured["margin/mean"]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
            assert got.abs().min() > 0


def test_images_that_are_judged_twice_keep_their_sides(options, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    one = {
        "caption": "thing",
        "jpg_0": small.picture(1, 200),
        "jpg_1": small.picture(2, 60),
        "split": "train",
    }
    rows = [{**one, "label_0": left, "label_1": 1 - left} for left in (1.0, 0.0)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "twice.parquet")
    changes = {"data.path": str(tmp_path / "twice.parquet"), "data.heldout_split": None}
    sizes = {"training.batch_size": 2, "training.micro_batch_size": 2}
    parts = small.assembled(cached(options, draws=1, **changes, **sizes))
    batch = parts.sources.train(0)
    piece = batch.micro[0]
    assert piece.ids[0] == piece.ids[1]
    assert (piece.reference_error[:, 0] - piece.reference_error[:, 1]).abs().min() > 0.01
    margin = step(parts.method, parts.models, piece, batch.draws).measured["margin/mean"]
    assert margin.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "num_groups"),
    [
        ({}, 6),
        ({"method": "rank-dpo", "data.top_k": 2, "objective": {}}, 2),
        ({"method": "diffusion-kto", "data.labels": "always"}, 4),
    ],
    ids=["pair", "ranked", "unary"],
)
def test_a_list_that_is_judged_twice_keeps_its_images(options, tmp_path, changes, num_groups):
    """a > b > c and a > c > b: the groups of equal number show other images in the same relative order."""
    candidates = [Candidate(image=small.picture(n, shade)) for n, shade in enumerate((200, 60, 130))]
    examples = [
        Example(prompt="thing", candidates=tuple(candidates), preference=scores, split="train")
        for scores in ((0.9, 0.5, 0.1), (0.9, 0.1, 0.5))
    ]
    write_parquet(examples, tmp_path / "twice.parquet")
    whole = {"training.batch_size": num_groups, "training.micro_batch_size": num_groups}
    data = {"data.path": str(tmp_path / "twice.parquet"), "data.heldout_split": None}
    parts = small.assembled(
        cached(options, draws=1, **{"objective": {"beta": 500}, **changes}, **data, **whole)
    )
    batch = parts.sources.train(0)
    assert len(set(batch.micro[0].ids)) < num_groups
    margin = step(parts.method, parts.models, batch.micro[0], batch.draws).measured["margin/mean"]
    assert margin.abs().max() < 1e-6


def test_a_run_trains_and_resumes_on_them_and_a_second_one_measures_nothing(options, tmp_path, caplog):
    folder = str(tmp_path / "errors")
    changes = {"reference": {"folder": folder}, "training.steps": 6}  # twice over 12 groups
    once, shown = small.train(cached(options, **changes), output=tmp_path / "once")
    assert "margin 0" in shown or "margin 1e-" in shown or "e-0" in shown
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "errors").rglob("*.safetensors")}
    assert len(before) == 2, "training and held-out groups"
    twice = tmp_path / "twice"
    small.train(cached(options, **{**changes, "training.steps": 2}), output=twice)
    small.train(cached(options, **changes), output=twice, resume=True)
    assert small.metrics(twice) == small.metrics(once.path)
    other, _ = small.train(
        cached(options, **changes, **{"objective": {"beta": 50}, "seed": 7}), output=tmp_path / "other"
    )
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "errors").rglob("*.safetensors")}
    train = {path for path in before if path.parent.name == "train"}
    assert train and all(now[path] == before[path] for path in before)
    assert {path for path in now if path.parent.name == "train"} == train
    assert any("error/winner_change" in row for row in small.metrics(other.path) if row["split"] == "heldout")


def test_only_what_the_steps_see_is_measured(options, tmp_path):
    parts = small.assembled(cached(options, draws=16, **{"training.steps": 5}))
    source = parts.sources.train
    seen = [(number, row) for number, rows in source.seen(5) for row in rows]
    assert len(seen) == len(set(seen)) == 20
    assert [number for number, _ in seen] == [0] * 12 + [1] * 8
    assert set(source.examples.reference_errors.row_of) == set(seen)

    straight, _ = small.train(cached(options, **{"training.steps": 4}), output=tmp_path / "straight")
    small.train(cached(options, **{"training.steps": 2}), output=tmp_path / "longer")
    small.train(cached(options, **{"training.steps": 4}), output=tmp_path / "longer", resume=True)
    assert small.metrics(tmp_path / "longer") == small.metrics(straight.path)
    small.assert_same_adapter(tmp_path / "longer", straight.path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data.flip": True}, "data.flip: False -> True."),
        ({"noise.timesteps": [10, 20]}, r"noise.timesteps: None -> \[10, 20\]."),
        ({"ratio": {"reduction": "sum"}, "objective": {"beta": 1}}, "ratio.reduction: mean -> sum."),
        ({"training.precision": "bfloat16"}, "precision: float32 -> bfloat16."),
    ],
)
def test_a_folder_of_other_errors_is_refused_and_says_what_differs(options, tmp_path, change, what):
    folder = {"folder": str(tmp_path / "errors")}
    small.assembled(cached(options, draws=1, reference=folder))
    with pytest.raises(PenchantError, match=f"was made from something else: {what} Give"):
        small.assembled(cached(options, draws=1, reference=folder, **change))


def test_errors_that_are_no_longer_what_the_model_says_are_found(options, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "errors"
    raw = cached(options, draws=1, reference={"folder": str(folder)})
    small.assembled(raw)
    shard = next((folder / "train").glob("*.safetensors"))
    save_file({"error": load_file(shard)["error"] * 1.01}, shard)
    with pytest.raises(PenchantError, match="error differs by 1%"):
        small.assembled(raw)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"noise.draw": "stratified"}, "with cached errors each group keeps its own timesteps"),
        (
            {"ratio": {"kind": "drift-from-reference"}, "experimental": True},
            "cached errors fit the ratio Denoising, method 'diffusion-dpo' has DriftFromReference",
        ),
    ],
)
def test_what_they_do_not_fit_is_refused(options, changes, sentence):
    with pytest.raises(PenchantError, match=sentence):
        small.assembled(cached(options, **changes))


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        ({}, 1e-4),
        ({"method": "diffusion-kto"}, 1e-3),
        ({"objective": {"kind": "squared", "beta": 500}}, 1e-4),
    ],
    ids=["logistic", "utility", "squared"],
)
def test_errors_that_a_beta_does_not_take_for_those_of_the_start_are_refused(options, changes, gap):
    parts = small.assembled(cached(options, **changes))
    errors = parts.sources.train.examples.reference_errors
    for shard in errors.table.shards:
        shard["error"][::2, 0] += gap
    from penchant.training.self_check import self_check

    with pytest.raises(TrainingStopped, match="self-check: the cached errors are not those of the policy"):
        self_check(
            parts.method,
            parts.models,
            parts.network,
            parts.sources.train(0),
            parts.optimizer,
            accelerator=parts.accelerator,
            steps=1,
            learning_rate=1.0,
            exact=False,
        )
