"""Queries over metadata, against Python itself."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import archivestream
from archivestream import pack

pyarrow = pytest.importorskip("pyarrow")

from archivestream.queries import evaluate, is_query  # noqa: E402

ROWS = [
    {"a": i % 5 if i % 7 else None, "b": i / 4 - 2, "c": "xyz"[i % 3] if i % 5 else None, "d": bool(i % 2)}
    for i in range(70)
]
TABLE = pyarrow.Table.from_pylist(ROWS)

numbers = st.sampled_from(["a", "b", "-1", "0", "2", "2.25", "1e3"])
comparisons = st.one_of(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), numbers).map(" ".join),
    st.tuples(st.sampled_from(["'x'", "'y'", "''"]), st.sampled_from(["==", "!=", "<", ">="]), st.just("c")).map(
        " ".join
    ),
    st.tuples(st.just("c"), st.sampled_from(["in", "not in"]), st.sampled_from(["('x', 'y')", "[]", "{'z'}"])).map(
        " ".join
    ),
    st.tuples(st.sampled_from("ac"), st.sampled_from(["is None", "is not None"])).map(" ".join),
    st.tuples(numbers, st.just("< b <="), numbers).map(" ".join),
    st.sampled_from(["d == True", "a in (1, 3)", "d != (True)"]),
)
queries = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(lambda parts: f"({''.join(parts)})"),
        inner.map("not ({})".format),
    ),
    max_leaves=6,
)


class Missing:
    """A value of which nothing is known: every comparison with it is missing, too."""

    def __eq__(self, other: object) -> Any:
        return None

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def reference(query: str, row: dict[str, Any]) -> bool:
    """Evaluate a query in the logic of three values (Kleene's), by Python's own syntax tree."""
    import ast

    operators: dict[type, Any] = {
        ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
        ast.GtE: operator.ge, ast.In: lambda x, y: x in y, ast.NotIn: lambda x, y: x not in y,
    }  # fmt: skip

    def both(values: list[Any]) -> Any:
        return False if False in values else None if None in values else True

    def value(tree: ast.expr) -> Any:
        match tree:
            case ast.Name():
                return row[tree.id]
            case ast.BoolOp(op=ast.And()):
                return both([value(part) for part in tree.values])
            case ast.BoolOp():
                found = both([None if part is None else not part for part in map(value, tree.values)])
                return None if found is None else not found
            case ast.UnaryOp(op=ast.Not()):
                found = value(tree.operand)
                return None if found is None else not found
            case ast.Compare():
                found, left = [], value(tree.left)
                for op, comparator in zip(tree.ops, tree.comparators, strict=True):
                    right = ast.literal_eval(comparator) if not isinstance(comparator, ast.Name) else value(comparator)
                    if isinstance(op, ast.Is | ast.IsNot):
                        found.append((left is None) == isinstance(op, ast.Is))
                    else:
                        found.append(None if left is None or right is None else operators[type(op)](left, right))
                    left = right
                return both(found)
        return ast.literal_eval(tree)

    return value(ast.parse(query, mode="eval").body) is True


@settings(max_examples=300, deadline=None)
@given(queries)
def test_as_python_has_it(query: str) -> None:
    assert is_query(query)
    assert evaluate(query, TABLE).tolist() == [reference(query, row) for row in ROWS]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("e == 3", "no column 'e' for the query 'e == 3'; there are a, b, c, d"),
        ("a == 'x'", "cannot be evaluated"),
        ("c < 3", "cannot be evaluated"),
        ("a in ('x',)", "cannot be evaluated"),
        ("a == None", "'is None' does"),
        ("1 == 1", "are constants"),
        ("a is 3", "none of what queries have"),
        ("a and b == 1", "none of what queries have"),
        ("a + 1 == 2", r"'a \+ 1'"),
        ("len(c) == 1", r"'len\(c\)'"),
        ("c.__class__ == 1", "'c.__class__'"),
        ("__import__('os').system('false') == 0", "none of what queries have"),
        ("[x for x in c] == 1", "none of what queries have"),
        ("a == b'x'", "none of what queries have"),
        ("a in c", "none of what queries have"),
        ("a ==", "not in the syntax of Python"),
        ("not " * 2400 + "a == 1", "cannot be evaluated|not in the syntax"),
        ("(" * 500 + "a == 1" + ")" * 500, "not in the syntax"),
        (f"a == 1 {'or a == 2 ' * 5000}", "not in the syntax"),
    ],
)
def test_what_is_refused(query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(query, TABLE)


@pytest.mark.parametrize(
    "pattern",
    ["*", "cat/*", "label", "a.npy", "[ab]*.npy", "a == *", "not a", "a and b", "", "a/b", "x = 3", "(", "\0"],
)
def test_what_is_a_pattern(pattern: str) -> None:
    assert not is_query(pattern)


def test_columns_of_strings_as_pandas_makes_them() -> None:
    table = pyarrow.table({"c": pyarrow.array(["x", "y", None, "x"]).dictionary_encode()})
    assert evaluate("c == 'x'", table).tolist() == [True, False, False, True]
    assert evaluate("c in ('y', 'z')", table).tolist() == [False, True, False, False]


def test_select(tmp_path: Path) -> None:
    pack([(bytes([i]), {"label": i % 5}) for i in range(20)], tmp_path / "a.zip")
    with archivestream.open(tmp_path / "a.zip") as archive:
        view = archive.select("label == 3")
        assert list(view) == [bytes([i]) for i in (3, 8, 13, 18)]
        assert view.ancestry[-1] == "select 'label == 3'"
        assert list(view.select("label != 3")) == []
        assert len(archive.select("*7")) == 2
        assert len(archive.names.match("label == 3")) == 0
        with pytest.raises(ValueError, match="no column 'lable'"):
            archive.select("lable == 3")
