# ruff: noqa: E501
"""Rows of the corpus whose verdict or contents are not ours: file, field, our verdict, and why.

Of the field ``members``, None means that the contents are not compared.
"""

from __future__ import annotations

from typing import TypeAlias

Row: TypeAlias = tuple[str, str, str | None, str]

ZIP: tuple[Row, ...] = (
    ("libzip/testfile-xz.zip", "expect", "ok", "method 95 (xz) is read here, though not by zipfile"),
    ("libzip/testfile-xz.zip", "strict", "ok", "the same"),
    # What concerns one member is an error of that member, so that the others can be read.
    ("*/diff-092-sample.zip", "error_at", "member", "version > 6.3 is an error of the member"),
    ("*/test_unsupported_version.zip", "error_at", "member", "the same"),
    ("gen/zip-bad/version_99.zip", "error_at", "member", "the same"),
    # Rows that contradict other rows of the corpus; the stricter reading is kept.
    (
        "*/cd-entry-disknum-mismatch.zip",
        "expect",
        "error",
        "a member on another disk is an error, as in gen/zip-bad/multidisk_entry.zip",
    ),
    (
        "*/cd-zip64-extra-duplicate.zip",
        "expect",
        "error",
        "two ZIP64 fields are an error, as in gen/zip-bad/zip64_extra_dup.zip",
    ),
    (
        "cpython-inline/test_full_overlap_same_name.zip",
        "expect",
        "error",
        "entries that share a local header are an error, as in gen/zip-bad/overlap_full_samename_200.zip",
    ),
    ("cpython-inline/test_full_overlap_same_name.zip", "strict", "error", "the same"),
    ("libzip/filename_duplicate*.zip", "strict", "error", "as in gen/zip-ok/dup_names_last_wins.zip"),
    ("libzip/filename_empty.zip", "strict", "error", "as in gen/zip-names/14.zip"),
    ("libzip/incons-trailing-garbage.zip", "strict", "error", "as in gen/zip-bad/deflate_trailing_in_csize.zip"),
    ("libzip/incons-ef-local-dupe-zip64-v2.zip", "strict", "error", "as in lean-zip's lh-zip64-extra-duplicate.zip"),
    ("libzip/test-cp437.zip", "strict", "error", "control characters, as in gen/zip-names/19.zip"),
    ("libzip/test-cp437-comment-utf-8.zip", "strict", "error", "the same"),
    ("libzip/testfile-ef.zip", "strict", "error", "as in lean-zip's cd-entry-internal-attrs-reserved.zip"),
    ("libzip/zip*-in-archive-comment.zip", "strict", "error", "as in gen/zip-ok/zip_in_comment.zip"),
    ("*/zip64-eocd64-v2-record.zip", "strict", "ok", "extensible data, as in cpython-inline's ok_extensible_data.zip"),
    ("cpython-inline/zip64/ok_*size*.zip", "strict", "error", "end records disagree, as in lean-zip's eocd-zip64-*"),
    ("cpython-inline/zip64/ok_offset.zip", "strict", "error", "the same"),
    # Notes of the rows themselves: "trailing bytes after EOCD: lenient ok, strict error".
    ("libzip/junk-at-end.zip", "strict", "error", "bytes after the end, as its note says"),
    ("libzip/testextrabytes.zip", "strict", "error", "the same"),
    ("go-zip/readme.zip", "strict", "error", "the same"),
    ("go-zip/test-prefix.zip", "strict", "error", "the same"),
    ("go-zip/test-trailing-junk.zip", "strict", "error", "the same"),
    # Names that lead out of a folder, as in gen/zip-names and lean-zip's cd-path-unsafe.zip.
    ("cpython/zipdir_backslash.zip", "strict", "error", "an unsafe name"),
    ("lean-zip/zip/security/*.zip", "strict", "error", "an unsafe name"),
    ("go-inline/TestCVE202127919.zip", "strict", "error", "an unsafe name"),
    ("go-inline/TestCVE202141772.zip", "strict", "error", "an unsafe name"),
    ("go-inline/TestOpenReaderInsecurePath.zip", "strict", "error", "an unsafe name"),
)

