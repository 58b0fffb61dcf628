"""Encoded images or prompts in a folder, by key: shards that are whole or not there, mapped to be read.

A shard is `<name>.safetensors` with rows of one shape and, written after it, `<name>.arrow` with their keys.
A shard without its list of keys does not count: an encoding that is killed goes on where it stopped.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import ipc
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from penchant.errors import DataError
from penchant.files import PARTIAL, replacing, write_text
from penchant.protocols import Condition
from penchant.training.table import Table

logger = logging.getLogger(__name__)

_ABOUT: Final = "cache.json"
_SHARD_BYTES: Final = 2**26
_OPEN_SHARDS: Final = 4096
_CHECKED: Final = 4
_SECONDS_OF_A_WRITE: Final = 3600


@final
class Cache:
    """Rows that are kept in a folder between runs; several processes write their shares of it.

    Args:
        folder: Made if need be.
        about: What the rows were made from and how, by plain name; all of it must be the same next time.
        dtype: Type in which latents and embeddings are kept.
        tolerance: Share of a tensor's norm by which a spot check may differ from what is stored.
        where: Name of the option, for messages.
        process: Number of this process.
        num_processes: How many share the encoding.
        wait: Returns when every process has called it.
        shard_bytes: A shard is written when its rows have reached this size; a kill loses less than that.

    Raises:
        DataError: The folder was made from something else, or cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, str],
        *,
        dtype: torch.dtype,
        tolerance: float,
        where: str,
        process: int = 0,
        num_processes: int = 1,
        wait: Callable[[], None] = lambda: None,
        shard_bytes: int = _SHARD_BYTES,
    ) -> None:
        self.folder, self.dtype, self.tolerance, self.where = folder, dtype, tolerance, where
        self.process, self.num_processes, self.wait, self.shard_bytes = (
            process,
            num_processes,
            wait,
            shard_bytes,
        )
        about = {**about, "kept as": str(dtype).removeprefix("torch."), "layout": "1"}
        self._refuse_other(about)
        if process == 0:
            with self._writing():
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / _ABOUT, json.dumps(about, indent=2))
            self._drop_damaged()
        self._keys: list[str] = []
        self._rows: list[Condition] = []
        self._found: list[str] = []
        self._read()

    def missing(self, keys: Iterable[str]) -> list[str]:
        """This process's share of the distinct keys that are still to be encoded, in order."""
        distinct = list(dict.fromkeys(keys))
        known = self._numbers(distinct) >= 0
        self._found = [key for key, there in zip(distinct, known, strict=True) if there]
        absent = [key for key, there in zip(distinct, known, strict=True) if not there]
        start, end = (
            len(absent) * number // self.num_processes for number in (self.process, self.process + 1)
        )
        return absent[start:end]

    def spot_check(self, encoded: Callable[[str], Condition]) -> None:
        """Encode a few of the requested keys that were there already once more, evenly spaced.

        Raises:
            DataError: What is stored is something else.
        """
        for key in self._found[:: max(1, len(self._found) // _CHECKED)]:
            stored = self._table([key]).take([0])
            for name, value in encoded(key).items():
                value = value[0].float()
                gap, size = (stored[name][0] - value).norm(), value.norm()
                if not gap <= self.tolerance * size + 1e-5 * value.numel() ** 0.5:
                    raise DataError(
                        f"{self.where}: {self.folder}: what is stored for {key} is not what the model gives "
                        f"now: {name} differs by {100 * gap / size:.2g}%. It is damaged, or from other "
                        "versions of the libraries. Remove the folder, or give another one."
                    )

    def add(self, keys: Sequence[str], rows: Condition) -> None:
        """Keep rows of one shape: tensors by name, leading axis as long as the keys."""
        if self._rows and _shapes(self._rows[0]) != _shapes(rows):
            self._flush()
        self._keys += keys
        self._rows.append(rows)
        if sum(value.nbytes for piece in self._rows for value in piece.values()) >= self.shard_bytes:
            self._flush()

    def table(self, keys: Sequence[str]) -> Table:
        """The rows of these keys, which the processes have encoded between them."""
        self._flush()
        self._read()
        return self._table(keys)

    def _table(self, keys: Sequence[str]) -> Table:
        numbers = self._numbers(keys)
        assert (numbers >= 0).all(), "every missing key was in the share of one process"
        return Table(self._shards, torch.from_numpy(self._places[numbers]))

    def _refuse_other(self, about: Mapping[str, str]) -> None:
        try:
            known = dict(json.loads((self.folder / _ABOUT).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{self.where}: {self.folder}/{_ABOUT} cannot be read ({error}). Remove the folder, or give "
                "another one."
            ) from error
        differing = [
            f"{name}: {_short(known.get(name, 'none'))} -> {_short(about.get(name, 'none'))}"
            for name in dict.fromkeys([*about, *known])
            if known.get(name) != about.get(name)
        ]
        if differing:
            raise DataError(
                f"{self.where}: {self.folder} was made from something else: {', '.join(differing)}. Give "
                "another folder, undo the change, or remove this one."
            )

    def _drop_damaged(self) -> None:
        """Take out shards that are cut off or gone, whose rows will be encoded again, and old beginnings."""
        for partial in self.folder.glob(f".*{PARTIAL}"):
            if time.time() - partial.stat().st_mtime > _SECONDS_OF_A_WRITE:  # else another run may be at it
                with self._writing():
                    partial.unlink(missing_ok=True)
        for index in sorted(self.folder.glob("*.arrow")):
            shard = index.with_suffix(".safetensors")
            try:
                rows, expected = _read_index(index)
                size = shard.stat().st_size if shard.exists() else 0
                said = f"got {size} of {expected} bytes; its {rows.num_rows} rows are encoded again"
            except (pa.ArrowException, OSError, KeyError) as error:
                size, expected, said = (
                    -1,
                    0,
                    f"its list of keys cannot be read ({error}); it is encoded again",
                )
            if size != expected:
                logger.warning("%s: %s is cut off, %s", self.where, shard, said)
                with self._writing():
                    index.unlink()
                    shard.unlink(missing_ok=True)

    def _read(self) -> None:
        """Read which rows there are in all shards; no process writes while another one reads."""
        self.wait()
        names, keys, places = [], [], [np.empty((0, 2), np.int64)]
        for number, index in enumerate(sorted(self.folder.glob("*.arrow"))):
            rows, _ = _read_index(index)
            names.append(index.with_suffix(".safetensors"))
            keys.append(rows["key"].combine_chunks())
            places.append(np.stack([np.full(len(rows), number), np.arange(len(rows))], 1))
        self._shards = _Shards(names, self.where)
        self._index = pa.concat_arrays(keys) if keys else pa.array([], pa.large_string())
        self._places = np.concatenate(places)
        self.wait()

    def _numbers(self, keys: Sequence[str]) -> np.ndarray:
        """Row of each key among all rows; -1 where there is none."""
        wanted, options = pa.array(keys, pa.large_string()), pc.SetLookupOptions(value_set=self._index)
        found = pc.call_function("index_in", [wanted], options)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False)

    def _flush(self) -> None:
        """Write the rows that were added since the last shard."""
        if not self._rows:
            return
        name = hashlib.sha256("\n".join(self._keys).encode()).hexdigest()[:32]
        tensors = {key: torch.cat([piece[key] for piece in self._rows]).contiguous() for key in self._rows[0]}
        with self._writing():
            shard = self.folder / f"{name}.safetensors"
            with replacing(shard) as path:
                save_file(tensors, path)
            with replacing(shard.with_suffix(".arrow")) as path:
                _write_index(path, self._keys, shard.stat().st_size)
        self._keys, self._rows = [], []

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self.where}: {self.folder} cannot be written ({error}). Free some space, change the "
                "rights or give another folder; what is written stays."
            ) from error


