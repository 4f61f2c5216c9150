"""The layers: a room imports only from those below it; optional packages, only where they are used.

This is section 3 of the design as a table. A new room must be entered in it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import archivestream

PACKAGE = Path(archivestream.__file__).parent

# Each level, lowest first, and its rooms: a room may import from every level below, and from those
# that stand before it on its own. A room is a file or a folder directly under archivestream/.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "_version", "limits", "threads"),
    ("_native",),
    (
        "atomic",
        "columns",
        "index",
        "sources",
        "fingerprint",
        "sidecar",
        "deflate",
        "members",
        "fallback",
        "paths",
        "tables",
        "queries",
    ),
    ("formats",),
    (
        "reasons",
        "reader",
        "shared_files",
        "cache",
        "cached_reader",
        "selection",
        "batch",
        "member_io",
        "extraction",
        "npy",
        "mapping",
        "jpeg",
        "images",
        "file_types",
        "verification",
        "summary",
        "indexing",
        "metadata",
        "session",
        "placement",
        "archive",
    ),
    ("packing", "tfrecord"),
    (
        "decoding",
        "labels",
        "grouping",
        "splitting",
        "archive_stats",
        "block_order",
        "sharding",
        "order_report",
        "sampling",
        "dataset",
        "manifest",
    ),
    (
        "child_process",
        "background",
        "stats",
        "prefetch",
        "devices",
        "tensors",
        "collating",
        "orders",
        "assembling",
        "slots",
        "finishing",
        "cuda",
        "iteration",
        "loader",
    ),
    ("integrations",),
    ("__init__",),  # the public names; `dataset` among them on first use only
    ("cli", "__main__"),
)
RANK = {room: (level, place) for level, rooms in enumerate(LEVELS) for place, room in enumerate(rooms)}

# Packages that are always installed (the dependencies in pyproject.toml).
REQUIRED = {"numpy", "zstandard", "platformdirs"}
# Parts of the package that are entered only where an extra is installed, and its packages. Elsewhere
# an optional import stands inside a function, or in a `try` that answers ImportError.
EXTRA_ROOMS = {
    "archivestream.cli": {"typer", "rich"},
    "archivestream.cli.demo": {"typer", "rich", "torch", "PIL", "sklearn"},
}

NATIVE_IMPORT = re.compile(
    r"^[ \t]*(?:from\s+(?P<package>[\w.]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import\s+(?P<modules>[^\n]*))",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Import:
    """One imported module, and whether the import happens as soon as the importing module is."""

    module: str
    names: tuple[str, ...]
    eager: bool
    line: int


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Return the room that a module of the package lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def python_imports(path: Path) -> Iterator[Import]:
    """List the imports of a .py or .pyi file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                inside = node.body
            case ast.If() if ast.unparse(node.test).endswith("TYPE_CHECKING"):
                inside = node.body
            case ast.Try() if "ImportError" in " ".join(map(ast.unparse, node.handlers)):
                inside = node.body
            case _:
                continue
        for statement in inside:
            lazy.update(ast.walk(statement))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), node not in lazy, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = tuple(alias.name for alias in node.names)
            yield Import(node.module or "", names, node not in lazy, node.lineno)


def native_imports(path: Path) -> Iterator[Import]:
    """List the imports and cimports of a .pyx or .pxd file."""
    # Comments may stand inside the parentheses; docstrings may speak of imports.
    source = path.read_text(encoding="utf-8")
    text = re.sub(r'"""(?s:.)*?"""', lambda match: "\n" * match[0].count("\n"), source)
    text = re.sub(r"#[^\n]*", "", text)
    for match in NATIVE_IMPORT.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        names = match["names"] or match["modules"] or ""
        words = [part.split()[0] for part in names.strip("() \n").split(",") if part.strip()]
        if match["package"]:
            yield Import(match["package"], tuple(words), True, line)
        else:
            for word in words:
                yield Import(word, (), True, line)


def relative(path: Path) -> str:
    """Return the path of a source file within the package."""
    return str(path.relative_to(PACKAGE))


def sources(*suffixes: str) -> list[Path]:
    """List the source files of the package."""
    return sorted(path for path in PACKAGE.rglob("*") if path.suffix in suffixes)


def imports(path: Path) -> Iterator[Import]:
    """List the imports of any source file."""
    return (python_imports if path.suffix in (".py", ".pyi") else native_imports)(path)


ALL = sources(".py", ".pyi", ".pyx", ".pxd")
CODE = sources(".py", ".pyx")
MODULES = {module_name(path) for path in ALL}


