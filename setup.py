"""Build the extensions, and the two C libraries that they link statically.

Everything else about the project is declared in ``pyproject.toml``.

libdeflate and libzstd come from the source distributions of two packages on the Python index, pinned by
version and SHA-256. Environment variables change where they come from:

``ARCHIVESTREAM_SOURCES=DIR``
    Take the two source distributions from a folder, without a network.
``ARCHIVESTREAM_SYSTEM_LIBS=1``
    Link the system's libraries through pkg-config instead: for distribution packagers.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
THIRD_PARTY = ROOT / "build" / "third_party"


@dataclass(frozen=True)
class Library:
    """A C library inside the source distribution of a Python package."""

    name: str
    package: str
    version: str
    sha256: str
    include: str
    sources: tuple[str, ...]
    macros: tuple[tuple[str, str], ...] = ()

    @property
    def archive(self) -> str:
        return f"{self.package}-{self.version}.tar.gz"

    @property
    def folder(self) -> Path:
        return THIRD_PARTY / f"{self.package}-{self.version}"


LIBRARIES = (
    Library(
        name="libdeflate",
        package="deflate",
        version="0.9.0",
        sha256="962e0a6f1ea3a94b900a8ea0ce138fa92bfcbafda5b86367104a259ffcd3462b",
        include="libdeflate",
        sources=("libdeflate/lib/*.c", "libdeflate/lib/x86/*.c", "libdeflate/lib/arm/*.c"),
    ),
    Library(
        name="libzstd",
        package="zstandard",
        version="0.25.0",
        sha256="7713e1179d162cf5c7906da876ec2ccb9c3a9dcbdffef0cc7f70c3667a205f0b",
        include="zstd",
        sources=("zstd/zstd.c",),
        macros=(
            # No symbol of the library leaves the extension that links it.
            ("ZSTDLIB_VISIBLE", '__attribute__((visibility("hidden")))'),
            ("ZSTDERRORLIB_VISIBLE", '__attribute__((visibility("hidden")))'),
            ("ZDICTLIB_VISIBLE", '__attribute__((visibility("hidden")))'),
            ("ZSTDLIB_STATIC_API", '__attribute__((visibility("hidden")))'),
        ),
    ),
)


def third_party() -> None:
    """Unpack the pinned sources under ``build/third_party``, checked against their SHA-256."""
    for library in LIBRARIES:
        if library.folder.is_dir():
            continue
        THIRD_PARTY.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=THIRD_PARTY) as scratch:
            archive = _find_archive(library, Path(scratch))
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            if digest != library.sha256:
                raise SystemExit(f"{archive}: SHA-256 is {digest}, not the pinned {library.sha256}")
            with tarfile.open(archive) as tar:
                if hasattr(tarfile, "data_filter"):
                    tar.extraction_filter = tarfile.data_filter
                tar.extractall(scratch)
            os.replace(Path(scratch) / library.folder.name, library.folder)


def _find_archive(library: Library, scratch: Path) -> Path:
    offline = os.environ.get("ARCHIVESTREAM_SOURCES")
    if offline:
        archive = Path(offline) / library.archive
        if not archive.is_file():
            raise SystemExit(f"ARCHIVESTREAM_SOURCES={offline} holds no {library.archive}")
        return archive
    carried = ROOT / "third_party" / library.archive  # in a source distribution
    if carried.is_file():
        return carried
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", library.package, "--dest", str(scratch)]
    command += [f"{library.package}=={library.version}"]
    if subprocess.run(command).returncode:
        raise SystemExit(
            f"{library.name}: cannot download {library.archive} from the package index. Without a network, "
            "put it in a folder and set ARCHIVESTREAM_SOURCES to that folder."
        )
    return scratch / library.archive


class BuildExtensions(build_ext):
    """Compile the C libraries once, then the extensions that link them."""

    def build_extensions(self) -> None:
        needed = {name for extension in self.extensions for name in LINKS.get(extension.name, ())}
        if os.environ.get("ARCHIVESTREAM_SYSTEM_LIBS") == "1":
            flags = {name: _pkg_config(name) for name in needed}
        else:
            third_party()
            flags = {lib.name: self._static(lib) for lib in LIBRARIES if lib.name in needed}
        for extension in self.extensions:
            for name in LINKS.get(extension.name, ()):
                compile_args, link_args = flags[name]
                extension.extra_compile_args += compile_args
                extension.extra_link_args += link_args
                extension.depends += [arg for arg in link_args if os.path.isabs(arg)]
        super().build_extensions()

    def _static(self, library: Library) -> tuple[list[str], list[str]]:
        """Compile what is out of date of a library, and return the flags to use it."""
        msvc = self.compiler.compiler_type == "msvc"
        options = ["/O2"] if msvc else ["-O2", "-g0", "-fPIC", "-fvisibility=hidden"]
        options += [] if msvc else ["-ffunction-sections", "-fdata-sections", "-w"]
        include = library.folder / library.include
        digest = hashlib.sha256(repr((options, library.macros, os.environ.get("CFLAGS"))).encode())
        objects = THIRD_PARTY / f"obj-{sysconfig.get_platform()}-{digest.hexdigest()[:8]}"
        built = []
        for pattern in library.sources:
            for source in sorted(library.folder.glob(pattern)):
                relative = os.path.relpath(source, ROOT)
                [target] = self.compiler.object_filenames([relative], output_dir=str(objects))
                if not os.path.exists(target):  # the pinned sources never change
                    macros = [] if msvc else list(library.macros)
                    self.compiler.compile(
                        [relative],
                        output_dir=str(objects),
                        macros=macros,
                        include_dirs=[str(include)],
                        extra_postargs=options,
                    )
                built.append(target)
        # As a static library: the linker takes what is used, and can be told to export none of it.
        archive = Path(self.compiler.library_filename(library.name, output_dir=str(objects)))
        if not archive.exists():
            self.compiler.create_static_lib(built, library.name, output_dir=str(objects))
        return [("/I" if msvc else "-I") + str(include)], [str(archive.resolve())]


def _pkg_config(name: str) -> tuple[list[str], list[str]]:
    def ask(option: str) -> list[str]:
        output = subprocess.run(
            ["pkg-config", option, name], check=True, capture_output=True, text=True
        )
        return shlex.split(output.stdout)

    return ask("--cflags"), ask("--libs")


class SourceDistribution(sdist):
    """Carry the pinned sources along, so that building from the distribution needs no network."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        target = Path(base_dir) / "third_party"
        target.mkdir(exist_ok=True)
        for library in LIBRARIES:
            with tempfile.TemporaryDirectory() as scratch:
                shutil.copy(_find_archive(library, Path(scratch)), target / library.archive)


