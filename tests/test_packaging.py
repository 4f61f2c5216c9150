"""The promises of the build, kept by real ones: in a copy of the sources, without a network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "archivestream", "tests", "benchmarks", "examples")
GENERATED = shutil.ignore_patterns("__pycache__", "*.so", "*.cpp", ".*")
CACHE = Path("build", "third_party")

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not all((ROOT / name).exists() for name in SOURCES), reason="these are no complete sources"),
]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks tools of Linux")

# Without these, a build on the machine of the tests is like one on any other.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("ARCHIVESTREAM_") and name not in ("PYTHONPATH", "PKG_CONFIG", "CFLAGS")
}
ENVIRONMENT["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}


def run(*command: str | Path, cwd: Path, succeeds: bool = True, **environment: str) -> str:
    """Run a command, and return all that it prints."""
    result = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    if (result.returncode == 0) is not succeeds:
        pytest.fail(f"{command} ended with {result.returncode}:\n{result.stdout[-6000:]}")
    return result.stdout


@cache
def without_network() -> tuple[str, ...]:
    """A command that runs another one where no network can be reached, if the system has one."""
    for command in (("unshare", "-n"), ("unshare", "-rn")):
        if shutil.which("unshare") and not subprocess.call([*command, "true"], stderr=subprocess.DEVNULL):
            return command
    return ()


def offline(*command: str | Path, cwd: Path, succeeds: bool = True) -> str:
    """Run a command that can reach neither a network nor an index."""
    return run(*without_network(), *command, cwd=cwd, succeeds=succeeds, **NO_INDEX)


def build(kind: str, tree: Path, into: Path, runner: Callable[..., str] = offline) -> Path:
    """Build a distribution as `python -m build` does; a log of it is left beside."""
    log = runner(*(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", into), cwd=tree)
    into.joinpath(f"{kind}.log").write_text(log)
    [path] = into.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return path


def build_in_place(tree: Path, **environment: str) -> str:
    return run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tree, **environment)


def extensions(folder: Path) -> dict[str, Path]:
    """The compiled extensions under a folder, by their names."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return {path.name.removesuffix(suffix): path for path in folder.rglob(f"*{suffix}")}


def times(paths: list[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="session")
def archives(tmp_path_factory) -> Path:
    """A folder of the two pinned archives: those that were downloaded to build what is tested."""
    folder = tmp_path_factory.mktemp("archives")
    setup = runpy.run_path(str(ROOT / "setup.py"))
    for library in setup["LIBRARIES"]:
        shutil.copy(setup["find_archive"](library), folder)
    return folder


@pytest.fixture
def setup_py(tmp_path) -> Path:
    """A copy of ``setup.py`` with nothing beside it."""
    return Path(shutil.copy(ROOT / "setup.py", tmp_path))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory, archives) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=GENERATED)
        else:
            shutil.copy(ROOT / name, tree)
    # What a developer's checkout has lying about.
    for name in ("stray.cpp", "stray.so", "stray.c", "__pycache__/stray.pyc", "stray.txt"):
        path = tree / "archivestream" / "_native" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    # A build there has written down its sources; setuptools takes them from there.
    (tree / "archivestream.egg-info").mkdir()
    (tree / "archivestream.egg-info" / "SOURCES.txt").write_text("setup.py\narchivestream/_native/stray.cpp\n")

    def runner(*command, cwd):
        return run(*command, cwd=cwd, ARCHIVESTREAM_SOURCES=str(archives))

    return build("sdist", tree, tmp_path_factory.mktemp("sdist"), runner)


@pytest.fixture(scope="session")
def tree(tmp_path_factory, sdist) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    [tree] = folder.iterdir()
    return tree


