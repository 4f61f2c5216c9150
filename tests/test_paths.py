"""Patterns of paths: what braces stand for, and patterns that are small and stand for much."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import archivestream
from archivestream.paths import braces, expand, numbered

ROOT = Path(archivestream.__file__).parent.parent


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("plain", "plain"),
        ("x{a,b}y", "xay xby"),
        ("{a,b}{1..3}", "a1 a2 a3 b1 b2 b3"),
        ("{08..10}", "08 09 10"),
        ("{2..-1}", "2 1 0 -1"),
        ("{-01..1}", "-01 000 001"),
        ("{7..7}", "7"),
        ("{a,b{1,2},c}d", "ad b1d b2d cd"),
        ("{{a,b},{c,d}e}", "a b ce de"),
        # What stands for nothing is text: braces around one thing, those without their other half, a width of a number.
        ("{a}{}", "{a}{}"),
        ("{{a,b}}", "{a} {b}"),
        ("{1..{2,3}}", "{1..2} {1..3}"),
        ("{a,{b,c}", "{a,b {a,c"),
        ("}a,b{,{c,d},}", "}a,b }a,bc }a,bd }a,b"),
        ("a,b}{c", "a,b}{c"),
        ("x-{:05d}.zip", "x-{:05d}.zip"),
    ],
)
def test_braces(pattern: str, expected: str) -> None:
    assert braces(pattern) == expected.split(" ")


def nested() -> st.SearchStrategy[tuple[str, list[str]]]:
    """Patterns, each with what it stands for."""

    def joined(parts: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
        return "".join(text for text, _ in parts), ["".join(one) for one in itertools.product(*(e for _, e in parts))]

    def either(parts: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
        return "{" + ",".join(text for text, _ in parts) + "}", [one for _, some in parts for one in some]

    texts = st.sampled_from(["", "a", "b/", "é", "-"]).map(lambda text: (text, [text]))
    ranges = st.tuples(st.integers(-12, 12), st.integers(0, 4)).map(
        lambda pair: (f"{{{pair[0]}..{sum(pair)}}}", [str(n) for n in range(pair[0], sum(pair) + 1)])
    )
    return st.recursive(
        texts | ranges,
        lambda inner: st.lists(inner, max_size=3).map(joined) | st.lists(inner, min_size=2, max_size=3).map(either),
        max_leaves=8,
    )


@given(nested())
def test_braces_in_braces(case: tuple[str, list[str]]) -> None:
    pattern, expected = case
    assert braces(pattern) == expected


@pytest.mark.parametrize(
    "pattern",
    ["{0..1000000}", "{a,b}" * 20, "{a,b}" * 50_000, "x" * 4000 + "{0..99999}", "{0..999999999999999999}"],
    ids=["range", "product", "long product", "characters", "wide range"],
)
def test_too_many_are_known_before_any_is_looked_for(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    there = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: looked.append(path) or there(path))
    with pytest.raises(ValueError, match="stand for more than 1000000 paths, or for more than 268435456 characters"):
        expand(pattern)
    assert looked == [pattern]


def test_braces_in_braces_end() -> None:
    assert len(braces("{a," * 14 + "b" + "}" * 14)) == 15
    for pattern in ("{a," * 2000 + "b" + "}" * 2000, "{" * 2000 + "a" + ",b}" * 2000):
        with pytest.raises(ValueError, match="16 braces lie in each other"):
            braces(pattern)


def test_a_number_has_no_more_digits_than_a_name() -> None:
    assert numbered("x-{:020d}.zip") is not None
    for pattern in ("x-{:0800000000d}.zip", "x-%0800000000d.zip"):
        assert numbered(pattern) is None
        assert expand(pattern) == [pattern]
    wide = "{" + "0" * 4000 + "..60000}"
    assert braces(wide) == [wide]


@pytest.mark.parametrize(
    "pattern",
    ["'{' * 200_000", "'{' * 200_000 + '}' * 200_000", "'{a' * 200_000 + ',b}'", "'{1..1}' * 50_000", "'{,' * 99_999"],
)
def test_time_and_memory_are_in_proportion(pattern: str) -> None:
    """A pattern of 200 KB, in a process of its own; a quadratic search took an hour for it."""
    code = f"from archivestream.paths import braces; print(len(braces({pattern})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (30, 30)),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n" if ",b" in pattern else "1\n", "")


def test_depths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any number of folders, each once; a pattern that goes through them again and again is none."""
    files = [f"{'a/' * i}{i}.zip" for i in range(20)]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    for one in (str(tmp_path), "."):
        monkeypatch.chdir(tmp_path)
        for pattern in ("**/*.zip", "**/" * 50 + "*.zip", "**/**/[0-9]*.zip"):
            expected = sorted(os.path.join(one, file) for file in files)
            assert expand(os.path.join(one, pattern)) == expected
            assert expand(pattern, one) == expected
    found = expand("**/**", str(tmp_path))
    assert [one for one in found if os.path.isfile(one)] == sorted(f"{tmp_path}/{file}" for file in files)
    assert len(expand("**/a/**/a/*.zip", str(tmp_path))) == 18
    with pytest.raises(ValueError, match=r"more than 4 \*\*"):
        expand("**/a/" * 5 + "*.zip", str(tmp_path))
