"""Arithmetic on columns, from text: ``x``, ``log(x)``, ``I(x^2 + z)``, ``factor(k)``.

An expression is read into Python's syntax tree and evaluated node by node with NumPy. Only what stands in the tables
below can be called, so that a formula from an untrusted hand can compute and do nothing else.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.errors import FormulaError

Array = npt.NDArray[np.float64]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "I": lambda value: value,
    "abs": np.abs,
    "ceiling": np.ceil,
    "cos": np.cos,
    "exp": np.exp,
    "expm1": np.expm1,
    "floor": np.floor,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
}
#: Nested operations, at most; each costs Python some calls on its stack.
_MAX_DEPTH = 100
#: Characters of an expression that an error shows.
_SHOWN = 60
#: Their value at a row depends on other rows: chunk by chunk they would be silently wrong.
STATEFUL = frozenset({"scale", "center", "standardize", "poly", "bs", "ns", "cr", "cs", "cc", "te", "spline", "lag", "rank", "cut"})
FACTOR_CALLS = frozenset({"C", "factor", "as_factor"})
CONTRASTS = ("treatment", "sum", "helmert", "poly")

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.Mod: np.mod,
    ast.FloorDiv: np.floor_divide,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


@dataclass(frozen=True, slots=True)
class Expression:
    """One factor of a term: a column, arithmetic on columns, or a column that is declared a category.

    Attributes
    ----------
    text : str
        As R would print it (``I(x^2)``); the name of the coefficient.
    names : tuple of str
        Columns that it reads.
    categorical : bool
        Declared a category by ``C(x)`` or ``factor(x)``; then `names` holds that one column.
    contrast : str or None
        The contrast that ``C(x, contr.sum)`` asks for.
    """

    text: str
    names: tuple[str, ...]
    categorical: bool = False
    contrast: str | None = None

    @property
    def is_column(self) -> bool:
        """Whether it is a bare column name."""
        return self.names == (self.text,)

    def evaluate(self, columns: Mapping[str, Array], rows: int) -> Array:
        """Value at every row, shape (rows,); NaN where it is undefined, as in R."""
        if self.is_column:
            return columns[self.text]
        tree, aliases = _tree(self.text)
        with np.errstate(all="ignore"):
            value = _evaluate(tree, {alias: columns[name] for alias, name in aliases.items()})
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (rows,))


def parse_expression(text: str, formula: str | None = None, start: int = 0) -> Expression:
    """Read one factor of a formula.

    Parameters
    ----------
    text : str
        The factor: a name, a name in backticks, or a call.
    formula, start
        The whole formula and where the factor begins in it, to mark an error.

    Raises
    ------
    FormulaError
        For a syntax error, an unknown function, or a transform whose value depends on all rows.
    """
    bare = text.strip()
    if re.fullmatch(r"`[^`]+`", bare):
        return Expression(bare[1:-1], (bare[1:-1],))
    if re.fullmatch(r"[^\W\d][\w.]*", bare):
        return Expression(bare, (bare,))
    try:
        tree, aliases = _tree(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        offset = getattr(error, "offset", None) or 1
        place = start + max(min(offset, len(text)) - 1, 0)
        raise FormulaError(f"{_short(bare)!r} is not an expression that can be computed", formula, place) from None
    if isinstance(tree, ast.Name):  # a column in parentheses
        return Expression(aliases[tree.id], (aliases[tree.id],))
    if _depth(tree) > _MAX_DEPTH:
        raise FormulaError(f"{_short(bare)!r} is nested deeper than {_MAX_DEPTH} operations: compute the column before", formula, start)
    if isinstance(tree, ast.Call) and _function_name(tree) in FACTOR_CALLS:
        return _factor(tree, aliases, formula, start)
    _check(tree, formula, start)
    return Expression(_deparse(tree, aliases), tuple(dict.fromkeys(aliases.values())))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _tree(text: str) -> tuple[ast.expr, dict[str, str]]:
    """Syntax tree of R's arithmetic, and {identifier in the tree: column name}.

    R's ``^`` is Python's ``**``; names in backticks, names with dots and Python's keywords become plain identifiers.
    """
    quoted: dict[str, str] = {}

    def alias(match: re.Match[str]) -> str:
        found, name = match.group(), match.group().strip("`")
        called = text[match.end() : match.end() + 1] == "("
        if called and name == "as.factor":  # "as" is a word of Python's
            return "as_factor"
        if found == name and (called or _is_plain(name) or name.startswith(("np.", "numpy.", "contr."))):
            return name
        return quoted.setdefault(name, f"_column_{len(quoted)}")

    # Text in quotes is left as it is: it can name a base level.
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]+`|[^\W\d][\w.]*", lambda m: m.group() if m.group()[0] in "'\"" else alias(m), text)
    tree = ast.parse(plain.strip().replace("^", "**"), mode="eval").body
    spelled = {value: key for key, value in quoted.items()}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    modules = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called | modules]
    return tree, {name: spelled.get(name, name) for name in names}


def _is_plain(name: str) -> bool:
    """Whether Python's parser reads the name as it is, and it cannot be taken for an alias."""
    own = keyword.iskeyword(name) or name.startswith("_column_")
    return name.isidentifier() and not own and unicodedata.normalize("NFKC", name) == name


