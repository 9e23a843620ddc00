"""What may still be taken: the environment, the machine, control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from bigmm.errors import ModelError
from bigmm.solver import memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1000", 1e3), ("8GiB", 8 * 2**30), ("8 GiB", 8 * 2**30), ("1.5gb", 1.5e9), ("2kB", 2e3), ("3TB", 3e12), ("5B", 5.0), ("1e9", 1e9)],
)
def test_amounts(text: str, expected: float) -> None:
    assert memory.read_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "8 GiB free", "8XB", "nan"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ModelError, match="no amount of memory"):
        memory.read_bytes(text)


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIGMM_MEMORY", raising=False)
    assert 0 < memory.available_memory() <= psutil.virtual_memory().total
    monkeypatch.setenv("BIGMM_MEMORY", "7 MB")
    assert memory.available_memory() == 7e6


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("memory_", "memory.")).write_text(text)


def test_second_version(tmp_path: Path) -> None:
    """The tightest of a group and its parents; the page cache counts as free."""
    write(tmp_path / "proc/self", cgroup="0::/slurm/job\n")
    write(tmp_path / "cg/slurm/job", memory_max="max", memory_current="100", memory_stat="anon 60\ninactive_file 40\n")
    write(tmp_path / "cg/slurm", memory_max="1000", memory_current="700", memory_stat="inactive_file 50\n")
    write(tmp_path / "cg")
    assert memory._groups(tmp_path / "proc", tmp_path / "cg") == [350.0]


def test_first_version(tmp_path: Path) -> None:
    write(tmp_path / "proc/self", cgroup="5:cpu:/x\n4:memory:/elsewhere\n0::/\n")
    limits = {"memory_limit_in_bytes": "900", "memory_usage_in_bytes": "1000", "memory_stat": "total_inactive_file 30\n"}
    write(tmp_path / "cg/memory", **limits)  # as a container sees it: its own group at the root
    assert memory._groups(tmp_path / "proc", tmp_path / "cg") == [0.0]


def test_no_groups_and_no_proc(tmp_path: Path) -> None:
    assert memory._groups(tmp_path, tmp_path) == []
    assert memory._machine(tmp_path) == psutil.virtual_memory().total


@pytest.mark.parametrize("shape", [(0,), (3, 2, 2), (2**18, 2), (2**17 + 1,)])
def test_zeros(shape: tuple[int, ...]) -> None:
    found = memory.zeros(*shape)
    assert found.shape == shape
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, 0.0)
    found += 1.0
    assert found.sum() == found.size


def test_zeros_take_memory_when_they_are_written_and_none_when_they_are_gone() -> None:
    size, slack = 25, 8.0
    before = resident()
    found = memory.zeros(size, 10**6 // 8)
    assert found.sum() == 0.0
    assert resident() < before + slack
    found[:] = 1.0
    assert resident() > before + size - slack
    del found
    assert resident() < before + slack


def resident() -> float:
    """Megabytes of this process."""
    return psutil.Process().memory_info().rss / 1e6