@final
class _Shards:
    """The tensors of each file, mapped into memory when they are first needed."""

    def __init__(self, files: Sequence[Path], where: str) -> None:
        self.files, self.where = files, where
        self._opened = lru_cache(maxsize=_OPEN_SHARDS)(self._open)

    def __getitem__(self, number: int, /) -> Mapping[str, Tensor]:
        return self._opened(number)

    def _open(self, number: int) -> Mapping[str, Tensor]:
        try:
            return load_file(self.files[number])
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self.where}: {self.files[number]} is damaged ({error}). Remove this file; its rows are "
                "encoded again at the next start."
            ) from error


def _shapes(rows: Condition) -> dict[str, torch.Size]:
    return {name: value.shape[1:] for name, value in rows.items()}


def _short(value: str) -> str:
    """A value as it is shown: of a hash, the beginning."""
    return f"{value[:12]}..." if len(value) == 64 else value


def _write_index(path: Path, keys: Sequence[str], size: int) -> None:
    """The keys of a shard, row by row, and the size of its file in bytes."""
    schema = pa.schema([("key", pa.large_string())], metadata={"bytes": str(size)})
    with ipc.new_file(path, schema) as writer:
        writer.write_table(pa.table({"key": pa.array(keys, pa.large_string())}, schema=schema))


def _read_index(path: Path) -> tuple[pa.Table, int]:
    with ipc.open_file(path) as reader:
        return reader.read_all(), int(reader.schema.metadata[b"bytes"])
