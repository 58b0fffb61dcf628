"""On which of PyTorch's kernels attention runs; what is kept of weights in another type."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from penchant.families import sd15
from penchant.training.live_bytes import LiveBytes

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class Calls(TorchDispatchMode):
    """Every operation that is called inside."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("side", "autocast", "fused"),
    [(8, torch.bfloat16, False), (16, torch.bfloat16, True), (8, None, True)],
)
def test_attention_to_few_tokens_in_bfloat16_is_not_fused_on_the_cpu(tiny_model, side, autocast, fused):
    family = sd15.load(tiny_model)
    noisy, condition = torch.randn(1, 4, side, side), family.encode_prompts(["a fish"])
    outputs = {}
    for dtype in (None, autocast):
        with torch.no_grad(), Calls() as calls:
            outputs[dtype] = family.denoiser(family.network, autocast=dtype)(
                noisy, torch.tensor([500]), condition
            )
    assert (FUSED in calls.seen) is fused
    assert torch.backends.cuda.flash_sdp_enabled()
    torch.testing.assert_close(outputs[autocast].float(), outputs[None], rtol=0.1, atol=0.05)


def test_no_copy_of_a_weight_outlives_its_layer(tiny_model):
    """Counted without gradient, as in the first pass through checkpointed parts."""
    family = sd15.load(tiny_model)
    network = family.network.requires_grad_(True)
    denoiser = family.denoiser(network, autocast=torch.bfloat16)
    condition = family.encode_prompts(["a fish"])
    with torch.no_grad(), LiveBytes() as live:
        live.count(network.parameters())
        before = live.now
        denoiser(torch.randn(1, 4, 2, 2), torch.tensor([500]), condition)
    assert live.peak - before < before / 4  # all copies in bfloat16 would be half as large as the weights
