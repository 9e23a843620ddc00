"""Choose a model inside crossproducts: coded columns, no row read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts, GroupProducts
from bigmm.errors import LabelError, ModelError
from bigmm.formula.coding import Coding, ContrastChoice, check_contrasts, code_terms
from bigmm.formula.terms import Formula, RandomEffectsTerm
from bigmm.solver.blocks import GroupBlocks, ModelBlocks, PairBlocks
from bigmm.solver.covariance import RelativeCovariance, TermCovariance, lme4_order
from bigmm.solver.fixed import FixedPart, fixed_part, shifted_basis
from bigmm.solver.identification import check_identified, check_residual

#: Blocks that are coded at once: what is half done stays small.
_BATCH = 2**12


@dataclass(frozen=True, slots=True, eq=False)
class SelectedModel:
    """Everything about one model that does not depend on theta."""

    formula: Formula
    fixed: FixedPart
    groups: tuple[GroupProducts, ...]
    codings: tuple[Coding, ...]
    covariance: RelativeCovariance
    blocks: ModelBlocks
    contrasts: Mapping[str, ContrastChoice]


def select(cp: CrossProducts, formula: Formula, contrasts: Mapping[str, ContrastChoice] | None) -> SelectedModel:
    """The crossproducts of one model.

    Raises
    ------
    LabelError
        When the formula asks for columns, factors or a response that were not collected.
    ModelError
        When the data cannot identify the model: too few rows or levels, a constant response; for contrasts of what is
        no category.
    """
    response = _response_place(cp, formula)
    _check_collected(cp, formula)
    if not cp.nobs:
        raise ModelError("the crossproducts hold no row, and a model needs some: were all of them subtracted?")
    contrasts = {} if contrasts is None else contrasts
    check_contrasts(contrasts, cp.design.formula.fixed, cp.design.kinds)
    fixed = fixed_part(cp, formula, contrasts, response)
    found = [_find_group(cp, term.group) for term in formula.random]
    groups = tuple(dict.fromkeys(found))
    terms = [(groups.index(group), term) for group, term in zip(found, formula.random, strict=True)]
    coded = [_code_random(cp, groups[g], term) for g, term in terms]
    covariance, codings = _covariance(terms, coded, groups)
    blocks = code_blocks(cp, fixed, groups, codings)
    check_identified(blocks, groups, codings, covariance)
    return SelectedModel(formula, fixed, groups, codings, covariance, blocks, contrasts)


def select_response(selected: SelectedModel, cp: CrossProducts, formula: Formula) -> SelectedModel:
    """The same model for another of the responses: only what holds y is new."""
    coding = selected.fixed.coding
    basis, M, beta_shift = shifted_basis(cp, coding.matrix, _response_place(cp, formula))
    fixed = replace(selected.fixed, basis=basis, M=M, beta_shift=beta_shift)
    groups = tuple(
        replace(own, ZtXy=_code(coding.matrix, group.ZtXy, fixed.basis))
        for own, group, coding in zip(selected.blocks.groups, selected.groups, selected.codings, strict=True)
    )
    blocks = replace(selected.blocks, groups=groups, XytXy=_XytXy(cp, fixed))
    check_residual(blocks.XytXy)
    return replace(selected, formula=formula, fixed=fixed, blocks=blocks)


def _response_place(cp: CrossProducts, formula: Formula) -> int:
    """Which of the responses a model is for."""
    known = cp.design.formula.responses
    if len(formula.responses) > 1:
        listed = ", ".join(repr(response.text) for response in formula.responses)
        raise LabelError(f"a model has one response, found {listed}: name one, as in cp.fit('{_example(formula)}'), or use cp.fits()")
    if formula.responses[0] not in known:
        collected = ", ".join(repr(response.text) for response in known)
        raise LabelError(
            f"the crossproducts were collected for the response {collected}: found {formula.responses[0].text!r}; "
            "another response needs another pass over the rows"
        )
    return known.index(formula.responses[0])


def _example(formula: Formula) -> str:
    return formula.for_response(formula.responses[0]).text


def _check_collected(cp: CrossProducts, formula: Formula) -> None:
    design = cp.design
    if formula.offsets != design.formula.offsets:
        raise LabelError(
            f"the crossproducts were collected for the response and offset of {design.formula.text!r}: "
            f"found {formula.text!r}; another offset needs another pass over the rows"
        )
    unknown = [name for name in formula.names if name not in design.kinds]
    if unknown:
        known = ", ".join(design.formula.names)
        raise LabelError(f"the crossproducts hold nothing about column {unknown[0]!r}, only about {known}: reduce the data with it")


def _find_group(cp: CrossProducts, names: tuple[str, ...]) -> GroupProducts:
    for group in cp.groups:
        if set(group.names) == set(names):
            return group
    known = ", ".join(repr(group.name) for group in cp.groups)
    raise LabelError(f"the crossproducts have no grouping factor {':'.join(names)!r}, only {known}: reduce the data with it")


def _code_random(cp: CrossProducts, group: GroupProducts, term: RandomEffectsTerm) -> Coding:
    """Coded columns of Z for one term; as in lme4, `contrasts` is for the fixed part alone."""
    coding = code_terms(term.terms, group.columns, cp.design.kinds, cp.design.categories)
    if not coding.names:
        raise ModelError(f"the random-effects term on {term.name!r} has no columns")
    return coding


def _covariance(
    terms: list[tuple[int, RandomEffectsTerm]], coded: list[Coding], groups: tuple[GroupProducts, ...]
) -> tuple[RelativeCovariance, tuple[Coding, ...]]:
    """Theta's layout, and the coding of each grouping factor: the columns of all its terms side by side."""
    order = lme4_order([len(groups[g].levels) for g, _ in terms])
    sizes = [0] * len(groups)
    covariances: list[TermCovariance] = []
    matrices: list[list[Array]] = [[] for _ in groups]
    names: list[list[str]] = [[] for _ in groups]
    position = 0
    for index in order:
        g, coding = terms[index][0], coded[index]
        k = len(coding.names)
        entries = k * (k + 1) // 2
        columns = slice(sizes[g], sizes[g] + k)
        covariances.append(TermCovariance(index, g, groups[g].name, coding.names, columns, slice(position, position + entries)))
        matrices[g].append(coding.matrix)
        names[g] += coding.names
        sizes[g] += k
        position += entries
    codings = tuple(Coding(tuple(n), np.column_stack(m)) for n, m in zip(names, matrices, strict=True))
    return RelativeCovariance(tuple(covariances), tuple(sizes)), codings