def native(name: str) -> Extension:
    """One extension of ``archivestream._native``."""
    windows = sys.platform == "win32"
    return Extension(
        f"archivestream._native.{name}",
        [f"archivestream/_native/{name}.pyx"],
        language="c++",
        include_dirs=["archivestream/_native"],
        depends=[
            "archivestream/_native/thread_pool.hpp",
            "archivestream/_native/positional_io.hpp",
        ],
        extra_compile_args=["/std:c++17", "/O2"] if windows else ["-std=c++17", "-O2", "-g1", "-fvisibility=hidden"],
        extra_link_args=["-Wl,--gc-sections", "-Wl,--exclude-libs,ALL"] if sys.platform == "linux" else [],
    )


EXTENSIONS = ("blocks", "buffers", "codecs", "engine", "names", "text", "zipscan")
LINKS = {"archivestream._native.codecs": ("libdeflate", "libzstd")}


def cythonized() -> list[Extension]:
    from Cython.Build import cythonize

    directives = {
        "language_level": 3,
        "boundscheck": False,
        "wraparound": False,
        "cdivision": True,
        "embedsignature": True,
        "embedsignature.format": "python",
        "freethreading_compatible": True,
    }
    return cythonize([native(name) for name in EXTENSIONS], compiler_directives=directives)


if __name__ == "__main__":
    setup(
        ext_modules=cythonized(),
        cmdclass={"build_ext": BuildExtensions, "sdist": SourceDistribution},
    )
