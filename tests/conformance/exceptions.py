"""Rows of the corpus whose verdict or contents are not ours, and why.

A row that is named contradicts another row, or what the note of the row itself, the formats' descriptions or the
readers that wrote it say; of two readings the stricter one is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["EXCEPTIONS"]


@dataclass(frozen=True)
class Exceptional:
    """Rows with one reason.

    Attributes
    ----------
    files : tuple of str
        Their patterns; each row that one fits must differ.
    reason : str
    ours : {"ok", "error", "member", "other"}
        Our verdict: of the archive, an error of a member and not of the archive, or that the members are others.
    mode : {"default", "strict", "both"}
    """

    files: tuple[str, ...]
    reason: str
    ours: Literal["ok", "error", "member", "other"]
    mode: Literal["default", "strict", "both"] = "both"

    def changes(self, mode: str) -> dict[str, Any]:
        """Return the fields of a row that are others in a mode."""
        if self.ours == "other":
            return {"members": []}
        verdict = {"strict" if mode == "strict" else "expect": "error" if self.ours == "member" else self.ours}
        return {**verdict, "error_at": "member" if self.ours == "member" else None, "members": []}


def _in(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


ZIP = (
    Exceptional(("libzip/testfile-xz.zip",), "xz is read here, though not by zipfile", "ok"),
    Exceptional(
        ("*/diff-092-sample.zip", "*/test_unsupported_version.zip", "gen/zip-bad/version_99.zip"),
        "what concerns one member is an error of that member, so that the others can be read",
        "member",
        "default",
    ),
    Exceptional(("*/cd-entry-disknum-mismatch.zip",), "as gen/zip-bad/multidisk_entry.zip", "error", "default"),
    Exceptional(("*/cd-zip64-extra-duplicate.zip",), "as gen/zip-bad/zip64_extra_dup.zip", "error", "default"),
    Exceptional(
        ("cpython-inline/test_full_overlap_same_name.zip",), "as gen/zip-bad/overlap_full_samename_200.zip", "error"
    ),
    Exceptional(("libzip/filename_duplicate*.zip",), "as gen/zip-ok/dup_names_last_wins.zip", "error", "strict"),
    Exceptional(("libzip/filename_empty.zip",), "as gen/zip-names/14.zip", "error", "strict"),
    Exceptional(
        ("libzip/incons-trailing-garbage.zip",), "as gen/zip-bad/deflate_trailing_in_csize.zip", "error", "strict"
    ),
    Exceptional(
        ("libzip/incons-ef-local-dupe-zip64-v2.zip",), "as lean-zip's lh-zip64-extra-duplicate.zip", "error", "strict"
    ),
    Exceptional(
        _in("libzip", "test-cp437.zip", "test-cp437-comment-utf-8.zip"),
        "a control character, as in gen/zip-names/19.zip",
        "error",
        "strict",
    ),
    Exceptional(("libzip/testfile-ef.zip",), "as lean-zip's cd-entry-internal-attrs-reserved.zip", "error", "strict"),
    Exceptional(("libzip/zip*-in-archive-comment.zip",), "as gen/zip-ok/zip_in_comment.zip", "error", "strict"),
    Exceptional(
        ("*/zip64-eocd64-v2-record.zip",), "extensible data, as cpython-inline's ok_extensible_data.zip", "ok", "strict"
    ),
    Exceptional(
        _in("cpython-inline/zip64", "ok_*size*.zip", "ok_offset.zip"),
        "the end records disagree, as in lean-zip's eocd-zip64-override-nosentinel.zip",
        "error",
        "strict",
    ),
    Exceptional(
        (*_in("libzip", "junk-at-end.zip", "testextrabytes.zip"), *_in("go-zip", "readme.zip", "test-[pt]r*.zip")),
        "bytes after the end, of which the rows' own notes say: strict error",
        "error",
        "strict",
    ),
    Exceptional(
        (
            "cpython/zipdir_backslash.zip",
            "lean-zip/zip/security/*.zip",
            *_in("go-inline", "TestCVE202127919.zip", "TestCVE202141772.zip", "TestOpenReaderInsecurePath.zip"),
            *_in("lean-zip/tar/security", "backslash-slip.tar", "tar-absolute.tar", "tar-slip.tar"),
        ),
        "a name that leads out of a folder, as in gen/zip-names and malo's path_traversal.tar",
        "error",
        "strict",
    ),
)

TAR = (
    Exceptional(
        ("go-tar/pax-nil-sparse-*.tar",),
        "a PAX 1.0 sparse file has GNU.sparse.realsize bytes (GNU tar: 1000); the row has what tarfile finds stored",
        "other",
    ),
    Exceptional(
        ("go-tar/*-sparse-big.tar",),
        "60 GB expanded are above Limits.max_member_bytes: an error of the member",
        "member",
    ),
    Exceptional(
        _in("go-tar", "gnu-incremental.tar", "invalid-go17.tar"),
        "GNU's magic has no prefix (times stand there), so the names are shorter: GNU tar lists them so",
        "other",
    ),
    Exceptional(
        ("go-tar/*-multi-hdrs.tar",),
        "of two long names the last one counts, as in GNU tar and Go; not in tarfile",
        "other",
    ),
    Exceptional(
        ("gen/tar-ok/pax_size_on_L.tar",),
        "the PAX size is that of the file, so that no header follows: its note says that it is safest to reject",
        "error",
        "default",
    ),
    Exceptional(
        ("lean-zip/tar/security/hardlink-outside.tar",),
        "its link refers to no member: an error of that member",
        "member",
    ),
    Exceptional(
        ("gen/tar-bad/pax_path_nul.tar",), "a NUL in a PAX path is kept, as in go-tar/pax-nul-path.tar", "ok", "default"
    ),
    Exceptional(
        ("cpython/testtar.tar", "go-tar/hdr-only.tar", "lean-zip/tar/security/tar-skipped-payload.tar"),
        "what has no data claims some, as in gen/tar-ok/dir_with_size.tar",
        "error",
        "strict",
    ),
    Exceptional(
        ("tokio-tar/empty_filename.tar", "go-tar/gnu-long-nul.tar"),
        "bytes behind the NUL of a name, as in lean-zip's ustar-name-nul-in-name.tar and gnu-longname-nul-in-name.tar",
        "error",
        "strict",
    ),
    Exceptional(("tokio-tar/spaces.tar",), "no magic and type 0, as in lean-zip's no-magic.tar", "error", "strict"),
    Exceptional(("go-tar/pax-global-records.tar",), "as malo/tar/malicious/pax_global_path.tar", "error", "strict"),
    Exceptional(
        ("gen/tar-ok/trailing_garbage.tar", "gen/zst-wild/concat_two.tar.zst"),
        "bytes behind the end, as in gen/tar-ok/concatenated.tar",
        "error",
        "strict",
    ),
    Exceptional(
        ("lean-zip/tar/malformed/gnu-longname-no-terminator.tar",), "as gen/tar-ok/gnu_L_no_nul.tar", "ok", "strict"
    ),
    Exceptional(
        (
            *_in(
                "malo/tar/reject", "gnu_longname.tar", "prefix_*_foo_reg.tar", "prefix_*_empty_reg.tar", "sparse_b*.tar"
            ),
            *_in("malo/tar/malicious", "blockdev.tar", "chardev.tar", "fifo.tar", "contiguous*.tar", "dumpdir*.tar"),
            *_in("malo/tar/malicious", "volume_header.tar", "sparse_huge.tar", "hardlink.tar", "symlink.tar"),
            *_in("malo/tar/malicious", "*_duplicate_*.tar", "pax_dotslash_path.tar", "pax_linkpath_symlink.tar"),
            *_in(
                "malo/tar/malicious", "pax_local_size_override.tar", "pax_multiple_headers.tar", "pax_path_*_split.tar"
            ),
            *_in("malo/tar/malicious", "prefix_dir_name_empty.tar", "prefix_dot_*.tar"),
            *_in("malo/tar/malicious", "prefix_empty_name_dot.tar", "prefix_empty_name_empty.tar"),
        ),
        "a policy of malo against what POSIX and GNU define; rows of go-tar, lean-zip and gen/tar-ok accept the same",
        "ok",
        "strict",
    ),
    Exceptional(
        ("malo/tar/malicious/pax_path_and_prefix_traversal.tar",),
        "the name of PAX counts; that of the header is no name then",
        "ok",
        "strict",
    ),
    Exceptional(
        ("malo/tar/malicious/pax_path_trailing_slash_file.tar",), "the slash is dropped, as by tarfile", "ok", "strict"
    ),
    Exceptional(("cpython/testtar.tar.xz",), "tars in xz are not read", "error"),
)

ZSTD = (
    Exceptional(
        ("gen/zst-bad/st_[!f]*.tar.zst",),
        "a wrong seek table is not used, and the frames are walked, as the rows' notes allow",
        "ok",
        "default",
    ),
    Exceptional(
        ("gen/zst-bad/st_csize_zero_loop.tar.zst",), "no frames at all, as in malo's skippable_only.zst", "ok", "strict"
    ),
)

EXCEPTIONS = (*ZIP, *TAR, *ZSTD)