@pytest.fixture(scope="session")
def wheel(tmp_path_factory, tree) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def built(tree, wheel) -> Path:
    """The unpacked source distribution, with all that building a wheel leaves in it."""
    assert wheel.exists()
    return tree


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory) -> Callable[[], Path]:
    """Makes a virtual environment that sees the packages of this one, but not this archivestream."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("environment")
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
        [packages] = folder.glob("lib/python*/site-packages")
        seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        packages.joinpath("tests.pth").write_text("\n".join(seen))
        return folder / "bin" / "python"

    return make


def install(python: Path, *arguments: str | Path, cwd: Path) -> str:
    """Install into an environment, without its dependencies."""
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps")
    return offline(*pip, "--force-reinstall", "--no-build-isolation", *arguments, cwd=cwd)


# ---- the distributions --------------------------------------------------------------------------


def package_files(tree: Path, *patterns: str) -> set[str]:
    return {
        str(path.relative_to(tree)) for pattern in patterns for path in tree.joinpath("archivestream").rglob(pattern)
    }


def test_sdist_holds_the_sources(sdist):
    with tarfile.open(sdist) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
    wanted = package_files(ROOT, "*.py", "*.pyi", "py.typed", "*.pyx", "*.pxd", "*.hpp")
    wanted |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "tests/constraints.txt"}
    assert wanted <= names
    assert "tests/test_packaging.py" in names
    assert not [name for name in names if name.endswith((".cpp", ".so", ".c.", ".pyc"))]


def test_sdist_carries_the_pinned_archives(sdist):
    libraries = runpy.run_path(str(ROOT / "setup.py"))["LIBRARIES"]
    with tarfile.open(sdist) as tar:
        carried = {
            member.name.rpartition("/")[2]: hashlib.sha256(tar.extractfile(member).read())
            for member in tar
            if "/third_party/" in member.name
        }
    assert {name: digest.hexdigest() for name, digest in carried.items()} == {
        library.archive: library.sha256 for library in libraries
    }


def test_there_is_no_network_for_the_wheel(tmp_path):
    """What `offline` is for: the download that the wheel does without would fail."""
    command = (sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path)
    offline(*command, "deflate==0.9.0", cwd=tmp_path, succeeds=False)
    if without_network():
        connect = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)"
        assert "unreachable" in offline(sys.executable, "-c", connect, cwd=tmp_path, succeeds=False)


def test_wheel_holds_the_package_and_nothing_else(tree, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert archive.testzip() is None
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    wanted = package_files(ROOT, "*.py", "*.pyi", "py.typed")
    wanted |= {name.removesuffix(".pyx") + suffix for name in package_files(ROOT, "*.pyx")}
    assert names == wanted


def test_extensions_have_stubs():
    assert {Path(name).with_suffix(".pyi") for name in package_files(ROOT, "*.pyx")} == {
        Path(name) for name in package_files(ROOT, "*.pyi")
    }


@on_linux
def test_wheel_is_manylinux(wheel, tmp_path):
    """It names a manylinux tag, and there is nothing to repair: no library is added."""
    shown = run("auditwheel", "show", wheel, cwd=tmp_path)
    assert re.search(r'tag:\s+"manylinux_\d+_\d+_\w+"', shown), shown
    run("auditwheel", "repair", "--wheel-dir", tmp_path, wheel, cwd=tmp_path)
    [repaired] = tmp_path.glob("*.whl")
    assert "manylinux" in repaired.name
    with zipfile.ZipFile(repaired) as archive:
        assert not [name for name in archive.namelist() if ".libs/" in name]


@on_linux
def test_extensions_need_only_the_runtimes(built):
    for path in extensions(built / "build").values():
        needed = re.findall(r"NEEDED.*\[(.+)\]", run("readelf", "-d", path, cwd=built))
        names = {re.split(r"\.so|-", library)[0] for library in needed}
        assert names <= {"libc", "libm", "libpthread", "libstdc++", "libgcc_s", "ld"}


@on_linux
def test_extensions_export_only_their_entry_point(built):
    found = extensions(built / "build")
    assert found
    for name, path in found.items():
        symbols = run("nm", "-D", "--defined-only", path, cwd=built).splitlines()
        assert [line.split()[-1] for line in symbols] == [f"PyInit_{name}"]


def test_wheel_is_for_any_processor(wheel):
    log = wheel.with_name("wheel.log").read_text()
    assert "zstd.c" in log
    assert "-march" not in log
    assert "-mtune" not in log


def test_compiler_has_nothing_to_say(wheel):
    log = wheel.with_name("wheel.log").read_text()
    assert "-Wall" in log
    assert not re.findall(r".*: warning: .*", log)


def test_wheel_reads_a_zip(wheel, new_environment, tmp_path):
    """With the commands that cibuildwheel tests the wheels of all platforms with."""
    tomllib = pytest.importorskip("tomllib", reason="came with Python 3.11")
    python = new_environment()
    install(python, wheel, cwd=tmp_path)
    where = run(python, "-c", "import archivestream; print(archivestream.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(python.parents[1])
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    for command in configuration["test-command"]:
        assert command.startswith("python ")
        in_environment = command.replace("python", str(python), 1).format(project=ROOT)
        run("sh", "-c", in_environment, cwd=tmp_path)


# ---- building again -----------------------------------------------------------------------------


def libraries(tree: Path) -> list[Path]:
    """The two libraries as they are compiled."""
    found = sorted(tree.joinpath(CACHE).glob("*.a"))
    assert len(found) == 2
    return found


def test_editable_install_keeps_the_libraries(built, new_environment, tmp_path):
    before = times(libraries(built))
    python = new_environment()
    install(python, "--editable", built, cwd=tmp_path)
    assert times(libraries(built)) == before
    [origin] = python.parents[1].rglob("archivestream-*.dist-info/direct_url.json")
    assert json.loads(origin.read_text()) == {"dir_info": {"editable": True}, "url": built.as_uri()}
    run(python, "-c", "import archivestream", cwd=built)


def test_nothing_is_built_twice(built):
    build_in_place(built)
    results = [path for kind in ("*.a", "*.cpp", "*.o", "*.so") for path in built.rglob(kind)]
    before = times(results)
    assert len(before) > 3 * len(package_files(built, "*.pyx"))
    log = build_in_place(built)
    assert times(results) == before
    assert "Cythonizing" not in log
    assert "-c" not in log.split()


def closure(tree: Path, name: str) -> set[str]:
    """All files that an extension is made of."""
    native = tree / "archivestream" / "_native"
    found: set[str] = set()
    left = [f"{name}.pyx", f"{name}.pxd"]
    while left:
        name = left.pop()
        if name in found or not (native / name).exists():
            continue
        found.add(name)
        text = (native / name).read_text()
        left += [f"{module}.pxd" for module in re.findall(r"_native\.(\w+) cimport", text)]
        left += re.findall(r'(?:extern from|#include) "(\w+\.hpp)"', text)
    return found


@pytest.mark.parametrize("changed", ["text.pyx", "text.pxd", "thread_pool.hpp", "robust_mutex.hpp"])
def test_a_change_builds_what_depends_on_it(built, changed):
    build_in_place(built)
    modules = extensions(built / "archivestream")
    before = times([*modules.values(), *libraries(built)])
    path = built / "archivestream" / "_native" / changed
    path.write_text(path.read_text() + "\n")
    build_in_place(built)
    after = times(list(before))
    rebuilt = {name for name, file in modules.items() if after[file] != before[file]}
    assert rebuilt == {name for name in modules if changed in closure(built, name)}
    assert rebuilt
    assert rebuilt != set(modules)
    assert times(libraries(built)).items() <= before.items()


# ---- where the libraries come from --------------------------------------------------------------

THIRD_PARTY = "import runpy; runpy.run_path('setup.py')['third_party']()"


def test_sources_from_a_folder(setup_py, archives):
    run(
        *(sys.executable, "-c", THIRD_PARTY),
        cwd=setup_py.parent,
        ARCHIVESTREAM_SOURCES=str(archives),
        **NO_INDEX,
    )
    cache = setup_py.parent / CACHE
    assert (cache / "deflate-0.9.0" / "libdeflate" / "libdeflate.h").is_file()
    assert (cache / "zstandard-0.25.0" / "zstd" / "zstd.c").is_file()


@pytest.mark.parametrize("damage", ["missing", "altered"])
@pytest.mark.parametrize("index", [0, 1])
def test_folder_of_bad_sources(tree, archives, tmp_path, damage, index):
    """One line that names the file, with nothing compiled before."""
    copy = shutil.copytree(tree, tmp_path / "tree", ignore=shutil.ignore_patterns("build"))
    folder = shutil.copytree(archives, tmp_path / "sources")
    bad = sorted(folder.iterdir())[index]
    if damage == "missing":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes() + b"\0")
    log = run(
        *(sys.executable, "setup.py", "build_ext"),
        cwd=copy,
        succeeds=False,
        ARCHIVESTREAM_SOURCES=str(folder),
    )
    assert "Traceback" not in log
    last = log.splitlines()[-1]
    assert last.startswith("error: ")
    assert bad.name in last
    assert str(folder) in last
    assert ("SHA-256" in last) is (damage == "altered")
    assert not list(copy.rglob("*.o"))


def test_download(setup_py, archives):
    """From where pip is told to look, and with neither a compiler nor CMake in reach.

    Neither build backend of the two packages is asked for, so nothing else is downloaded.
    """
    environment = {**NO_INDEX, "PIP_FIND_LINKS": str(archives), "PATH": os.devnull}
    run(sys.executable, "-c", THIRD_PARTY, cwd=setup_py.parent, **environment)
    cache = setup_py.parent / CACHE
    unpacked = {"deflate-0.9.0", "zstandard-0.25.0"}
    assert {path.name for path in cache.iterdir()} == unpacked | {f"{n}.tar.gz" for n in unpacked}


def test_download_of_something_else(setup_py, archives, tmp_path):
    """pip refuses what is not the pinned file, before it runs anything of it."""
    folder = shutil.copytree(archives, tmp_path / "altered")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    log = run(
        *(sys.executable, "-c", THIRD_PARTY),
        cwd=setup_py.parent,
        succeeds=False,
        **{**NO_INDEX, "PIP_FIND_LINKS": str(folder)},
    )
    assert "DO NOT MATCH THE HASHES" in log
    assert "cannot download deflate-0.9.0.tar.gz" in log
    assert not list(setup_py.parent.joinpath(CACHE).iterdir())


def test_no_download_without_an_index(setup_py):
    log = offline(sys.executable, "-c", THIRD_PARTY, cwd=setup_py.parent, succeeds=False)
    assert "set ARCHIVESTREAM_SOURCES to that folder" in log


def test_builds_at_the_same_time(setup_py, archives):
    """Each of several gets the sources complete, whoever unpacks them."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", THIRD_PARTY],
            cwd=setup_py.parent,
            env={**ENVIRONMENT, **NO_INDEX, "PIP_FIND_LINKS": str(archives)},
        )
        for _ in range(4)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert len(list(setup_py.parent.joinpath(CACHE).iterdir())) == 4


