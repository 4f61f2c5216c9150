"""Queries over columns: ``"label == 3 and split == 'train'"``, parsed as Python and evaluated by Arrow.

Nothing of a query is run as Python: of its syntax tree, names of columns, constants, comparisons, ``in``, ``is None``,
``and``, ``or`` and ``not`` are known, and anything else is an error.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream.tables import arrow

__all__ = ["evaluate", "is_query"]

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_LONGEST = 10_000  # characters: deep nesting takes the stack of the parser


def is_query(text: str) -> bool:
    """Whether a text is a comparison, or several with ``and``, ``or`` and ``not``, in the syntax of Python."""
    tree = _parse(text)
    try:
        return tree is not None and _compares(tree)
    except RecursionError:
        return False


def evaluate(query: str, table: Any) -> NDArray[np.bool_]:
    """Say of each row of a table whether a query holds for it.

    A missing value fits no comparison but ``is None``, nor does its opposite.

    Parameters
    ----------
    query : str
        Such as ``"label == 3 and split in ('train', 'val')"``.
    table : pyarrow.Table

    Raises
    ------
    ValueError
        If it is no such query, names a column that is not there, or compares values of different kinds.
    """
    pyarrow = arrow()
    tree = _parse(query)
    if tree is None:
        raise ValueError(f"{query!r} is no query: it is not in the syntax of Python")
    try:
        found = _Evaluation(query, table).condition(tree)
    except (pyarrow.ArrowException, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the query {query!r} cannot be evaluated: {error}") from error
    mask: NDArray[np.bool_] = found.fill_null(False).to_numpy()
    return mask


def _parse(text: str) -> ast.expr | None:
    if len(text) > _LONGEST:
        return None
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _compares(tree: ast.expr) -> bool:
    match tree:
        case ast.BoolOp():
            return any(map(_compares, tree.values))
        case ast.UnaryOp(op=ast.Not()):
            return _compares(tree.operand)
    return isinstance(tree, ast.Compare)


class _Evaluation:
    """Evaluates the parts of one query."""

    def __init__(self, query: str, table: Any) -> None:
        import pyarrow.compute

        self._query = query
        self._table = table
        self._compute = pyarrow.compute

    def condition(self, tree: ast.expr) -> Any:
        """Return a column of bool, with nulls where values are missing."""
        match tree:
            case ast.BoolOp():
                join = self._compute.and_kleene if isinstance(tree.op, ast.And) else self._compute.or_kleene
                return reduce(join, map(self.condition, tree.values))
            case ast.UnaryOp(op=ast.Not()):
                return self._compute.invert(self.condition(tree.operand))
            case ast.Compare():
                places = zip([tree.left, *tree.comparators], tree.ops, tree.comparators, strict=False)
                return reduce(self._compute.and_kleene, (self._compare(*place) for place in places))
            case ast.Name():
                column = self._column(tree.id)
                if arrow().types.is_boolean(column.type):
                    return column
        raise self._unknown(tree)

    def _compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(operator, ast.In | ast.NotIn):
            column, values = self._operand(left), self._values(right)
            if arrow().types.is_integer(column.type):
                values = [value for value in values if not isinstance(value, int) or _fits(value, column.type)]
            found = self._compute.is_in(column, value_set=arrow().array(values, column.type))
            found = self._compute.if_else(self._compute.is_valid(column), found, None)
            return found if isinstance(operator, ast.In) else self._compute.invert(found)
        if isinstance(operator, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._unknown(right)
            test: Callable[..., Any] = self._compute.is_null if isinstance(operator, ast.Is) else self._compute.is_valid
            return test(self._operand(left))
        sides = [self._operand(side, constants=True) for side in (left, right)]
        if arrow().uint64() in [side.type for side in sides]:  # which goes together with no signed type
            sides = [_as_unsigned(side) for side in sides]
        found = getattr(self._compute, _COMPARISONS[type(operator)])(*sides)
        if isinstance(found, arrow().Scalar):
            raise ValueError(f"{ast.unparse(left)} and {ast.unparse(right)} of the query {self._query!r} are constants")
        return found

    def _operand(self, tree: ast.expr, *, constants: bool = False) -> Any:
        if isinstance(tree, ast.Name):
            column = self._column(tree.id)
            return column.cast(column.type.value_type) if arrow().types.is_dictionary(column.type) else column
        if not constants:
            raise self._unknown(tree)
        value = self._constant(tree)
        if value is None:
            raise ValueError(f"{ast.unparse(tree)} fits no comparison in the query {self._query!r}: 'is None' does")
        large = type(value) is int and value >= 1 << 63
        return arrow().scalar(value, arrow().uint64() if large else None)

    def _column(self, name: str) -> Any:
        if name not in self._table.column_names:
            there = ", ".join(self._table.column_names)
            raise ValueError(f"there is no column {name!r} for the query {self._query!r}; there are {there}")
        return self._table[name]

    def _values(self, tree: ast.expr) -> list[Any]:
        if not isinstance(tree, ast.List | ast.Tuple | ast.Set):
            raise self._unknown(tree)
        return [self._constant(element) for element in tree.elts]

    def _constant(self, tree: ast.expr) -> Any:
        match tree:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return tree.value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
                assert isinstance(tree.operand, ast.Constant)
                return -tree.operand.value  # type: ignore[operator]
        raise self._unknown(tree)

    def _unknown(self, tree: ast.expr) -> ValueError:
        return ValueError(
            f"{ast.unparse(tree)!r} in the query {self._query!r} is none of what queries have: names of columns, "
            "constants, comparisons, in, is None, and, or, not"
        )


def _fits(value: int, kind: Any) -> bool:
    """Whether there is such a value of an integer type."""
    try:
        arrow().scalar(value, kind)
    except (arrow().ArrowException, OverflowError):
        return False
    return True


def _as_unsigned(side: Any) -> Any:
    if isinstance(side, arrow().Scalar) and arrow().types.is_integer(side.type) and side.as_py() >= 0:
        return side.cast(arrow().uint64())
    return side
