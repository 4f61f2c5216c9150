"""Build the extensions, and the two C libraries that they link statically.

Everything else about the project is declared in ``pyproject.toml``.

libdeflate and libzstd come from the source distributions of two packages on the Python index,
pinned by version and SHA-256. Environment variables change where they come from:

``ARCHIVESTREAM_SOURCES=DIR``
    Take the two source distributions from a folder, without a network.
``ARCHIVESTREAM_SYSTEM_LIBS=1``
    Link the system's libraries through pkg-config instead: for distribution packagers.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
CARRIED = ROOT / "third_party"  # the pinned archives, in a source distribution
CACHE = ROOT / "build" / "third_party"  # the same, downloaded; and what is made of them


@dataclass(frozen=True)
class Library:
    """A C library inside the source distribution of a Python package."""

    name: str  # as pkg-config and the systems call it
    package: str
    version: str
    sha256: str
    backend: str  # what builds the package
    include: str
    sources: tuple[str, ...]

    @property
    def archive(self) -> str:
        """Name of the source distribution."""
        return f"{self.package}-{self.version}.tar.gz"

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return CACHE / f"{self.package}-{self.version}"


LIBRARIES = (
    Library(
        name="libdeflate",
        package="deflate",
        version="0.9.0",
        sha256="962e0a6f1ea3a94b900a8ea0ce138fa92bfcbafda5b86367104a259ffcd3462b",
        backend="scikit_build_core.build",
        include="libdeflate",
        sources=("libdeflate/lib/*.c", "libdeflate/lib/x86/*.c", "libdeflate/lib/arm/*.c"),
    ),
    Library(
        name="libzstd",
        package="zstandard",
        version="0.25.0",
        sha256="7713e1179d162cf5c7906da876ec2ccb9c3a9dcbdffef0cc7f70c3667a205f0b",
        backend="setuptools.build_meta",
        include="zstd",
        sources=("zstd/zstd.c",),
    ),
)

EXTENSIONS = (
    "blocks",
    "buffers",
    "cache",
    "checkpoints",
    "checksums",
    "codecs",
    "columns",
    "deflating",
    "engine",
    "entropy",
    "examples",
    "examplewalk",
    "files",
    "frameindex",
    "memberstore",
    "memberview",
    "meter",
    "nameparts",
    "names",
    "permutation",
    "pieces",
    "plan",
    "protobuf",
    "scanning",
    "scatter",
    "segments",
    "sequences",
    "sharedstore",
    "sharedview",
    "storing",
    "tarheader",
    "tarpax",
    "tarscan",
    "tartable",
    "text",
    "tfscan",
    "view",
    "watch",
    "work",
    "zipextra",
    "zipscan",
    "zstdscan",
)
LINKS = {"archivestream._native.codecs": LIBRARIES}

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "embedsignature": True,
    "embedsignature.format": "python",
    "freethreading_compatible": True,
    "auto_pickle": False,
    "autotestdict": False,
}

# No -march: the libraries choose their code at run time, and a wheel must run everywhere.
# The linker drops the sections that nothing uses.
C_FLAGS = ["-O2", "-g0", "-w", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"]
CPP_FLAGS = ["-std=c++17", "-O2", "-g1", "-fvisibility=hidden"]
LINK_FLAGS = ["-Wl,-dead_strip" if sys.platform == "darwin" else "-Wl,--gc-sections"]


def third_party() -> None:
    """Unpack the pinned sources, unless that has been done."""
    for library in LIBRARIES:
        if library.folder.is_dir():
            continue
        with scratch_folder() as scratch, tarfile.open(find_archive(library)) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(scratch)
            try:
                os.replace(scratch / library.folder.name, library.folder)
            except OSError:
                if not library.folder.is_dir():  # else another build has been quicker
                    raise


def find_archive(library: Library) -> Path:
    """Return the pinned archive of a library, checked; download it where it is not at hand."""
    offline = os.environ.get("ARCHIVESTREAM_SOURCES")
    if offline:
        archive = Path(offline) / library.archive
        if not archive.is_file():
            raise SetupError(f"ARCHIVESTREAM_SOURCES={offline} holds no {library.archive}")
    else:
        archive = CARRIED / library.archive
        if not archive.is_file():
            archive = CACHE / library.archive
        if not archive.is_file():
            download(library, archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != library.sha256:
        raise SetupError(f"{archive}: SHA-256 is {digest}, not the pinned {library.sha256}")
    return archive


def download(library: Library, target: Path) -> None:
    """Download the source distribution of a package with pip, from where pip is set up to look."""
    with scratch_folder() as scratch:
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{library.package}=={library.version} --hash=sha256:{library.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", library.package, "--no-build-isolation"]
        command += ["--dest", str(scratch), "--requirement", str(requirements)]
        search_path = [make_backend(library, scratch / "backend"), os.environ.get("PYTHONPATH")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))}
        environment.pop("PIP_CONSTRAINT", None)  # speaks of what gets installed
        if subprocess.run(command, env=environment).returncode:
            raise SetupError(
                f"cannot download {library.archive} from the package index. Without a network, "
                "put it in a folder and set ARCHIVESTREAM_SOURCES to that folder."
            )
        os.replace(scratch / library.archive, target)


def make_backend(library: Library, folder: Path) -> str:
    """Make a module that stands in for the build backend of a package.

    pip asks the backend of all that it downloads for metadata. The real one would have to be
    downloaded first, and may look for CMake and a compiler, for an answer that nobody reads.
    """
    module = folder.joinpath(*library.backend.split(".")).with_suffix(".py")
    module.parent.mkdir(parents=True)
    module.with_name("__init__.py").touch()
    name = f"{library.package}-{library.version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {library.package}\nVersion: {library.version}\n"
    module.write_text(
        "from pathlib import Path\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        f"    Path(folder, {name!r}).mkdir()\n"
        f"    Path(folder, {name!r}, 'METADATA').write_text({text!r})\n"
        f"    return {name!r}\n"
    )
    return str(folder)


def included(source: Path) -> list[str]:
    """List the headers of ours that a translated source includes, by itself or through others."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        names = re.findall(r'^\s*#\s*include\s*"(.+)"', waiting.pop().read_text(errors="replace"), re.MULTILINE)
        new = {path for name in names if (path := source.parent / name).is_file()} - found
        found |= new
        waiting += new
    return sorted(map(str, found))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder to prepare in: what lies in the cache itself has been moved there complete."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as folder:
        yield Path(folder)


