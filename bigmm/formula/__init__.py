"""lme4's formula grammar: text in, terms out. No data and no Dask here."""

from bigmm.formula.parse import parse_formula
from bigmm.formula.terms import Formula, RandomEffectsTerm, Term

__all__ = ["Formula", "RandomEffectsTerm", "Term", "parse_formula"]