def test_metadata_needs_no_sources(setup_py):
    """Neither running ``setup.py`` nor asking it for metadata downloads or unpacks anything."""
    folder = setup_py.parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "archivestream").mkdir()
    shutil.copy(ROOT / "archivestream" / "_version.py", folder / "archivestream")
    (folder / "archivestream" / "__init__.py").touch()
    offline(sys.executable, "setup.py", "--quiet", "egg_info", cwd=folder)
    assert (folder / "archivestream.egg-info" / "PKG-INFO").exists()
    assert not (folder / "build").exists()


@on_linux
@pytest.mark.skipif(
    subprocess.call("pkg-config --exists libdeflate libzstd", shell=True, stderr=subprocess.DEVNULL) != 0,
    reason="pkg-config finds no libdeflate and libzstd",
)
def test_system_libraries(built, tmp_path):
    """Changing to them links anew what was linked with the others, and nothing else."""
    build_in_place(built)
    copy = shutil.copytree(built, tmp_path / "tree")
    modules = extensions(copy / "archivestream")
    before = times(list(modules.values()))
    shutil.rmtree(copy / CACHE)
    shutil.rmtree(copy / "third_party")
    build_in_place(copy, ARCHIVESTREAM_SYSTEM_LIBS="1", **NO_INDEX)
    assert {name for name, path in modules.items() if path.stat().st_mtime_ns != before[path]} == {"codecs"}
    linked = run("ldd", modules["codecs"], cwd=copy)
    assert re.search(r"libdeflate\.so.* => /", linked)
    assert re.search(r"libzstd\.so.* => /", linked)
    run(sys.executable, "-c", SMOKE, cwd=copy)