def use_system(library: Library) -> tuple[list[str], list[str]]:
    """Return the flags to compile and link with the system's copy of a library."""
    answers = []
    for option in ("--cflags", "--libs"):
        command = [os.environ.get("PKG_CONFIG", "pkg-config"), option, library.name]
        try:
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SetupError(
                f"ARCHIVESTREAM_SYSTEM_LIBS=1, but `{shlex.join(command)}` fails: install pkg-config "
                f"and the headers of {library.name} (on Debian: pkg-config {library.name}-dev)"
            ) from error
        answers.append(shlex.split(answer.stdout))
    return answers[0], answers[1]


class BuildExtensions(build_ext):
    """Compile the C libraries once, then the extensions that link them."""

    def finalize_options(self) -> None:
        """Build as many extensions at a time as there are processors."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        """Translate and build what is out of date."""
        from Cython.Build import cythonize

        if os.environ.get("ARCHIVESTREAM_SYSTEM_LIBS") == "1":
            use = use_system
        else:
            third_party()
            use = self._use_static
        translated = cythonize(self.extensions, compiler_directives=DIRECTIVES, force=self.force)
        for extension, result in zip(self.extensions, translated, strict=True):
            extension.sources = result.sources
            extension.depends += included(Path(result.sources[0]))
            extension.extra_link_args += self._export_only_init()
            for library in LINKS.get(extension.name, ()):
                compile_flags, link_flags = use(library)
                extension.extra_compile_args += compile_flags
                extension.extra_link_args += link_flags
            extension.depends.append(self._record_flags(extension))
        super().build_extensions()

    def _use_static(self, library: Library) -> tuple[list[str], list[str]]:
        """Build a library, unless that has been done, and return the flags as `use_system` does."""
        # As the sources, relative: a cache of the compiler knows the same build in another folder.
        include = os.path.relpath(library.folder / library.include)
        command = repr((getattr(self.compiler, "compiler_so", None), C_FLAGS))
        name = f"{library.package}-{hashlib.sha256(command.encode()).hexdigest()[:8]}"
        archive = Path(self.compiler.library_filename(name, output_dir=str(CACHE)))
        if not archive.exists():  # the pinned sources never change
            with scratch_folder() as scratch:
                objects = self.compiler.compile(
                    [
                        os.path.relpath(source)
                        for pattern in library.sources
                        for source in sorted(library.folder.glob(pattern))
                    ],
                    output_dir=str(scratch),
                    include_dirs=[include],
                    extra_postargs=C_FLAGS,
                )
                self.compiler.create_static_lib(objects, name, output_dir=str(scratch))
                os.replace(scratch / archive.name, archive)
        return [f"-I{include}"], [str(archive)]

    def _export_only_init(self) -> list[str]:
        """Return the flags that keep all symbols but the entry point inside an extension."""
        if sys.platform == "darwin":
            return ["-Wl,-exported_symbol,_PyInit_*"]
        script = Path(self.build_temp) / "exports.map"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("{ global: PyInit_*; local: *; };\n")
        return [f"-Wl,--version-script={script}"]

    def _record_flags(self, extension: Extension) -> str:
        """Keep the flags in a file that changes when they do: the extension is built again then."""
        flags = repr((extension.extra_compile_args, extension.extra_link_args))
        record = Path(self.build_temp) / f"{extension.name}.flags"
        record.parent.mkdir(parents=True, exist_ok=True)
        if not record.exists() or record.read_text() != flags:
            record.write_text(flags)
        return str(record)


class SourceDistribution(sdist):
    """Carry all that a build needs along, the pinned sources among it: it needs no network then."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Add what setuptools does not know to be sources."""
        more = [*Path("archivestream").rglob("*.pxd"), *Path("archivestream").rglob("*.hpp")]
        more += [path for top in ("tests", "benchmarks", "examples") for path in Path(top).rglob("*")]
        more = [path for path in more if path.is_file() and path.suffix != ".pyc"]
        # What a build in this folder made of .pyx files is in the list, too.
        files = [name for name in files if not name.endswith(".cpp")]
        super().make_release_tree(base_dir, sorted({*files, *map(str, more)}))
        carried = Path(base_dir) / CARRIED.name
        carried.mkdir(exist_ok=True)
        for library in LIBRARIES:
            shutil.copy(find_archive(library), carried)


def native(name: str) -> Extension:
    """Return one extension of ``archivestream._native``."""
    return Extension(
        f"archivestream._native.{name}",
        [f"archivestream/_native/{name}.pyx"],
        language="c++",
        include_dirs=["archivestream/_native"],
        extra_compile_args=[*CPP_FLAGS],
        extra_link_args=[*LINK_FLAGS],
    )


if __name__ == "__main__":
    setup(
        ext_modules=[native(name) for name in EXTENSIONS],
        cmdclass={"build_ext": BuildExtensions, "sdist": SourceDistribution},
    )
