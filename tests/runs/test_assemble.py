"""What a user sees when something about a training run is wrong: one line, exit code 2, nothing lost."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import small

from penchant.cli import main
from penchant.data.rows import Candidate, Example
from penchant.data.store import write_parquet
from penchant.errors import ConfigError
from penchant.runs.assemble import assemble
from penchant.runs.load import check


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    """`penchant train` in this process; the one line that the user sees."""
    file = tmp_path / "run.yaml"

    def call(raw, *words):
        file.write_text(json.dumps(raw), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["penchant", "train", "run.yaml", *words])
        with pytest.raises(SystemExit) as ended:
            main.run()
        assert ended.value.code == 2
        sentence = capsys.readouterr().err
        assert sentence.count("\n") == 1 and "Traceback" not in sentence
        return sentence.strip()

    return call


def test_a_missing_model(train, options):
    assert train(options(model="./models/no")).startswith(
        "run.yaml: model: no model folder './models/no'. Give a folder written by save_pretrained, a .s"
    )


def test_half_a_model(train, options, tiny_model, tmp_path):
    half = shutil.copytree(tiny_model, tmp_path / "half")
    shutil.rmtree(half / "vae")
    assert train(options(model="half")) == (
        "run.yaml: model: half a pipeline folder: vae/ is named in model_index.json but missing. Download "
        "the folder again."
    )


def test_weights_in_pickle_form(train, options, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "old") / "unet"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    assert train(options(model="old")) == (
        "run.yaml: model: unet/diffusion_pytorch_model.bin is a pickle file, which can run code when it is "
        "loaded; refused. Convert it once, where you trust it: load the pipeline with diffusers and call "
        "save_pretrained(folder, safe_serialization=True)."
    )


def test_fewer_rows_than_a_batch(train, options, monkeypatch):
    monkeypatch.setattr("penchant.runs.encoding.load_family", None)  # it is said before anything is encoded
    assert train(options(**{"training.batch_size": 16})) == (
        "training.batch_size: the training split has 12 usable groups, fewer than one batch of 16. Give more "
        "data or a smaller batch_size."
    )


def test_an_adapter_that_is_not_there(train, options, monkeypatch):
    monkeypatch.setattr("penchant.runs.assemble.encode_stored", None)  # it is said before anything is encoded
    assert train(options(**{"training.lora": {"start_from": "nowhere"}})) == (
        "training.lora.start_from: no LoRA in nowhere. Give a folder that holds "
        "pytorch_lora_weights.safetensors."
    )


def test_data_of_another_shape(train, options, tmp_path):
    single = [
        Example(prompt=f"{n}", candidates=(Candidate(image=small.picture(n, 90), label=1),), split="train")
        for n in range(4)
    ]
    write_parquet(single, tmp_path / "single.parquet")
    data = {"path": "single.parquet", "heldout_split": None}
    for method, shape in (("diffusion-dpo", "pair"), ("rank-dpo", "ranked")):
        assert train(options(data=data, method=method, objective={})) == (
            f"single.parquet: zero usable rows for a {shape} method, got 4 rows: 0 tied, 4 without a "
            "preference between candidates. Label some rows."
        )


def test_only_ties(train, options, tiny_pairs, tmp_path):
    table = pq.read_table(tiny_pairs)
    half = pa.array([0.5] * len(table))
    for name in ("label_0", "label_1"):
        table = table.set_column(table.schema.get_field_index(name), name, half)
    pq.write_table(table, tmp_path / "ties.parquet")
    assert train(options(data={"path": "ties.parquet"})) == (
        "ties.parquet: only ties, got 12 of 12 rows with equal scores. At least one row must prefer one "
        "candidate."
    )


def test_a_corrupt_image_is_named_by_its_row(train, options, tiny_pairs, tmp_path):
    rows = pq.read_table(tiny_pairs).to_pylist()
    rows[2]["jpg_1"] = rows[2]["jpg_1"][:100]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bad.parquet")
    sentence = train(options(data={"path": "bad.parquet"}))
    assert "bad.parquet: row 3: column 'jpg_1'" in sentence


def test_a_language_method_on_an_image_model(train, options):
    assert train(options(method="dpo", objective={})) == (
        f"run.yaml: method 'dpo' trains language models, {options()['model']!r} draws images. Take a method "
        "for images, or use penchant.slots.compose.step in your own loop."
    )


def test_a_section_for_sampling_belongs_to_methods_that_sample(train, options):
    assert train(options(method="d3po", objective={})).startswith(
        "run.yaml: method 'd3po' samples the model while it trains and needs a section `online: "
        "{reward: NAME}`. Rewards: "
    )
    assert train(options(online={"reward": "compressibility"})) == (
        "run.yaml: online: method 'diffusion-dpo' learns from stored data and does not read this section. "
        "Remove it, or take d3po."
    )


def test_a_run_folder_that_is_in_use(train, options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_text("mine")
    assert train(options(output="out")) == (
        "out: exists and is not empty. Continue the run with --resume, replace it with --overwrite, or set "
        "another output."
    )
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == "mine"


def test_resuming_with_a_changed_run_file_says_what_changed(train, options):
    small.train(options())
    sentence = train(options(**{"training.learning_rate": 0.5, "training.lora": {"rank": 3}}), "--resume")
    assert sentence == (
        "run.yaml: has changed since the run was started: training.lora.rank: 2 -> 3; "
        "training.learning_rate: 0.001 -> 0.5. Undo this, or start anew with --overwrite or another output. "
        "Only more training.steps (constant schedule), checkpoint_every, keep_checkpoints, heldout_every and "
        "evaluation may change."
    )


def test_resuming_on_other_data_under_the_same_name(train, options, tmp_path):
    data = {"path": str(small.write_pairs(tmp_path / "mine.parquet"))}
    small.train(options(data=data))
    small.write_pairs(tmp_path / "mine.parquet", train=13)
    assert train(options(data=data), "--resume") == (
        f"{tmp_path}/out: the content of {tmp_path}/mine.parquet has changed since the run was started. Put "
        "the old one back, or start anew with --overwrite or another output."
    )


def test_resuming_a_run_that_never_began(train, options):
    assert train(options(output="nowhere"), "--resume") == (
        "nowhere: no such run folder. Give the folder that `penchant train` has written."
    )


def test_no_write_permission(train, options, monkeypatch):
    def deny(*args, **words):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", deny)
    assert train(options(output="out")) == (
        "out: cannot be written, permission denied. Set another output or change the rights."
    )


def test_a_batch_that_the_processes_cannot_share(options, monkeypatch):
    monkeypatch.setattr("penchant.runs.assemble.encode_stored", None)  # it is said before anything is encoded
    with pytest.raises(ConfigError) as caught:
        assemble(
            check(options(), where="run.yaml"),
            where="run.yaml",
            accelerator=SimpleNamespace(num_processes=3, is_fsdp2=False),
        )
    assert str(caught.value) == (
        "run.yaml: training.batch_size: must be divisible by the 3 processes, got 4."
    )


def test_a_run_that_could_not_begin_leaves_the_folder_free(train, options, tmp_path):
    train(options(model="./models/no"))
    small.train(options())
    assert (tmp_path / "out" / "adapter").is_dir()


def test_buckets_that_do_not_fit_the_model(train, options):
    buckets = {"ratios": ["1x1", "4x3"], "step": 3}
    assert train(options(**{"data.buckets": buckets})) == (
        "run.yaml: data.buckets.step: must be a multiple of 2 for this model, got 3."
    )


def test_a_method_that_samples_reads_no_option_of_stored_images(train, options):
    stored = dict.fromkeys(["training.batch_size", "training.micro_batch_size"], small.REMOVED)
    changes = {"method": "d3po", "objective": {}, "online": {"reward": "compressibility"}, "data.crops": 2}
    assert train(options(**changes, **stored)) == (
        "run.yaml: data.crops: a method that samples the model reads no stored images. Remove it."
    )
