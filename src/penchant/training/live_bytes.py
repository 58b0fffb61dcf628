"""How much memory tensors take while something runs, counted and not sampled."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@final
class LiveBytes(TorchDispatchMode):
    """Inside, every tensor that an operation makes is counted until it is freed, on any device and on none.

    What an operation takes and gives back within itself does not count, nor does what an allocator keeps for
    later; the sum is what `torch.cuda.max_memory_allocated` would say, without rounding to blocks.

    Attributes:
        now: Bytes of the living tensors.
        peak: The most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def count(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that were there before; bytes of those not counted yet."""
        before = self.now
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return self.now - before

    def _freed(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(value for value in tree_iter(result) if isinstance(value, Tensor))
        return result