def _function_name(call: ast.Call) -> str:
    name = ast.unparse(call.func)
    return name.removeprefix("np.").removeprefix("numpy.")


def _check(node: ast.expr, formula: str | None, start: int) -> None:
    """Refuse, at its character, whatever is not arithmetic on columns."""

    def refuse(message: str) -> FormulaError:
        return FormulaError(message, formula, start)

    match node:
        case ast.Name():
            return
        case ast.Constant(value=int() | float() as value):
            if not _is_finite(value):
                raise refuse("a number that is too large for double precision")
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, formula, start)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check(left, formula, start)
            _check(right, formula, start)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            _check(left, formula, start)
            _check(right, formula, start)
        case ast.Call(args=[argument], keywords=[]) if _function_name(node) in FUNCTIONS:
            _check(argument, formula, start)
        case ast.Call():
            raise refuse(_unknown_call(_function_name(node)))
        case _:
            raise refuse(f"{ast.unparse(node)!r} is not arithmetic on columns: use + - * / ^, comparisons and {_known()}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _known() -> str:
    return ", ".join(f"{name}()" for name in sorted(FUNCTIONS))


def _unknown_call(name: str) -> str:
    if name in STATEFUL:
        return (
            f"{name}() depends on all rows at once, which one pass over chunks cannot see: "
            "compute the column before (centring is not needed for accuracy, bigmm shifts columns itself)"
        )
    if name in FUNCTIONS:
        return f"{name}() takes one argument here"
    return f"unknown function {name}(): a formula may use {_known()}, factor() and C()"


def _factor(call: ast.Call, aliases: dict[str, str], formula: str | None, start: int) -> Expression:
    """Read ``factor(x)`` or ``C(x, contr.sum)``."""
    if not call.args or len(call.args) > 2 or call.keywords or not isinstance(call.args[0], ast.Name):
        raise FormulaError("a category is written factor(column) or C(column, contr.sum)", formula, start)
    column = aliases[call.args[0].id]
    contrast = None
    if len(call.args) == 2:
        contrast = ast.unparse(call.args[1]).strip("'\"").removeprefix("contr.").removesuffix("()")
        if contrast not in CONTRASTS:
            known = ", ".join(f"contr.{name}" for name in CONTRASTS)
            raise FormulaError(f"unknown contrast {ast.unparse(call.args[1])!r}: expected one of {known}", formula, start)
    suffix = f", contr.{contrast}" if contrast else ""
    name = _function_name(call).replace("_", ".")
    return Expression(f"{name}({column}{suffix})", (column,), categorical=True, contrast=contrast)


def _deparse(tree: ast.expr, aliases: dict[str, str]) -> str:
    """The expression as R prints it: spaces around operators, none around ``^`` and ``/``."""
    text = ast.unparse(_Numbers().visit(tree)).replace(" ** ", "^").replace(" / ", "/")
    shown = {alias: name if re.fullmatch(r"[^\W\d][\w.]*", name) else f"`{name}`" for alias, name in aliases.items()}
    return re.sub(r"\b_column_\d+\b", lambda match: shown.get(match.group(), match.group()), text)  # at once: a name may look like an alias


class _Numbers(ast.NodeTransformer):
    """Numbers become names, so that they are written as R writes them."""

    def visit_Constant(self, node: ast.Constant) -> ast.Name:
        return ast.Name(_number(float(node.value)), ast.Load())  # type: ignore[arg-type]


def _number(value: float) -> str:
    """A number as R's deparse() writes it, fixed unless scientific is shorter; with all its digits, for it is read again."""
    digits = next(d for d in range(17) if float(f"{value:.{d}e}") == value)
    scientific = f"{value:.{digits}e}"
    decimals = max(digits - int(scientific.partition("e")[2]), 0)
    fixed = f"{value:.{decimals}f}"
    return fixed if len(fixed) <= len(scientific) else scientific


def _evaluate(node: ast.expr, columns: Mapping[str, Array]) -> Any:
    match node:
        case ast.Name(id=name):
            return columns[name]
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return np.negative(_evaluate(operand, columns))
        case ast.UnaryOp(operand=operand):
            return _evaluate(operand, columns)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluate(left, columns), _evaluate(right, columns))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare(op, _evaluate(left, columns), _evaluate(right, columns))
        case ast.Call(args=[argument]):
            return FUNCTIONS[_function_name(node)](_evaluate(argument, columns))
    raise FormulaError(f"{ast.unparse(node)!r} cannot be computed")


def _compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    """0 or 1, and NaN where either side is missing, as R's NA."""
    result = np.asarray(_COMPARE[type(op)](left, right), dtype=np.float64)
    return np.where(np.isnan(left) | np.isnan(right), np.nan, result)