def code_blocks(cp: CrossProducts, fixed: FixedPart, groups: tuple[GroupProducts, ...], codings: tuple[Coding, ...]) -> ModelBlocks:
    """The crossproducts of coded columns; `groups` are those of `cp`, in the order of the codings."""
    G = fixed.basis
    positions = [next(i for i, group in enumerate(cp.groups) if group is wanted) for wanted in groups]
    coded = tuple(
        GroupBlocks(group.name, _code(coding.matrix, group.ZtZ, coding.matrix), _code(coding.matrix, group.ZtXy, G))
        for group, coding in zip(groups, codings, strict=True)
    )
    pairs = {}
    for i in range(len(groups)):
        for j in range(i + 1, len(groups)):
            pairs[i, j] = _pair(cp, positions[i], positions[j], codings[i], codings[j])
    return ModelBlocks(coded, pairs, _XytXy(cp, fixed), cp.nobs, cp.sum_log_weights)


def _XytXy(cp: CrossProducts, fixed: FixedPart) -> Array:
    product = fixed.basis.T @ cp.XytXy @ fixed.basis
    return np.asarray((product + product.T) / 2)


def _pair(cp: CrossProducts, g: int, h: int, left: Coding, right: Coding) -> PairBlocks:
    raw = cp.pairs[min(g, h), max(g, h)]
    stored = PairBlocks(raw.g_refs, raw.h_refs, raw.ZtZ)
    stored = stored if g < h else stored.transposed()
    return PairBlocks(stored.g_refs, stored.h_refs, _code(left.matrix, stored.ZtZ, right.matrix))


def _code(left: Array, blocks: npt.NDArray[Any], right: Array) -> npt.NDArray[Any]:
    """Each block of a stack as left' block right; the stack itself when there is nothing to do."""
    if all(len(m) == m.shape[1] and np.array_equal(m, np.eye(len(m))) for m in (left, right)):
        return blocks
    coded = np.empty((len(blocks), left.shape[1], right.shape[1]))
    for start in range(0, len(blocks), _BATCH):
        part = slice(start, start + _BATCH)
        np.matmul(left.T @ blocks[part], right, out=coded[part])
    return coded
