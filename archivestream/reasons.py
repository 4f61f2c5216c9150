"""What each `Status` means to whoever reads a member: the exception, and what it says."""

from __future__ import annotations

from archivestream._native.codecs import Status
from archivestream.errors import (
    ArchiveError,
    CorruptArchiveError,
    EncryptedMemberError,
    LimitExceededError,
    UnsupportedFeatureError,
)

__all__ = ["REASONS", "REASONS_IN_BLOCKS", "REASONS_OF_RECORDS"]

REASONS: dict[Status, tuple[type[ArchiveError], str]] = {
    Status.BAD_DATA: (CorruptArchiveError, "its compressed data are damaged ({method})"),
    Status.TOO_FEW_BYTES: (
        CorruptArchiveError,
        "its data hold fewer bytes than the {size} that the directory declares",
    ),
    Status.TOO_MANY_BYTES: (
        CorruptArchiveError,
        "its data hold more bytes than the {size} that the directory declares",
    ),
    Status.TRAILING_BYTES: (
        CorruptArchiveError,
        "its data end before the {compressed_size} compressed bytes that the directory declares",
    ),
    Status.BAD_CHECKSUM: (CorruptArchiveError, "its bytes do not have the CRC-32 {crc32:#010x}"),
    Status.BAD_LOCAL_SIGNATURE: (
        CorruptArchiveError,
        "there is no local header at offset {offset}, where the directory says",
    ),
    Status.NAME_DIFFERS: (
        CorruptArchiveError,
        "the local header at offset {offset} has another name",
    ),
    Status.TRUNCATED: (CorruptArchiveError, "the archive ends within its data"),
    Status.OVERLAP: (
        CorruptArchiveError,
        "its data run into another member or the directory; Limits(allow_overlap=True) reads it all the same",
    ),
    Status.OUT_OF_BOUNDS: (
        CorruptArchiveError,
        "the directory places it outside the archive, at offset {offset}",
    ),
    Status.IMPOSSIBLE_SIZE: (
        CorruptArchiveError,
        "{compressed_size} bytes ({method}) cannot hold the {size} that the directory declares",
    ),
    Status.BAD_NAME: (CorruptArchiveError, "its name is marked as UTF-8, and is not"),
    Status.BROKEN_LINK: (
        CorruptArchiveError,
        "it is a hard link, and no member before it has the name that it leads to",
    ),
    Status.BAD_INDEX: (
        CorruptArchiveError,
        "the saved index does not fit the archive; build it anew with `archivestream index --force`",
    ),
    Status.ENCRYPTED: (
        EncryptedMemberError,
        "it is encrypted, and passwords are not handled; decrypt the archive first",
    ),
    Status.PATCHED: (UnsupportedFeatureError, "it holds compressed patched data"),
    Status.UNSUPPORTED_METHOD: (
        UnsupportedFeatureError,
        "compression method {codec} ({method}) is not handled",
    ),
    Status.UNSUPPORTED_VERSION: (
        UnsupportedFeatureError,
        "it needs a later version of the ZIP specification than 6.3",
    ),
    Status.OTHER_DISK: (UnsupportedFeatureError, "it begins on another disk of a split archive"),
    Status.DICTIONARY_REQUIRED: (
        UnsupportedFeatureError,
        "a zstd dictionary is required to decode it",
    ),
    Status.OVER_LIMIT: (
        LimitExceededError,
        "it has {size} bytes, more than Limits.max_member_bytes = {limits.max_member_bytes}",
    ),
    Status.PACKAGE_MISSING: (
        UnsupportedFeatureError,
        "compression method {codec} ({method}) needs a package: pip install 'archivestream[{method}]'",
    ),
    Status.WINDOW_TOO_LARGE: (
        LimitExceededError,
        "its decoder asks for more memory than Limits.max_window_bytes = {limits.max_window_bytes}",
    ),
}

# What is said otherwise of members that share blocks.
REASONS_IN_BLOCKS: dict[Status, str] = {
    Status.BAD_DATA: "the compressed data that it lies in are damaged",
    Status.BAD_CHECKSUM: "the compressed data that it lies in decode to other bytes than those that were indexed",
    Status.TOO_FEW_BYTES: "the compressed data that it lies in hold fewer bytes than were indexed",
    Status.TOO_MANY_BYTES: "the compressed data that it lies in hold more bytes than were indexed",
    Status.TRAILING_BYTES: "the compressed data that it lies in end before the place that was indexed",
}

# What is said otherwise of TFRecords.
REASONS_OF_RECORDS: dict[Status, str] = {
    Status.BAD_CHECKSUM: "the {size} bytes of this record, at offset {offset}, do not have their CRC-32C {crc32:#010x}",
    Status.TRUNCATED: "the file ends within the {size} bytes of this record, at offset {offset}",
}
