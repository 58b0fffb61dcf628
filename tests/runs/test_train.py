"""Whole runs: killed and resumed to the bit, stopped by a signal, and exported for plain diffusers."""

import contextlib
import json
import math
import os
import signal
import time
from collections import Counter

import pytest
import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console
from safetensors.torch import load_file
from tests import small

from penchant import hub
from penchant.errors import TrainingStopped
from penchant.evaluation.sampling import Request, Sampler, draw
from penchant.families import sd15
from penchant.log import METRICS
from penchant.runs.evaluate import models, sampled
from penchant.runs.load import load

TERMS = [{"kind": "winner-kept", "coefficient": 10}]


def wait_for_lines(path, number, process):
    """Until metrics.jsonl has that many lines, or the process ends."""
    while process.is_alive():
        with contextlib.suppress(FileNotFoundError):
            if len(path.read_bytes().splitlines()) >= number:
                return
        time.sleep(0.002)


def start(launcher, tmp_path, raw, *words):
    """`penchant train` in a process of its own, and where its output goes."""
    file, log = tmp_path / "run.yaml", tmp_path / "log"
    file.write_text(json.dumps(raw), encoding="utf-8")
    return launcher.start("train", str(file), *words, output=log), log


def test_a_run_killed_twice_is_the_run_that_was_not(options, tmp_path, launcher):
    """Once before the first checkpoint, once between two."""
    changes = {
        "terms": TERMS,
        "training.steps": 14,
        "training.checkpoint_every": 5,
        "data.prompt_dropout": 0.3,
    }
    whole, _ = small.train(options(**changes))
    killed = tmp_path / "killed"
    for number, (lines, words) in enumerate([(2, ()), (10, ("--resume",))]):
        process, log = start(launcher, tmp_path, options(**changes, output=str(killed)), *words)
        wait_for_lines(killed / "metrics.jsonl", lines, process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        assert bool(list((killed / "checkpoints").glob("step-*"))) is bool(number)
    process, log = start(launcher, tmp_path, options(**changes, output=str(killed)), "--resume")
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert "going on from step " in log.read_text()
    assert small.metrics(killed) == small.metrics(whole.path)
    small.assert_same_adapter(killed, whole.path)
    for name in ("weights", "optimizer", "average"):
        a, b = (load_file(f / f"checkpoints/step-00000014/{name}.safetensors") for f in (killed, whole.path))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert json.loads((killed / "manifest.json").read_text())["num_resumed"] == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_so(options, tmp_path, launcher, number, code):
    raw = options(
        **{"training.steps": 5000, "training.checkpoint_every": 4000, "training.heldout_every": 4000}
    )
    process, log = start(launcher, tmp_path, raw)
    wait_for_lines(tmp_path / "out" / "metrics.jsonl", 3, process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code, log.read_text()
    done = small.metrics(tmp_path / "out")[-1]["step"]
    said = [line for line in log.read_text().splitlines() if line.startswith("stopped by")]
    assert said == [
        f"stopped by {number.name} after step {done} of 5000; its checkpoint is written. Go on with --resume."
    ]
    (place,) = (tmp_path / "out" / "checkpoints").iterdir()
    assert place.name == f"step-{done:08d}"
    assert not (tmp_path / "out" / "adapter").exists()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"] is False


SAMPLER = Sampler(num_steps=3, guidance=3.0, eta=0.0, batch_size=16)
REQUESTS = [Request(prompt=f"thing {number}", seed=number) for number in range(3)]


@pytest.mark.parametrize(("ema", "precision"), [(None, "float32"), (0.9, "bfloat16")])
def test_plain_diffusers_draws_the_images_of_the_evaluation_to_the_bit(options, tiny_model, ema, precision):
    changes = {"training.learning_rate": 0.05, "training.lora": {"rank": 2, "alpha": 6}, "training.ema": ema}
    evaluation = {"evaluation.num_steps": SAMPLER.num_steps, "evaluation.precision": precision}
    folder, _ = small.train(options(**changes, **evaluation))
    run = load(folder.run_file)
    base, tuned = sampled(folder, run, REQUESTS, Console(quiet=True))
    dtype = getattr(torch, precision)
    plain = StableDiffusionPipeline.from_pretrained(tiny_model, dtype=dtype, safety_checker=None)
    plain.load_lora_weights(folder.adapter)
    assert torch.equal(draw(plain, REQUESTS, SAMPLER), tuned)
    assert not torch.equal(base, tuned)
    name = "weights" if ema is None else "average"
    stored = load_file(folder.checkpoints / "step-00000002" / f"{name}.safetensors")
    exported, _ = small.adapter(folder.path)
    for name, tensor in stored.items():
        assert torch.equal(exported["unet." + name.replace(".default.", ".")], tensor)


def test_the_exported_network_is_the_trained_one(options, tiny_model):
    """Alpha is not the rank, so a scale that is lost or used twice would show."""
    parts = small.assembled(options(**{"training.lora": {"rank": 2, "alpha": 6}}))
    folder, _ = small.train(
        options(
            **{"training.lora": {"rank": 2, "alpha": 6}, "training.ema": None, "training.learning_rate": 0.05}
        )
    )
    weights = load_file(folder.checkpoints / "step-00000002" / "weights.safetensors")
    parts.bare.load_state_dict(weights, strict=False)
    noisy, timestep = torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    condition = {"prompt": torch.randn(2, 16, 16)}
    _, tuned = models(folder, load(folder.run_file))
    with torch.no_grad():
        expected = parts.models.policy(noisy, timestep, condition)
        assert torch.equal(tuned.network(noisy, timestep, condition["prompt"]).sample, expected)
        base = sd15.load_pipeline(tiny_model).unet(noisy, timestep, condition["prompt"]).sample
    assert not torch.allclose(base, expected, atol=1e-3)


def test_a_fully_trained_model_loads_in_plain_diffusers(options, tiny_model):
    changes = {"training.mode": "full", "training.lora": small.REMOVED, "training.ema": None}
    folder, _ = small.train(options(**changes, **{"evaluation.num_steps": SAMPLER.num_steps}))
    assert not folder.adapter.exists()
    plain = StableDiffusionPipeline.from_pretrained(folder.pipeline, safety_checker=None)
    weights = load_file(folder.checkpoints / "step-00000002" / "weights.safetensors")
    trained = plain.unet.state_dict()
    assert weights.keys() == trained.keys() and all(torch.equal(trained[n], weights[n]) for n in weights)
    other = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    assert all(torch.equal(v, other.vae.state_dict()[n]) for n, v in plain.vae.state_dict().items())
    _, tuned = sampled(folder, load(folder.run_file), REQUESTS, Console(quiet=True))
    assert torch.equal(draw(plain, REQUESTS, SAMPLER), tuned)


@pytest.mark.parametrize("method", ["diffusion-kto", "rank-dpo", "mapo"])
def test_every_method_trains_from_a_run_file(options, tiny_lists, method):
    changes = {"method": method, "objective": {}}
    if method == "rank-dpo":
        changes |= {"data": {"path": str(tiny_lists), "heldout_split": None}}
    folder, shown = small.train(options(**changes))
    rows = small.metrics(folder.path)
    assert "self-check: " in shown and "2/2" in shown
    assert [(row["step"], row["split"]) for row in rows][:2] == [(1, "train"), (2, "train")]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert {name.split("/t")[0] for row in rows for name in row} <= METRICS.keys() | {"step", "split"}
    assert ("log_ratio/winner" in rows[0]) is (method != "mapo")
    assert rows[1]["margin/mean"] != 0
    assert folder.adapter.is_dir() and json.loads(folder.manifest.read_text())["complete"] is True


def test_a_run_on_images_of_several_shapes(options, tmp_path):
    """The held-out split goes through buckets as well; a moving average and pieces are on."""
    data = small.write_photos(tmp_path / "photos.parquet", [(12, 24), (16, 16), (24, 12), (14, 20)])
    buckets = {"ratios": ["1x1", "1x2", "2x1"], "step": 4}
    changes = {"data.path": str(data), "data.buckets": buckets, "data.crops": 2, "data.flip": True}
    folder, _ = small.train(options(**changes))
    rows = small.metrics(folder.path)
    assert [(row["step"], row["split"]) for row in rows] == [(1, "train"), (2, "train"), (2, "heldout")]
    assert all(math.isfinite(row["loss"]) for row in rows) and rows[2]["margin/mean"] != 0
    parts = small.assembled(options(**changes))
    shapes = {
        tuple(piece.latents.shape[2:]) for step in range(3) for piece in parts.sources.train(step).micro
    }
    assert shapes == {(4, 12, 6), (4, 8, 8), (4, 6, 12)}


def test_a_run_that_stops_itself_keeps_its_last_good_checkpoint(options, tmp_path):
    changes = {"training.steps": 9, "training.checkpoint_every": 1, "training.learning_rate": 1e18}
    with pytest.raises(
        TrainingStopped, match=r"^step \d: the loss is \S+ and the gradient norm \S+: not a number"
    ):
        small.train(options(**changes, **{"training.ema": None}))
    out = tmp_path / "out"
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept and not (out / "adapter").exists()
    assert small.metrics(out)[-1]["step"] == int(kept[-1][-8:])


def test_resuming_a_complete_run_changes_nothing(options):
    folder, _ = small.train(options())
    before = small.metrics(folder.path), small.adapter(folder.path)[0]
    small.train(options(), resume=True)
    after = small.metrics(folder.path), small.adapter(folder.path)[0]
    assert before[0] == after[0]
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])


def test_the_model_is_hashed_once_in_a_run_and_once_in_a_resumed_one(
    options, tmp_path, tiny_model, monkeypatch
):
    """Cached errors, the manifest and the check of a resumed run ask for the hash; a model may have 30 GB."""
    expected, hashed, hash_of_file = hub.model_hash(tiny_model), Counter(), hub._hash

    def counting(path):
        hashed[path] += 1
        return hash_of_file(path)

    monkeypatch.setattr(hub, "_hash", counting)
    reference = {"kind": "cached", "draws": 2, "folder": str(tmp_path / "errors")}
    for resume in (False, True):
        hashed.clear()
        folder, _ = small.train(options(**{"training.reference": reference}), resume=resume)
        of_model = {path: number for path, number in hashed.items() if path.is_relative_to(tiny_model)}
        assert of_model and set(of_model.values()) == {1}
        assert folder.read_manifest()["model_hash"] == expected
    for name in ("train", "held-out"):
        assert f'"model": "{expected}"' in next((tmp_path / "errors" / name).rglob("*.json")).read_text()
