"""What was encoded once is there the next time, is what the model gives, and is never half there."""

import json
import logging
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import small

from penchant import families
from penchant.errors import DataError
from penchant.families import sd15, tiny
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.training.cache import Cache
from penchant.training.encode import Preparation, encode, groups_of
from penchant.training.table import InMemory

ABOUT = {"VAE": "a" * 64, "sizes": "16x16"}


def cache(folder, about=ABOUT, **options):
    options = {"tolerance": 0.02} | options
    return Cache(folder, about, dtype=torch.float16, where="run.yaml: data.cache", **options)


def row(key):
    """What a key gives: numbers of its own, in the shape that its first letter stands for."""
    number = int(key[1:])
    side = {"a": 2, "b": 3}[key[0]]
    return {"mean": torch.full((1, side), float(number)).half(), "told": torch.tensor([[4097.0 + number]])}


def fill(rows, keys):
    for key in rows.missing(keys):
        rows.add([key], row(key))
    return rows.table(keys)


def refused(folder, about=ABOUT):
    with pytest.raises(DataError) as caught:
        cache(folder, about)
    return str(caught.value)


KEYS = ["a0", "a1", "b2", "b3", "a4", "a5", "a1"]


def test_rows_come_back_under_their_keys_in_any_order(tmp_path):
    fill(cache(tmp_path), KEYS)
    again = cache(tmp_path)
    assert again.missing([*KEYS, "a6"]) == ["a6"], "extra data only adds"
    found = again.table(["a5", "a0"]).take([0, 1])
    assert found["mean"].tolist() == [[5, 5], [0, 0]] and found["mean"].dtype == torch.float32
    assert found["told"].tolist() == [[4102], [4097]], "sizes are not rounded"
    assert again.table(["b2", "a0"]).shape(0, "mean") == (3,)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3, "a shard holds rows of one shape"


def test_an_encoding_that_is_killed_goes_on_where_it_stopped(tmp_path):
    """Shards of two rows of 8 bytes; the third row of the second shape is lost with the process."""
    killed = cache(tmp_path, shard_bytes=16)
    for key in ("a0", "a1", "a2", "a3", "a4"):
        killed.add([key], row(key))
    del killed
    (tmp_path / "0123.safetensors").write_bytes(b"written, but its keys were not")
    again = cache(tmp_path, shard_bytes=16)
    assert again.missing(["a0", "a1", "a2", "a3", "a4"]) == ["a4"]
    assert fill(again, ["a0", "a4"]).take([1])["mean"].tolist() == [[4, 4]]


def test_shards_are_read_where_they_lie_in_the_file(tmp_path):
    table = fill(cache(tmp_path), ["a0", "a1"])
    table.take([0])
    (shard,) = tmp_path.glob("*.safetensors")
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(shard) in maps.read_text()


def test_a_cache_of_another_model_or_preparation_is_refused_and_says_which(tmp_path):
    fill(cache(tmp_path), KEYS)
    assert refused(tmp_path, {"VAE": "b" * 64, "sizes": "16x16"}) == (
        f"run.yaml: data.cache: {tmp_path} was made from something else: VAE: aaaaaaaaaaaa... -> "
        "bbbbbbbbbbbb.... Give another folder, undo the change, or remove this one."
    )
    assert ": sizes: 16x16 -> 32x32, new: none -> 1. Give" in refused(
        tmp_path, {**ABOUT, "sizes": "32x32", "new": "1"}
    )
    (tmp_path / "cache.json").write_text("{")
    assert refused(tmp_path).startswith(f"run.yaml: data.cache: {tmp_path}/cache.json cannot be read (")


def test_a_shard_that_is_cut_off_is_named_and_encoded_again(tmp_path, caplog):
    fill(cache(tmp_path), ["a0", "a1"])
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-7])
    with caplog.at_level(logging.WARNING):
        again = cache(tmp_path)
    assert caplog.messages == [
        f"run.yaml: data.cache: {shard} is cut off, got {len(whole) - 7} of {len(whole)} bytes; its 2 "
        "rows are encoded again"
    ]
    assert not shard.exists() and again.missing(["a0", "a1"]) == ["a0", "a1"]
    assert fill(again, ["a0", "a1"]).take([1])["mean"].tolist() == [[1, 1]]
    assert shard.read_bytes() == whole


def test_a_list_of_keys_that_is_cut_off_is_named_as_well(tmp_path, caplog):
    fill(cache(tmp_path), ["a0", "a1"])
    (index,) = tmp_path.glob("*.arrow")
    index.write_bytes(index.read_bytes()[:100])
    assert cache(tmp_path).missing(["a0"]) == ["a0"]
    assert "its list of keys cannot be read" in caplog.text


def test_a_shard_whose_header_is_damaged_is_named(tmp_path):
    fill(cache(tmp_path), ["a0", "a1"])
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    with pytest.raises(DataError) as caught:
        cache(tmp_path).table(["a0"]).take([0])
    assert str(caught.value).startswith(f"run.yaml: data.cache: {shard} is damaged (")
    assert str(caught.value).endswith("Remove this file; its rows are encoded again at the next start.")