SMOKE = """
import zipfile, zlib, archivestream
from archivestream import deflate
data = b"some bytes" * 1000
for level in range(-1, 13):
    packed = deflate.zlib_compress(data, level)
    assert zlib.decompress(packed) == deflate.zlib_decompress(packed, len(data)) == data
with zipfile.ZipFile("smoke.zip", "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("member", data)
assert archivestream.open("smoke.zip")["member"] == data
"""


def test_system_libraries_that_are_not_there(tree, tmp_path):
    copy = shutil.copytree(tree, tmp_path / "tree", ignore=shutil.ignore_patterns("build"))
    log = run(
        *(sys.executable, "setup.py", "build_ext"),
        cwd=copy,
        succeeds=False,
        ARCHIVESTREAM_SYSTEM_LIBS="1",
        PKG_CONFIG="no-such-pkg-config",
    )
    assert "Traceback" not in log
    assert "pkg-config libdeflate-dev" in log.splitlines()[-1]


# ---- the tested versions ------------------------------------------------------------------------


def test_constraints_pin_all_that_a_developer_installs():
    lines = (ROOT / "tests" / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert all(version.startswith("==") for version in pinned.values())
    assert "archivestream" not in pinned
    tomllib = pytest.importorskip("tomllib", reason="came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = {"archivestream"}
    left = [*project["dependencies"], "archivestream[dev]"]
    while left:
        requirement = Requirement(left.pop())
        found.add(canonicalize_name(requirement.name))
        left += [text for extra in requirement.extras if extra in extras for text in extras[extra]]
    assert {"torch", "pillow", "mypy"} < found
    assert found - {"archivestream"} <= set(pinned)
