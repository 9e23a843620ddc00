"""Options and fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client
from hypothesis import HealthCheck, settings

from bigmm.reduction.cluster import local_cluster
from tests.foreign_cluster import Cluster

#: Few examples, always the same, so that runs are quick and repeatable; ``--hypothesis-profile=long`` looks for more by hand.
settings.register_profile("quick", max_examples=10, derandomize=True, deadline=None, database=None)
settings.register_profile("long", max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden text files anew instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file of this name in golden/ beside the test; ``--update-golden`` writes it."""

    def check(name: str, text: str) -> None:
        path = Path(request.path).parent / "golden" / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            pytest.skip(f"{path.name} written: look at the difference before it is committed")
        assert path.exists(), f"no {path.name}: pytest --update-golden writes it"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of two worker processes, for one file of tests."""
    with local_cluster(2) as started:
        yield started


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Processes that a test starts, as somebody else might have."""
    started = Cluster(tmp_path)
    try:
        yield started
    finally:
        started.close()
