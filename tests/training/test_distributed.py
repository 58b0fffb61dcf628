"""What launchers may ask for, what is refused, and tensors in shards."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from penchant.errors import ConfigError
from penchant.training import distributed


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """A mesh of one process."""
    file = tmp_path_factory.mktemp("store") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_a_share_of_a_whole_is_cut_as_the_other_tensor_is(mesh):
    like = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])
    value = torch.arange(12.0).reshape(4, 3)
    part = distributed.share(value, like)
    assert part.placements == like.placements and part.device_mesh == mesh
    assert torch.equal(distributed.whole(part), value)
    assert torch.equal(distributed.share(value, torch.zeros(4, 3)), value)


def test_only_the_main_process_keeps_whole_tensors(mesh):
    plain, part = torch.ones(2), distribute_tensor(torch.ones(4), mesh, [Shard(0)])
    kept = distributed.whole_tensors({"plain": plain, "part": part}, main=True)
    assert type(kept["part"]) is torch.Tensor and torch.equal(kept["part"], torch.ones(4))
    assert kept["plain"] is not part and torch.equal(kept["plain"], plain)
    assert distributed.whole_tensors({"plain": plain, "part": part}, main=False) == {}


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "tensor and context parallelism are not supported"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP version 1 is not supported"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "FSDP with weights on the CPU is not supported",
        ),
    ],
)
def test_what_is_not_supported_is_refused_with_what_is(monkeypatch, asked, problem):
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        distributed.accelerator()
    assert str(caught.value) == (
        f"accelerate: {problem}. Take whole copies (`accelerate launch --multi_gpu`, `torchrun`) or "
        "shards (`accelerate launch --use_fsdp --fsdp_version 2`, parameters not offloaded)."
    )


def test_shards_that_accelerate_would_not_make_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ConfigError, match=r"makes no shards \(FSDP2\) for 1 processes on \w+. Take whole"):
        distributed.accelerator()


def test_a_second_way_to_save_memory_of_activations_is_refused(monkeypatch):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    with pytest.raises(ConfigError, match="Set training.gradient_checkpointing in the run file instead"):
        distributed.accelerator()
