"""Two processes are one: the same numbers and weights, from copies (DDP) and from shards (FSDP2).

Each way of launching starts two processes once, which then make all runs of the tests below.
"""

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from tests import small
from tests.whole import sharded

SHARDS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
"""What `accelerate launch --use_fsdp --fsdp_version 2` says, its default for loading included."""
ALL = {
    "training.steps": 3,
    "training.micro_batch_size": 1,  # two pieces per step and process
    "training.epsilon": 1e-3,  # with 1e-8, Adam moves weights of almost no gradient by the sign of a rounding
    "data.prompt_dropout": 0.3,
    "training.heldout_examples": 2,
    "training.heldout_draws": 1,
}
RUNS = {
    "lora": ALL | {"terms": [{"kind": "winner-kept", "coefficient": 10}]},
    "text": ALL | {"training.lora": {"rank": 2, "text_encoder": True}, "training.steps": 2},
    "full": ALL | {"training.mode": "full", "training.lora": small.REMOVED, "training.steps": 2},
    "stream": ALL
    | {
        "data.streaming": True,
        "data.shuffle_buffer": 16,
        "data.max_broken": 0.5,
        "training.steps": 7,  # 6 are an epoch
    },
    "kto": ALL | {"method": "diffusion-kto", "objective": {"beta": 300}, "training.steps": 2},
}


LONG = {"training.steps": 5000, "training.checkpoint_every": 2, "training.heldout_every": 4000}


@dataclass(frozen=True)
class Launched:
    """Folder of the runs, and what each process has said in all."""

    place: Path
    said: tuple[str, str]


@pytest.fixture(scope="module")
def raw_of(tiny_model, tiny_pairs, tmp_path_factory):
    """The run file of a name, as plain values."""
    shards = small.write_shards(tmp_path_factory.mktemp("shards"))

    def build(name, output, **changes):
        data = shards if "data.streaming" in RUNS[name] else tiny_pairs
        return small.run_options(tiny_model, data, output, RUNS[name] | changes)

    return build


@pytest.fixture(scope="module")
def one(raw_of, tmp_path_factory):
    """Folder of the runs of one process."""
    place = tmp_path_factory.mktemp("one")
    for name in RUNS:
        small.train(raw_of(name, place / name))
    return place


def before_the_last_step(folder, copy):
    """A copy of a run that was stopped before its last step."""
    shutil.copytree(folder, copy)
    (*_, last) = sorted((copy / "checkpoints").iterdir())
    shutil.rmtree(last)
    return copy


def without_coverage(text):
    """Without the warning, of two lines, that a measured process gives of modules it has imported before."""
    marks = ("CoverageWarning", 'slug="module-not-measured"')
    return "".join(line for line in text.splitlines(keepends=True) if not any(m in line for m in marks))


def launched(launcher, raw_of, one, place, names, *others, first=(), resumed=("lora",), **environment):
    """Two processes that make the runs of these names and go on with some of one process."""

    def line(name, folder, *words):
        file = place / f"{folder}.yaml"
        file.write_text(json.dumps(raw_of(name, place / folder)), encoding="utf-8")
        return partial(small.line, "train", str(file), *words)

    for name in resumed:
        before_the_last_step(one / name, place / f"{name}-resumed")
    going_on = [line(name, f"{name}-resumed", "--resume") for name in resumed]
    calls = [*first, *(line(name, name) for name in names), *going_on, *others]
    logs = (place / "0.log", place / "1.log")
    processes = launcher.start_two(*calls, outputs=logs, **environment)
    for process in processes:
        process.join()
    said = tuple(without_coverage(log.read_text()) for log in logs)
    assert [process.exitcode for process in processes] == [0, 0], said
    return Launched(place, said)


@pytest.fixture(scope="module")
def ddp(launcher, raw_of, one, tmp_path_factory):
    place = tmp_path_factory.mktemp("ddp")
    stops = {
        "broken": raw_of("stream", place / "broken", **{"data.max_broken": 0.0}),
        "stops": raw_of("lora", place / "stops", **{"training.learning_rate": 1e18, "training.ema": None}),
    }
    for name, raw in stops.items():
        (place / f"{name}.yaml").write_text(json.dumps(raw), encoding="utf-8")
    stopping = [partial(small.line, "train", str(place / f"{name}.yaml")) for name in stops]
    names = ("lora", "text", "full", "kto", "stream")
    return launched(launcher, raw_of, one, place, names, *stopping, resumed=("lora", "stream"))


