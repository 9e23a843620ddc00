"""Text from anybody: formulas and command lines end in an answer or in an error of bigmm's, soon, and run nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bigmm
from bigmm.cli import main
from bigmm.errors import FormulaError
from bigmm.formula import parse_formula

#: Seconds for any formula; a quiet machine needs a hundredth.
PATIENCE = 5.0
#: Characters of a formula that is not read twice.
LONG = 1000

names = st.sampled_from(["y", "x", "g", "f", "`a b`", "`a~b`", "été", "I", "os", "__import__", "x.y", "1", "0", "-1", "1e400"])
operators = st.sampled_from([" + ", " - ", "*", ":", "/", "^", "|", "||", "~", " %in% ", "**", "=", ",", "."])
grammar = st.recursive(
    names,
    lambda inner: st.one_of(
        st.builds("{}{}{}".format, inner, operators, inner),
        st.builds("({})".format, inner),
        st.builds(
            "{}({})".format, st.sampled_from(["I", "log", "C", "factor", "cbind", "offset", "exec", "eval", "getattr", "lambda x: "]), inner
        ),
        st.builds("({} | {})".format, inner, inner),
    ),
    max_leaves=40,
)


def read(text: str) -> None:
    started = time.perf_counter()
    formula = None
    with contextlib.suppress(FormulaError):
        formula = parse_formula(text)
    assert time.perf_counter() - started < PATIENCE
    if formula is not None and len(text) < LONG:
        for single in map(formula.for_response, formula.responses):
            assert parse_formula(single.text) == single


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    read(text)


@given(grammar, grammar)
def test_text_that_looks_like_a_formula(left: str, right: str) -> None:
    read(f"{left} ~ {right}")
    read(f"y ~ {right} + (1 | g)")
    read(f"cbind({left}, {right}, y) ~ 1 + (1 | g)")


@pytest.mark.parametrize(
    "text",
    [
        "y ~ " + "(" * 50_000 + "x" + ")" * 50_000 + " + (1 | g)",
        "y ~ " + "-" * 100_000 + "x + (1 | g)",
        "y ~ I(" + "-" * 50_000 + "x) + (1 | g)",
        "y ~ I(" + "(" * 5_000 + "x" + ")" * 5_000 + ") + (1 | g)",
        "y ~ " + "*".join(f"x{i}" for i in range(64)) + " + (1 | g)",
        "y ~ (" + " + ".join(f"x{i}" for i in range(200)) + ")^99999999999 + (1 | g)",
        "y ~ I(9**9**9**9**9) + (1 | g)",
        "y ~ x + (1 | " + "/".join(f"g{i}" for i in range(5_000)) + ")",
        "y ~ " + " + ".join(["(1 | g)"] * 5_000),
        "y ~ `" + "a" * 1_000_000 + "` + (1 | g)",
        "y" * 1_000_000,
        "y ~ x\x00 + (1 | g)",
        "y ~ \ud800 + (1 | g)",
    ],
    ids=range(13),
)
def test_text_that_wants_to_exhaust(text: str) -> None:
    read(text)


@pytest.mark.parametrize(
    "call",
    [
        "__import__('os').system('true')",
        "I(__import__('os').system('true'))",
        "I((lambda: 1)())",
        "I([y for y in (1, 2)][0])",
        "I(x.__class__.__mro__)",
        "I(x.tofile('stolen'))",
        "log(x, out=x)",
        "I(exec('1'))",
        "I(open('/etc/passwd'))",
        "I(f'{x}')",
        "I((y := 1))",
        "I(globals())",
        "I(x[0])",
        "`__import__('os')`()",
        "eval(x)",
        "np.log(x)",
    ],
)
@pytest.mark.parametrize(
    "place", ["y ~ {} + (1 | g)", "{} ~ 1 + (1 | g)", "y ~ 1 + ({} | g)", "y ~ 1 + (1 | {})", "y ~ offset({}) + (1 | g)"]
)
def test_code_is_refused_and_never_run(call: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("a formula has run something")

    monkeypatch.setattr(os, "system", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    frame = pd.DataFrame({"y": [1.0, 2.0, 4.0, 3.0], "x": [1.0, 0.0, 2.0, 1.0], "g": [1, 1, 2, 2]})
    with pytest.raises(bigmm.BigmmError):
        bigmm.reduce(place.format(call), frame, client=0)


words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "reduce",
            "fit",
            "summary",
            "predict",
            "inspect",
            "plan",
            "merge",
            "subtract",
            "doctor",
            "--json",
            "--help",
            "-o",
            "--memory",
            "-1",
        ]
    ),
    st.sampled_from(
        [
            "y ~ x + (1 | g)",
            "/nonexistent",
            "/etc/passwd",
            ".",
            "s3://",
            "http://127.0.0.1:1/x",
            "tcp://127.0.0.1:1",
            "--reml",
            "--optimizer",
        ]
    ),
)


@given(st.lists(words, max_size=6))
def test_command_lines(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