def test_a_spot_check_finds_numbers_that_the_model_does_not_give(tmp_path):
    keys = [f"a{n}" for n in range(20)]
    fill(cache(tmp_path), keys)
    asked = []

    def encoded(key):
        asked.append(key)
        return row(key)

    good = cache(tmp_path)
    good.missing(keys)
    good.spot_check(encoded)
    assert asked == ["a0", "a5", "a10", "a15"]
    (shard,) = tmp_path.glob("*.safetensors")
    save_file({**load_file(shard), "mean": torch.full((20, 2), 9.0).half()}, shard)
    bad = cache(tmp_path)
    bad.missing(keys)
    with pytest.raises(DataError) as caught:
        bad.spot_check(lambda key: row(key) | {"mean": torch.tensor([[6.0, 6.0]])})
    assert str(caught.value) == (
        f"run.yaml: data.cache: {tmp_path}: what is stored for a0 is not what the model gives now: mean "
        "differs by 50%. It is damaged, or from other versions of the libraries. Remove the folder, or give "
        "another one."
    )


def test_a_full_disk_leaves_what_is_whole(tmp_path, monkeypatch):
    fill(cache(tmp_path), ["a0"])
    before = sorted(tmp_path.iterdir())

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("penchant.training.cache.save_file", full)
    with pytest.raises(DataError, match=r"cannot be written \(.*No space left.*\)\. Free some space"):
        fill(cache(tmp_path), ["a0", "a1"])
    assert sorted(tmp_path.iterdir()) == before
    assert cache(tmp_path).missing(["a0", "a1"]) == ["a1"]


def test_a_beginning_that_a_kill_has_left_is_removed_when_no_run_can_be_at_it(tmp_path):
    fill(cache(tmp_path), KEYS)
    old, new = tmp_path / ".x.safetensors.1.partial", tmp_path / ".y.safetensors.2.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache(tmp_path)
    assert not old.exists() and new.exists()


def test_whoever_may_read_the_folder_may_read_the_shards(tmp_path):
    before = os.umask(0o022)
    try:
        fill(cache(tmp_path), KEYS)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_a_description_that_is_none_is_named(tmp_path):
    (tmp_path / "cache.json").write_text("[1]")
    assert "cache.json cannot be read" in refused(tmp_path)


def test_two_processes_encode_disjoint_shares_and_read_all(tmp_path):
    """Threads stand for the processes; they wait for each other as accelerate makes them wait."""
    barrier, shares, found = threading.Barrier(2, timeout=20), {}, {}

    def work(process):
        rows = cache(tmp_path, process=process, num_processes=2, wait=barrier.wait)
        shares[process] = rows.missing(KEYS)
        for key in shares[process]:
            rows.add([key], row(key))
        found[process] = rows.table(KEYS).take([0, 1, 4, 5])["mean"]

    threads = [threading.Thread(target=work, args=(process,)) for process in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shares == {0: ["a0", "a1", "b2"], 1: ["b3", "a4", "a5"]}
    assert torch.equal(found[0], found[1]) and found[0][:, 0].tolist() == [0, 1, 4, 5]
    assert json.loads((tmp_path / "cache.json").read_text())["sizes"] == "16x16"


@pytest.fixture(scope="module")
def family(tiny_model):
    return sd15.load(families.resolve(str(tiny_model)))


@pytest.fixture(scope="module")
def groups(tiny_pairs):
    from penchant.data import store

    return groups_of(store.read(tiny_pairs, split="train"), Shape.PAIR, where="x")


def test_what_is_there_is_not_encoded_again(family, groups, tmp_path, monkeypatch):
    """24 images; mirrors that are turned on are added. Half precision is all that differs from memory."""
    seen = []
    real = family.encode_images
    monkeypatch.setattr(family, "encode_images", lambda pixels: (seen.append(len(pixels)), real(pixels))[1])

    def encoded(preparation):
        seen.clear()
        images, prompts = cache(tmp_path / "images"), cache(tmp_path / "prompts", {"text": "x"})
        found = encode(groups, family, preparation, images=images, prompts=prompts, batch_size=8)
        return found, sum(seen)

    plain, mirrored = (Preparation(sizes=((16, 16),), flip=flip) for flip in (False, True))
    first, number = encoded(plain)
    assert number == 24
    again, number = encoded(plain)
    assert number <= 6, "a few are checked"
    both, number = encoded(mirrored)
    assert 24 <= number <= 30
    in_memory = encode(groups, family, mirrored, images=InMemory())
    draws = Randomness(run=0)
    batches = [found.batch([3, 1], draws) for found in (first, again, both, in_memory)]
    assert torch.equal(batches[0].latents, batches[1].latents)
    gap = batches[2].latents - batches[3].latents
    assert 0 < gap.abs().max() < 2e-3 * batches[3].latents.abs().max()
    assert (batches[2].condition["prompt"] - batches[3].condition["prompt"]).abs().max() < 0.02


def test_runs_share_a_cache_and_others_are_refused(options, tmp_path):
    place = tmp_path / "cache"
    first = small.assembled(options(**{"data.cache": str(place)}))
    written = {path: path.stat().st_mtime_ns for path in place.rglob("*.safetensors")}
    assert {path.parent.name for path in written} == {"images", "prompts"}
    second = small.assembled(options(**{"data.cache": str(place)}))
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.safetensors")} == written
    for one, other in zip(first.sources.train(3).micro, second.sources.train(3).micro, strict=True):
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.condition["prompt"], other.condition["prompt"])
    with pytest.raises(
        DataError, match=r"run\.yaml: data\.cache: .*/images was .* sizes: 16x16 -> 8x8\. Give"
    ):
        small.assembled(options(**{"data.cache": str(place), "data.size": 8}))
    other = tiny.stable_diffusion(tmp_path / "other", seed=1)
    with pytest.raises(
        DataError, match=r"/prompts was made from something else: text encoders: \w{12}\.\.\. -> "
    ):
        small.assembled(options(**{"data.cache": str(place), "model": str(other)}))