TAR: tuple[Row, ...] = (
    # Contents and names that are tarfile's own, against GNU tar, Go and the formats' descriptions.
    (
        "go-tar/pax-nil-sparse-*.tar",
        "members",
        None,
        "the size of a PAX 1.0 sparse file is GNU.sparse.realsize (GNU tar: 1000); tarfile takes what is stored",
    ),
    (
        "go-tar/pax-sparse-big.tar",
        "expect",
        "error",
        "60 GB expanded, above Limits.max_member_bytes; the row has tarfile's packed bytes",
    ),
    ("go-tar/pax-sparse-big.tar", "strict", "error", "the same"),
    (
        "go-tar/gnu-sparse-big.tar",
        "expect",
        "error",
        "60 GB expanded, above Limits.max_member_bytes: an error of the member",
    ),
    ("go-tar/gnu-sparse-big.tar", "strict", "error", "the same"),
    (
        "go-tar/gnu-incremental.tar",
        "members",
        None,
        "GNU's magic has no prefix (times stand there); GNU tar lists test2, too",
    ),
    ("go-tar/invalid-go17.tar", "members", None, "GNU's magic has no prefix; GNU tar lists foo, too"),
    (
        "go-tar/*-multi-hdrs.tar",
        "members",
        None,
        "of two long names the last one counts, as in GNU tar and Go; tarfile has the first",
    ),
    (
        "gen/tar-ok/dir_with_size.tar",
        "members",
        None,
        "data behind a folder are passed over, and the next member is read; tarfile stops silently",
    ),
    (
        "gen/tar-ok/pax_size_on_L.tar",
        "expect",
        "error",
        "the PAX size is that of the file: the next header is then none (the row's note: safest is to reject)",
    ),
    (
        "lean-zip/tar/security/hardlink-outside.tar",
        "expect",
        "error",
        "its link refers to no member: an error of that member",
    ),
    ("lean-zip/tar/security/hardlink-outside.tar", "strict", "error", "the same"),
    # Rows that contradict other rows.
    (
        "gen/tar-bad/pax_path_nul.tar",
        "expect",
        "ok",
        "a NUL in a PAX path is kept, as in malo's pax_null_in_string, lean-zip's pax-path-nul-in-value, go-tar's pax-nul-path",
    ),
    ("cpython/testtar.tar", "strict", "error", "a folder with a size, as in gen/tar-ok/dir_with_size.tar"),
    ("go-tar/hdr-only.tar", "strict", "error", "the same"),
    ("lean-zip/tar/security/tar-skipped-payload.tar", "strict", "error", "the same, of a FIFO"),
    (
        "tokio-tar/empty_filename.tar",
        "strict",
        "error",
        "bytes behind the NUL of a name, as in lean-zip's ustar-name-nul-in-name.tar",
    ),
    ("go-tar/gnu-long-nul.tar", "strict", "error", "as in lean-zip's gnu-longname-nul-in-name.tar"),
    ("tokio-tar/spaces.tar", "strict", "error", "no magic and type 0, as in lean-zip's no-magic.tar"),
    ("go-tar/pax-global-records.tar", "strict", "error", "a global path"),
    (
        "lean-zip/tar/security/backslash-slip.tar",
        "strict",
        "error",
        "an unsafe name, as in malo's path_traversal.tar, and in ZIP",
    ),
    ("lean-zip/tar/security/tar-absolute.tar", "strict", "error", "the same"),
    ("lean-zip/tar/security/tar-slip.tar", "strict", "error", "the same"),
    (
        "gen/tar-ok/trailing_garbage.tar",
        "strict",
        "error",
        "bytes behind the end, as in gen/tar-ok/concatenated.tar, and in ZIP",
    ),
    (
        "lean-zip/tar/malformed/gnu-longname-no-terminator.tar",
        "strict",
        "ok",
        "the NUL is optional, as in gen/tar-ok/gnu_L_no_nul.tar",
    ),
    # What malo refuses by policy is well-formed, and other rows accept the same in strict mode.
    ("malo/tar/reject/gnu_longname.tar", "strict", "ok", "GNU's L (gen/tar-ok/gnu_longname.tar)"),
    ("malo/tar/reject/prefix_dot_name_foo_reg.tar", "strict", "ok", "./foo, as tar c . writes"),
    (
        "malo/tar/reject/prefix_empty_name_empty_reg.tar",
        "strict",
        "ok",
        "an empty name (go-tar/pax-global-records.tar)",
    ),
    ("malo/tar/reject/sparse_basic.tar", "strict", "ok", "sparse (tokio-tar/sparse.tar)"),
    ("malo/tar/malicious/sparse_huge.tar", "strict", "ok", "sparse, 1 GiB"),
    ("malo/tar/malicious/blockdev.tar", "strict", "ok", "a device (lean-zip's tar-blockdev-skipped.tar)"),
    ("malo/tar/malicious/chardev.tar", "strict", "ok", "a device (lean-zip's tar-chardev-skipped.tar)"),
    ("malo/tar/malicious/fifo.tar", "strict", "ok", "a FIFO (lean-zip's tar-fifo-skipped.tar)"),
    ("malo/tar/malicious/contiguous*.tar", "strict", "ok", "type 7 (gen/tar-ok/contiguous_7.tar)"),
    ("malo/tar/malicious/dumpdir*.tar", "strict", "ok", "type D (go-tar/gnu-incremental.tar)"),
    ("malo/tar/malicious/volume_header.tar", "strict", "ok", "type V (lean-zip's tar-volumeheader-skipped.tar)"),
    ("malo/tar/malicious/hardlink.tar", "strict", "ok", "a hard link (gen/tar-ok/hardlink.tar)"),
    ("malo/tar/malicious/symlink.tar", "strict", "ok", "a symbolic link (gen/tar-ok/symlink_escape.tar)"),
    (
        "malo/tar/malicious/*duplicate*.tar",
        "strict",
        "ok",
        "equal names (gen/tar-ok/dup_names.tar); é in two normal forms",
    ),
    ("malo/tar/malicious/pax_dotslash_path.tar", "strict", "ok", "./hello.txt, as tar c . writes"),
    ("malo/tar/malicious/pax_linkpath_symlink.tar", "strict", "ok", "linkpath of PAX (go-tar/pax.tar)"),
    (
        "malo/tar/malicious/pax_local_size_override.tar",
        "strict",
        "ok",
        "size of PAX (gen/tar-ok/pax_size_overrides_nonzero.tar)",
    ),
    ("malo/tar/malicious/pax_multiple_headers.tar", "strict", "ok", "two PAX headers (go-tar/pax-multi-hdrs.tar)"),
    (
        "malo/tar/malicious/pax_path_and_prefix_traversal.tar",
        "strict",
        "ok",
        "the name of PAX counts; that of the header is no name then",
    ),
    ("malo/tar/malicious/pax_path_*_split.tar", "strict", "ok", "a PAX header of two blocks; nothing is wrong with it"),
    ("malo/tar/malicious/pax_path_trailing_slash_file.tar", "strict", "ok", "the slash is dropped, as by tarfile"),
    ("malo/tar/malicious/prefix_d*.tar", "strict", "ok", "dir/ and ./foo"),
    ("malo/tar/malicious/prefix_empty_name_dot.tar", "strict", "ok", "., as tar c . writes"),
    ("malo/tar/malicious/prefix_empty_name_empty.tar", "strict", "ok", "an empty name (go-tar/pax-global-records.tar)"),
    # Of the containers of tars, xz and bzip2 are not read.
    ("cpython/testtar.tar.xz", "expect", "error", "xz is not read but in ZIP"),
    ("cpython/testtar.tar.xz", "strict", "error", "the same"),
)

ZSTD: tuple[Row, ...] = (
    # The seek table is ignored and the frames are walked, as the notes of these rows allow; strict mode minds it.
    ("gen/zst-bad/st_[!f]*.tar.zst", "expect", "ok", "a wrong seek table is not used; the frames are right"),
    ("gen/zst-bad/st_csize_zero_loop.tar.zst", "strict", "ok", "no frames at all, as in malo's skippable_only.zst"),
    ("gen/zst-wild/concat_two.tar.zst", "strict", "error", "two tars, as in gen/tar-ok/concatenated.tar"),
)

EXCEPTIONS = (*ZIP, *TAR, *ZSTD)
