"""On which of PyTorch's kernels attention runs; gradients tell that the second time is on the same."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from penchant.families import sd15

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
