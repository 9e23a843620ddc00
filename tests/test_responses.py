"""Several responses in one pass: the same statistics and fits as one pass each."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.errors import FormulaError, LabelError
from bigmm.formula import parse_formula
from bigmm.solver.planning import make_plan

RIGHT = "a * x + (x | g) + (1 | h)"
RESPONSES = ("y", "z", "log(u)")
FORMULA = f"cbind({', '.join(RESPONSES)}) ~ {RIGHT}"


def rows(n: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, h = rng.integers(0, 15, n), rng.integers(0, 7, n)
    frame = pd.DataFrame(
        {"g": [f"g{i}" for i in g], "h": h, "a": rng.choice(list("pqr"), n), "x": rng.normal(3.0, 1.0, n), "w": rng.uniform(0.5, 2, n)}
    )
    for name, offset in (("y", 0.0), ("z", 1e6), ("v", -3.0)):
        effects = rng.normal(size=15)[g] + 0.5 * rng.normal(size=7)[h]
        frame[name] = offset + frame["x"] + effects + rng.normal(size=n)
    return frame.assign(u=np.exp(0.3 * frame["v"]), o=rng.normal(size=n))


FRAME = rows()


@pytest.mark.parametrize("options", [{}, {"weights": "w"}, {"offset": "o"}], ids=["plain", "weights", "offset"])
def test_the_same_as_one_pass_each(options: dict[str, str]) -> None:
    together = bigmm.reduce(FORMULA, FRAME, client=0, **options)
    P = len(together.columns)
    assert together.XytXy.shape == (P + 3, P + 3)
    assert {group.ZtXy.shape[2] for group in together.groups} == {P + 3}
    for place, response in enumerate(RESPONSES):
        alone = bigmm.reduce(f"{response} ~ {RIGHT}", FRAME, client=0, **options)
        mine = [*range(P), P + place]
        assert together.design.y_shift[response] == alone.design.y_shift[response]
        np.testing.assert_allclose(together.XytXy[np.ix_(mine, mine)], alone.XytXy, rtol=1e-13)
        for found, wanted in zip(together.groups, alone.groups, strict=True):
            np.testing.assert_allclose(found.ZtXy[:, :, mine], wanted.ZtXy, rtol=1e-12, atol=1e-9)
        theta = together.model(f"{response} ~ {RIGHT}").theta0
        assert together.model(f"{response} ~ {RIGHT}").objective(theta) == pytest.approx(alone.model().objective(theta), rel=1e-11)
        one, other = together.fit(f"{response} ~ {RIGHT}"), alone.fit()
        assert one.objective == pytest.approx(other.objective, rel=1e-10)
        np.testing.assert_allclose(one.beta, other.beta, rtol=1e-5)
        pd.testing.assert_series_equal(one.predict(FRAME), other.predict(FRAME), rtol=1e-4, atol=1e-4)  # theta is flat to sqrt(rounding)


def test_fits_are_those_of_each_alone_to_the_bit() -> None:
    cp = bigmm.reduce(FORMULA, FRAME, client=0)
    fits = cp.fits(reml=False)
    assert list(fits) == list(RESPONSES)
    for response, fit in fits.items():
        alone = cp.fit(f"{response} ~ {RIGHT}", reml=False)
        assert fit.formula.text == f"{response} ~ {RIGHT}"
        assert fit.summary() == alone.summary()
        assert fit.objective == alone.objective
        np.testing.assert_array_equal(fit.theta, alone.theta)
        np.testing.assert_array_equal(fit.beta, alone.beta)
        for name, table in fit.ranef().items():
            pd.testing.assert_frame_equal(table, alone.ranef()[name])
    # What is asked of one fit after all were made is not disturbed by the others.
    for response, fit in fits.items():
        mine, wanted = fit.condvar(), cp.fit(f"{response} ~ {RIGHT}", reml=False).condvar()
        np.testing.assert_allclose(mine["g"]["vcov"], wanted["g"]["vcov"], rtol=1e-12)


@pytest.mark.parametrize("right", ["1 + (1 | g)", "x + (x | g)", "x + (x | g) + (1 | h)", "a + (1 | g) + (1 | h) + (1 | g:h)"])
def test_each_response_has_its_own_everything(right: str) -> None:
    """Work arrays are shared among responses, what a response gives to them is not."""
    cp = bigmm.reduce(f"cbind(y, z, v) ~ {right}", FRAME, client=0)
    for response, fit in cp.fits().items():
        alone = bigmm.lmer(f"{response} ~ {right}", FRAME, client=0)
        assert fit.objective == pytest.approx(alone.objective, rel=1e-10)
        for group, b in alone.ranef().items():
            np.testing.assert_allclose(fit.ranef()[group], b, rtol=1e-3, atol=1e-4)


def test_one_symbolic_analysis_for_all() -> None:
    frame = FRAME.assign(d=np.arange(len(FRAME)) % 40)
    cp = bigmm.reduce("cbind(y, z, v) ~ x + (1 | g) + (1 | h) + (1 | d)", frame, client=0)
    with mock.patch("bigmm.solver.model.make_plan", side_effect=make_plan) as analysed:
        cp.fits()
    assert analysed.call_count == 1


def test_sub_models_of_some_responses() -> None:
    cp = bigmm.reduce(FORMULA, FRAME, client=0)
    fits = cp.fits("cbind(z, y) ~ x + (1 | g)", contrasts=None)
    assert list(fits) == ["z", "y"]
    assert fits["y"].objective == cp.fit("y ~ x + (1 | g)").objective
    assert list(cp.fits("z ~ x + (1 | g)")) == ["z"]
    sums = cp.fits(contrasts={"a": "sum"})
    assert sums["y"].coef_names[1:3] == ("a1", "a2")


def test_a_model_has_one_response() -> None:
    cp = bigmm.reduce(FORMULA, FRAME, client=0)
    for ask in (cp.model, cp.fit, lambda: cp.fit(FORMULA)):
        with pytest.raises(
            LabelError, match=r"found 'y', 'z', 'log\(u\)': name one, as in cp\.fit\('y ~ a \* x .*'\), or use cp\.fits\(\)$"
        ):
            ask()
    with pytest.raises(LabelError, match=r"collected for the response 'y', 'z', 'log\(u\)': found 'u'"):
        cp.fit("u ~ x + (1 | g)")
    with pytest.raises(FormulaError, match=r"bigmm\.reduce\(formula, data\)\.fits\(\)\n.*\n  \^$"):
        bigmm.lmer(FORMULA, FRAME)


def test_rows_are_complete_in_all_responses() -> None:
    frame = FRAME.assign(
        y=FRAME["y"].mask(FRAME.index < 5),
        z=FRAME["z"].mask((FRAME.index > 2) & (FRAME.index < 9)),
        u=FRAME["u"].mask(FRAME.index == 399, -1.0),
    )
    cp = bigmm.reduce(FORMULA, frame, client=0)
    assert (cp.rows.used, dict(cp.rows.missing)) == (390, {"y": 5, "z": 6, "log(u)": 1})
    complete = frame.iloc[9:399]
    assert cp.fit(f"z ~ {RIGHT}").objective == pytest.approx(bigmm.lmer(f"z ~ {RIGHT}", complete).objective, rel=1e-10)


def test_sums_differences_and_disk(tmp_path: Path) -> None:
    first, second = (bigmm.reduce(FORMULA, frame, client=0) for frame in (FRAME[:150], FRAME[150:].assign(y=FRAME["y"] + 50)))
    assert first.design.y_shift != second.design.y_shift
    whole, direct = first + second, bigmm.reduce(FORMULA, FRAME.assign(y=FRAME["y"] + 50 * (FRAME.index >= 150)), client=0)
    whole.save(tmp_path / "cp")
    for cp in (whole, bigmm.load(tmp_path / "cp")):
        assert isinstance(cp, bigmm.CrossProducts)
        for fit, wanted in zip(cp.fits().values(), direct.fits().values(), strict=True):
            assert fit.objective == pytest.approx(wanted.objective, rel=1e-9)
    left = whole - first
    for response, fit in left.fits().items():
        assert fit.objective == pytest.approx(second.fit(f"{response} ~ {RIGHT}").objective, rel=1e-8)
    whole.fits()["log(u)"].save(tmp_path / "fit")
    loaded = bigmm.load(tmp_path / "fit")
    assert isinstance(loaded, bigmm.LinearMixedModelFit)
    pd.testing.assert_series_equal(loaded.predict(FRAME), whole.fits()["log(u)"].predict(FRAME))


def test_names_that_need_backticks() -> None:
    formula = parse_formula("cbind(`the y`, log(`the y`), I(a + b), `a~b`, `~`) ~ 1 + (1 | g)")
    assert [response.text for response in formula.responses] == ["the y", "log(`the y`)", "I(a + b)", "a~b", "~"]
    for response in formula.responses:
        single = formula.for_response(response)
        assert parse_formula(single.text) == single
    cp = bigmm.reduce("cbind(`the y`, x) ~ 1 + (1 | g)", FRAME.rename(columns={"y": "the y"}), client=0)
    assert cp.fits()["the y"].nobs == len(FRAME)


def test_one_response_in_cbind_is_a_response() -> None:
    cp = bigmm.reduce("cbind(y) ~ x + (1 | g)", FRAME, client=0)
    assert cp.fit().objective == bigmm.lmer("y ~ x + (1 | g)", FRAME).objective


def test_fifty_responses_are_one_pass() -> None:
    rng = np.random.default_rng(1)
    frame = FRAME.assign(**{f"r{i}": FRAME["y"] + rng.normal(size=len(FRAME)) for i in range(50)})
    names = [f"r{i}" for i in range(50)]
    cp = bigmm.reduce(f"cbind({', '.join(names)}) ~ x + (1 | g) + (1 | h)", frame, client=0)
    fits = cp.fits()
    assert list(fits) == names
    assert fits["r49"].objective == pytest.approx(bigmm.lmer("r49 ~ x + (1 | g) + (1 | h)", frame).objective, rel=1e-10)