@pytest.fixture(scope="module")
def fsdp(launcher, raw_of, one, tmp_path_factory):
    place = tmp_path_factory.mktemp("fsdp")
    raw = raw_of("lora", place / "unused", **{"training.micro_batch_size": 2})
    probe = partial(sharded.probe, raw, str(place / "probe.safetensors"))
    changes = {"training.optimizer": "adafactor", "training.epsilon": small.REMOVED}
    wrong = {
        "adafactor": raw_of("lora", place / "adafactor", **changes),
        "text": raw_of("text", place / "text"),
    }
    for name, options in wrong.items():
        (place / f"{name}.yaml").write_text(json.dumps(options), encoding="utf-8")
    refused = [partial(small.line, "train", str(place / f"{name}.yaml")) for name in wrong]
    first = [small.shards_on_cpu]
    names = ("lora", "full", "stream")
    return launched(launcher, raw_of, one, place, names, probe, *refused, first=first, **SHARDS)


@pytest.fixture
def two(request):
    """The runs of `ddp` or `fsdp`."""
    return request.getfixturevalue(request.param)


def tensors(folder, name):
    (*_, newest) = sorted((folder / "checkpoints").iterdir())
    return load_file(newest / f"{name}.safetensors")


def assert_same_run(folder, other):
    """Numbers, weights, moments and average, to float32 rounding."""
    expected, got = small.metrics(other), small.metrics(folder)
    assert [row.keys() for row in got] == [row.keys() for row in expected]
    for row, known in zip(got, expected, strict=True):
        assert row.pop("split") == known.pop("split")
        assert row == pytest.approx(known, rel=2e-4, abs=2e-6)
    for name in ("weights", "optimizer", "average"):
        a, b = tensors(folder, name), tensors(other, name)
        assert a.keys() == b.keys() and len(a) > 0
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=2e-4, atol=2e-6, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize(
    ("two", "name"),
    [
        ("ddp", "lora"),
        ("ddp", "text"),
        ("ddp", "full"),
        ("ddp", "kto"),
        ("ddp", "stream"),
        ("fsdp", "lora"),
        ("fsdp", "full"),
        ("fsdp", "stream"),
    ],
    indirect=["two"],
)
def test_two_processes_are_one(two, one, name):
    assert_same_run(two.place / name, one / name)
    assert sorted(os.listdir(two.place / name)) == sorted(os.listdir(one / name))


@pytest.mark.parametrize("two", ["ddp", "fsdp"], indirect=True)
def test_what_is_exported_is_the_average(two):
    exported, _ = small.adapter(two.place / "lora")
    for name, tensor in tensors(two.place / "lora", "average").items():
        assert torch.equal(exported["unet." + name.replace(".default.", ".")], tensor)
    network = StableDiffusionPipeline.from_pretrained(two.place / "full/pipeline", safety_checker=None).unet
    average = tensors(two.place / "full", "average")
    assert average.keys() == network.state_dict().keys()
    assert all(torch.equal(average[name], tensor) for name, tensor in network.state_dict().items())


RESUMED = pytest.mark.parametrize(
    ("two", "name"), [("ddp", "lora"), ("ddp", "stream"), ("fsdp", "lora")], indirect=["two"]
)


@RESUMED
def test_two_go_on_with_what_one_has_begun(two, one, name):
    assert_same_run(two.place / f"{name}-resumed", one / name)
    going_on = {"lora": "going on from step 2 of 3", "stream": "going on from step 6 of 7"}
    assert going_on[name] in two.said[0]


@RESUMED
def test_one_goes_on_with_what_two_have_begun(two, one, name, raw_of, tmp_path):
    folder = before_the_last_step(two.place / name, tmp_path / "resumed")
    small.train(raw_of(name, folder), resume=True)
    assert_same_run(folder, one / name)


def test_a_row_that_cannot_be_read_is_counted_once_by_whichever_process_meets_it(one, ddp):
    for place in (one, ddp.place):
        assert sum(row.get("data/broken", 0) for row in small.metrics(place / "stream")) in (1, 2)


@pytest.mark.parametrize("two", ["ddp", "fsdp"], indirect=True)
def test_the_first_process_alone_speaks(two):
    """But for the error that both have: whoever comes first says it."""
    for word in ("encoding", "self-check: ", "training ", "going on from"):
        assert word in two.said[0] and word not in two.said[1]
    assert len([line for line in two.said[1].splitlines() if not line.startswith("exit code ")]) <= 2


def test_what_shards_cannot_do_is_refused(fsdp):
    said = "".join(fsdp.said)
    for name, sentence in {
        "adafactor": "training.optimizer: adafactor keeps moments of rows",
        "text": "training.lora.text_encoder: does not work with shards (FSDP2)",
    }.items():
        assert said.count(f"{fsdp.place / name}.yaml: {sentence}") == 1


def test_an_error_that_all_have_is_said_once(ddp):
    said = "".join(ddp.said)
    assert said.count("exit code 3") == 4
    assert said.count("not a number. The weights are those of the step before") == 1


