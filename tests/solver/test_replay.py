"""A search that was killed goes on from its log, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.columns import Array
from bigmm.errors import StorageError
from bigmm.solver.model import LinearMixedModel

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def cp() -> bigmm.CrossProducts:
    rng = np.random.default_rng(0)
    g, h = rng.integers(0, 40, 900), rng.integers(0, 12, 900)
    x = rng.normal(size=900)
    y = x + rng.normal(size=40)[g] + rng.normal(size=40)[g] * x + rng.normal(size=12)[h] + rng.normal(size=900)
    return bigmm.reduce("y ~ x + (x|g) + (1|h)", pd.DataFrame({"g": g, "h": h, "x": x, "y": y}))


class StopError(Exception):
    """What stops a search."""


def count(model: LinearMixedModel, monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """Thetas at which the model is really evaluated."""
    seen: list[Array] = []
    real = model.evaluate
    monkeypatch.setattr(model, "evaluate", lambda theta: (seen.append(theta), real(theta))[1])
    return seen


@pytest.mark.parametrize("method", ["newton", "bobyqa", "lbfgs"])
@pytest.mark.parametrize("after", [1, 4])
def test_goes_on_where_it_was(cp: bigmm.CrossProducts, tmp_path: Path, method: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cp.model().fit(optimizer=method)

    def stop(number: int, _theta: Array, _value: float) -> None:
        if number > after:
            raise StopError

    with pytest.raises(StopError):
        cp.model().fit(optimizer=method, on_evaluation=stop, log=tmp_path / "log")
    model = cp.model()
    seen = count(model, monkeypatch)
    found = model.fit(optimizer=method, log=tmp_path / "log")
    assert found.objective == expected.objective
    assert [value for _, value in found.optimization.trace] == [value for _, value in expected.optimization.trace]
    assert len(seen) <= expected.nevals - after + 2  # the estimates, and derivatives that were not yet written
    seen.clear()
    again = model.fit(optimizer=method, log=tmp_path / "log")
    np.testing.assert_array_equal(again.theta, expected.theta)
    assert len(seen) == 1


def test_last_line_cut_off(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    expected = cp.model().fit(log=tmp_path / "log")
    content = (tmp_path / "log").read_bytes()
    for length in (1, 30, len(content) // 2, len(content) - 1):
        (tmp_path / "log").write_bytes(content[:length])
        assert cp.model().fit(log=tmp_path / "log").objective == expected.objective
        assert all(json.loads(line) for line in (tmp_path / "log").read_text().splitlines())


def test_of_another_model(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    cp.model().fit(log=tmp_path / "log")
    with pytest.raises(StorageError, match="was made for another model or other data: choose another place"):
        cp.model(reml=False).fit(log=tmp_path / "log")
    with pytest.raises(StorageError, match="was made for another model"):
        cp.model("y ~ x + (1|g)").fit(log=tmp_path / "log")


@pytest.mark.parametrize("content", ["{}\n", "no JSON\n", "[]\n", '{"format": 1}\n', '{"format": 1, "identity": {}}\n3\n'])
def test_damaged(cp: bigmm.CrossProducts, tmp_path: Path, content: str) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(StorageError, match=r"log' cannot be read|was made for another model"):
        cp.model().fit(log=tmp_path / "log")


def test_nowhere_to_write(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write the log '.*/absent/log' \(No such file or directory\)"):
        cp.model().fit(log=tmp_path / "absent" / "log")


def test_of_other_contrasts(tmp_path: Path) -> None:
    """Matrices that numpy writes alike, in the middle of many levels or behind the eighth digit."""
    rng = np.random.default_rng(3)
    f, g = np.arange(800) % 40, rng.integers(0, 12, 800)
    y = 3 * rng.normal(size=40)[f] + rng.normal(size=12)[g] + rng.normal(size=800)
    cp = bigmm.reduce("y ~ f + (1 | g)", pd.DataFrame({"y": y, "f": [f"l{level:02}" for level in f], "g": g}), client=0)
    first = np.vstack([np.zeros((1, 39)), np.eye(39)])
    second, third = first.copy(), first.copy()
    second[:, 15:25], second[15:25, 3], third[1, 0] = 0.0, 0.5, 1.0 + 1e-12
    cp.model(contrasts={"f": first}).fit(start=[1.0], log=tmp_path / "log")
    assert repr(first) == repr(second) == repr(third)
    for other in (second, third):
        with pytest.raises(StorageError, match="was made for another model"):
            cp.model(contrasts={"f": other}).fit(start=[1.0], log=tmp_path / "log")


@pytest.mark.parametrize("content", ['{"important": [1, 2, 3]}', "y,g\n1,2\n3,4\n5,6", "n", "{}"])
def test_a_file_of_others_keeps_what_is_in_it(cp: bigmm.CrossProducts, tmp_path: Path, content: str) -> None:
    (tmp_path / "notes").write_text(content)
    with pytest.raises(StorageError, match=r"notes' cannot be read .*: remove it and start again, or choose another place"):
        cp.model().fit(log=tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == content
