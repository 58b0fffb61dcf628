"""Processes of one run that do not belong together are refused; how they end is in tests/whole."""

from types import SimpleNamespace

import pytest
import torch

from penchant.errors import RunFolderError
from penchant.runs.folder import RunFolder
from penchant.runs.processes import require_one_start


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([[7, 10]], r"would go on from different steps, \[5, 7\]. Put the run folder on a file system"),
        ([[5, 11]], "the processes read different data. Give every machine the same file under data.path"),
    ],
)
def test_processes_that_see_different_files_are_refused(tmp_path, others, message):
    accelerator = SimpleNamespace(device="cpu", gather=lambda here: torch.cat([here, torch.tensor(others)]))
    with pytest.raises(RunFolderError, match=message):
        require_one_start(accelerator, 5, f"{10:012x}" + "f" * 52, RunFolder(tmp_path))
    accelerator.gather = lambda here: torch.cat([here, here])
    require_one_start(accelerator, 5, f"{10:012x}", RunFolder(tmp_path))