def test_a_broken_row_that_stops_the_run_is_named_whoever_met_it(ddp):
    said = "".join(ddp.said)
    assert said.count("data.max_broken: 1 of ") == 1
    (sentence,) = (line for line in said.splitlines() if line.startswith("data.max_broken: 1 of "))
    assert "train-00001-of-00003.parquet: row 4: column 'jpg_0': no image, got 0 bytes." in sentence


@pytest.fixture(scope="module")
def probes(fsdp, raw_of, tmp_path_factory):
    """Tensors that shards gave, and those of one process."""
    place = tmp_path_factory.mktemp("probe")
    sharded.probe(raw_of("lora", place / "unused", **{"training.micro_batch_size": 4}), str(place / "one"))
    with safe_open(fsdp.place / "probe.safetensors", framework="pt") as file:
        assert int(file.metadata()["shards"]) > 0 and file.metadata()["whole"] == "0"
    return load_file(fsdp.place / "probe.safetensors"), load_file(place / "one")


def test_adapters_off_in_shards_is_the_base_model(probes):
    got, expected = probes
    assert torch.equal(got["reference after"], got["reference before"])
    torch.testing.assert_close(got["reference after"], expected["reference after"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got["policy after"], got["reference after"], atol=1e-4)


def test_every_adapter_weight_in_shards_gets_its_gradient(probes):
    got, expected = probes
    assert got.keys() == expected.keys()
    gradients = [name for name in got if name.startswith("gradient ")]
    assert gradients and all(got[name].abs().max() > 0 for name in gradients)
    for name in [*gradients, "norm"]:  # an element that is nearly 0 has the rounding of the others
        rounding = 1e-4 * expected[name].abs().max().item()
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=rounding)


def test_the_gradient_of_shards_is_scaled_down_as_a_whole(probes):
    got, _ = probes
    clipped = [tensor.norm() for name, tensor in got.items() if name.startswith("clipped ")]
    assert torch.stack(clipped).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert got["norm"] > 1e-2


def encoding_for_ever(place, file):
    """A run that says that it encodes, and does so until it is ended."""
    from penchant.runs import assemble

    def encode_stored(*arguments, **options):
        Path(place, os.environ["RANK"]).touch()
        time.sleep(120)

    assemble.encode_stored = encode_stored
    small.line("train", file, "--overwrite")


def test_the_end_of_a_process_has_its_name_before_the_first_step_too(launcher, raw_of, tmp_path):
    file, logs = tmp_path / "run.yaml", (tmp_path / "0.log", tmp_path / "1.log")
    raw = raw_of("lora", tmp_path / "out")
    small.train(raw)  # an earlier run in the folder, whose checkpoints say nothing of this one
    file.write_text(json.dumps(raw), encoding="utf-8")
    processes = launcher.start_two(partial(encoding_for_ever, str(tmp_path), str(file)), outputs=logs)
    while processes[1].is_alive() and not all((tmp_path / rank).exists() for rank in "01"):
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGKILL)
    os.kill(processes[0].pid, signal.SIGTERM)  # as a launcher does when it sees the end of a process
    processes[0].join(60)
    said = [line for line in logs[0].read_text().splitlines() if line.startswith(("step ", "exit"))]
    assert said == [
        "step 1: rank 1 of 2 processes has ended: killed, out of memory, or by an error of its own. No "
        "checkpoint is written yet; start again with --overwrite.",
        "exit code 3",
    ]


def test_the_end_of_a_process_ends_the_other_with_its_name(launcher, raw_of, tmp_path):
    raw = raw_of("lora", tmp_path / "out", **LONG)
    file, logs = tmp_path / "run.yaml", (tmp_path / "0.log", tmp_path / "1.log")
    file.write_text(json.dumps(raw), encoding="utf-8")
    processes = launcher.start_two(partial(small.line, "train", str(file)), outputs=logs)
    metrics = tmp_path / "out/metrics.jsonl"
    while processes[1].is_alive() and (not metrics.exists() or len(metrics.read_bytes().splitlines()) < 3):
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGKILL)
    killed = time.monotonic()
    processes[0].join(60)
    assert time.monotonic() - killed < 60
    done = small.metrics(tmp_path / "out")[-1]["step"]
    (*_, newest) = sorted((tmp_path / "out/checkpoints").glob("step-*"))
    said = [line for line in logs[0].read_text().splitlines() if line.startswith(("step ", "exit"))]
    assert said == [
        f"step {done + 1}: rank 1 of 2 processes has ended: killed, out of memory, or by an error of its "
        f"own. The checkpoint {newest.name} is whole; go on with --resume.",
        "exit code 3",
    ]
    small.train(raw | {"training": raw["training"] | {"steps": done + 1}}, resume=True)
    assert small.metrics(tmp_path / "out")[-1]["step"] == done + 1