def targets(found: Import) -> Iterator[str]:
    """List the modules of the package that an import reaches, one level below ``from`` if need be."""
    if found.module != "archivestream" and not found.module.startswith("archivestream."):
        return
    submodules = {f"{found.module}.{name}" for name in found.names} & MODULES
    if len(submodules) < len(found.names) or not found.names:
        yield found.module
    yield from submodules


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_a_room_imports_only_from_those_below(path: Path) -> None:
    room = room_of(module_name(path))
    assert room in RANK, (
        f"archivestream/{room} is not in the layers: enter it in LEVELS of {__file__}, and in "
        "section 3 of the design, at the lowest level that is above all that it imports"
    )
    for found in imports(path):
        for target in targets(found):
            below = room_of(target)
            if below != room:
                assert RANK[below] < RANK[room], (
                    f"{relative(path)}:{found.line} imports {target}: "
                    f"{below} (level {RANK[below]}) is not below {room} (level {RANK[room]})"
                )


def test_every_listed_room_is_there() -> None:
    rooms = {room_of(module) for module in MODULES}
    assert set(RANK) <= rooms, "take rooms that are gone out of LEVELS"


def test_no_cycles() -> None:
    graph = {module: set[str]() for module in MODULES}
    for path in ALL:
        module = module_name(path)
        for found in imports(path):
            if found.eager or path.suffix != ".py":
                graph[module].update(target for target in targets(found) if target != module)
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a cycle of imports: {' -> '.join([*above, module])}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    module = module_name(path)
    allowed = REQUIRED | {"archivestream", "cython", "cpython", "libc", "libcpp"}
    for room, packages in EXTRA_ROOMS.items():
        if module == room or module.startswith(f"{room}."):
            allowed |= packages
    for found in imports(path):
        package = found.module.partition(".")[0]
        if found.eager and package not in sys.stdlib_module_names:
            assert package in allowed, (
                f"{relative(path)}:{found.line} imports {package} as soon as it is imported itself: "
                "import it in the function that needs it, and name the extra where it is missing"
            )


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(text))
    else:
        match = re.match(r'(?:\s*#[^\n]*\n)*\s*"""((?s:.)*?)"""', text)
        docstring = match[1] if match else None
    assert (docstring or "").strip()


@pytest.mark.parametrize("path", sources(".pyx"), ids=relative)
def test_every_extension_has_a_stub(path: Path) -> None:
    stub = path.with_suffix(".pyi")
    assert stub.is_file()
    text = stub.read_text(encoding="utf-8")
    # Constants, of an enum without a name, are left to stubtest.
    for name in re.findall(r"^(?:def|class|cpdef(?: enum)?) +(?!enum:)(\w+)", path.read_text(encoding="utf-8"), re.M):
        assert name.startswith("_") or re.search(rf"^(?:def|class) {name}\b", text, re.M), name


def fresh(code: str) -> str:
    """Run code in a new interpreter that finds this very package, and return what it prints."""
    setup = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    command = [sys.executable, "-W", "error", "-c", setup + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_optional() -> None:
    printed = fresh("before = set(sys.modules)\nimport archivestream\nprint(*set(sys.modules) - before)\n")
    packages = {module.partition(".")[0] for module in printed.split()}
    # zstandard goes through cffi, and Cython has modules of its own.
    expected = REQUIRED | {"archivestream", "_cffi_backend", "cffi", "cython_runtime"}
    surplus = packages - expected - set(sys.stdlib_module_names)
    assert not {name for name in surplus if not name.startswith("_cython_")}


def test_every_public_name_is_there() -> None:
    pytest.importorskip("torch")  # for one of them
    assert len(set(archivestream.__all__)) == len(archivestream.__all__)
    for name in archivestream.__all__:
        assert getattr(archivestream, name) is not None
        assert name in dir(archivestream)
    with pytest.raises(AttributeError, match="no attribute 'Archiv'"):
        archivestream.Archiv  # noqa: B018


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("torch", "archivestream.ArchiveDataset", "archivestream[torch]"),
        ("PIL", "archivestream.decoding.find_decoder('image')", "archivestream[image]"),
        ("PIL", "archivestream.decoding.find_decoder('pil')", "archivestream[image]"),
        ("simplejpeg", "archivestream.decoding.find_decoder('image')", "archivestream[image]"),
        ("fsspec", "import archivestream.integrations.fsspec", "archivestream[fsspec]"),
        ("soundfile", "archivestream.decoding.find_decoder('audio')(memoryview(b'fLaC'))", "archivestream[audio]"),
    ],
)
def test_a_missing_package_names_its_extra(missing: str, code: str, extra: str) -> None:
    printed = fresh(
        f"sys.modules[{missing!r}] = None\n"
        "import archivestream\n"
        "try:\n"
        "    import archivestream.decoding\n"
        f"    {code}\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert extra in printed
    # The package goes on working, and the names are still to be seen.
    assert "ArchiveDataset" in fresh("import archivestream; print(dir(archivestream))")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_the_command_line_names_its_extra(missing: str) -> None:
    printed = fresh(
        f"sys.modules[{missing!r}] = None\n"
        "from archivestream.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    print(stop)\n"
    )
    assert "archivestream[cli]" in printed
    assert missing in printed
