# distutils: language = c++
"""zstd: the headers of frames (RFC 8878, 3.1.1), and the seek table of the seekable format.

Frame header, 3.1.1.1 (all little-endian)::

    0  u32 magic number FD2FB528
    4  u8  descriptor: content size flag (2 bits), single segment, unused, reserved, checksum, dictionary id (2 bits)
       u8  window descriptor, unless single segment: exponent (5 bits), mantissa (3 bits)
       0, 1, 2 or 4 bytes dictionary id
       0, 1, 2, 4 or 8 bytes content size

Seek table, the last frame of a file (contrib/seekable_format/zstd_seekable_compression_format.md)::

    0  u32 magic number 184D2A5E: a skippable frame
    4  u32 size of what follows
    8  for each frame u32 compressed size, u32 decompressed size, and, with checksums, u32 of the content's XXH64
       u32 number of frames
       u8  descriptor: checksum flag, 5 reserved bits, 2 unused bits
       u32 magic number 8F92EAB1
"""

import struct

from archivestream._native.buffers cimport Buffer
from archivestream._native.codecs cimport BAD_DATA, OK, TRUNCATED, ZSTD, is_possible

cdef enum:
    SEEK_TABLE_FOOTER = 9
    CHECKSUM_FLAG = 0x80
    RESERVED_BITS = 0x7C

cdef uint32_t SEEK_TABLE_MAGIC = 0x184D2A5EU
cdef uint32_t FOOTER_MAGIC = 0x8F92EAB1U
# What the reference implementation writes and reads at most.
cdef uint32_t MOST_FRAMES = 0x8000000U


cdef uint64_t window_of(uint8_t window_byte) noexcept nogil:
    """Return the window that a Window_Descriptor stands for (3.1.1.1.2)."""
    cdef uint64_t base = <uint64_t> 1 << (10 + (window_byte >> 3))
    return base + (base >> 3) * (window_byte & 7)


cdef Status parse_frame_header(const uint8_t *data, size_t available, FrameHeader *header) noexcept nogil:
    """Read the header of a frame that begins with the magic number; TRUNCATED where it ends too early."""
    cdef uint8_t descriptor
    cdef bint single_segment
    cdef size_t dictionary_bytes, content_bytes, at, i
    if available < 5:
        return TRUNCATED
    descriptor = data[4]
    if descriptor & 0x08:       # the reserved bit (3.1.1.1.1.4)
        return BAD_DATA
    single_segment = descriptor & 0x20
    dictionary_bytes = descriptor & 3
    if dictionary_bytes == 3:
        dictionary_bytes = 4
    content_bytes = <size_t> 1 << (descriptor >> 6)
    if content_bytes == 1 and not single_segment:
        content_bytes = 0
    header.size = 5 + (not single_segment) + dictionary_bytes + content_bytes
    if available < header.size:
        return TRUNCATED
    at = 5 if single_segment else 6
    header.dictionary_id = 0
    for i in range(dictionary_bytes):
        header.dictionary_id |= <uint32_t> data[at + i] << (8 * i)
    at += dictionary_bytes
    header.content_size = 0
    for i in range(content_bytes):
        header.content_size |= <uint64_t> data[at + i] << (8 * i)
    if content_bytes == 2:
        header.content_size += 256      # 3.1.1.1.4
    header.has_content_size = content_bytes > 0
    header.has_checksum = descriptor & 0x04
    if single_segment:
        header.window = header.content_size
        header.window_byte = 0
        while header.window_byte < 0xFF and window_of(header.window_byte) < header.window:
            header.window_byte += 1
    else:
        header.window_byte = data[5]
        header.window = window_of(data[5])
    return OK


def seek_table_size(const unsigned char[::1] footer not None, uint64_t file_size):
    """Return how many bytes at the end of a file are its seek table, from the last nine.

    Returns
    -------
    int
        0 where there is no seek table.

    Raises
    ------
    ValueError
        If there is one, and what its footer says is impossible.
    """
    cdef size_t n = footer.shape[0]
    cdef const uint8_t *end
    cdef uint64_t frames, size
    if n < SEEK_TABLE_FOOTER or u32(&footer[n - 4]) != FOOTER_MAGIC:
        return 0
    end = &footer[n - SEEK_TABLE_FOOTER]
    frames = u32(end)
    if end[4] & RESERVED_BITS:
        raise ValueError("reserved bits of the seek table are set")
    size = SKIPPABLE_HEADER + frames * (12 if end[4] & CHECKSUM_FLAG else 8) + SEEK_TABLE_FOOTER
    if frames > MOST_FRAMES or size > file_size:
        raise ValueError(f"a seek table of {frames} frames does not fit a file of {file_size} bytes")
    return size


def parse_seek_table(const unsigned char[::1] table not None, uint64_t file_size):
    """Check a seek table, and return where the frames lie.

    Parameters
    ----------
    table : buffer
        The last bytes of the file, as many as `seek_table_size` says.
    file_size : int
        Size of the whole file.

    Returns
    -------
    dict of str to Buffer
        ``offset``, ``compressed_size`` and ``size`` (uint64), and, where the table has checksums, ``checksum``
        (uint32: the low half of the content's XXH64). Skippable frames have size 0.

    Raises
    ------
    ValueError
        If the table contradicts itself or the size of the file. Whether it is true to the frames is not known
        before `check_frame` has seen them.
    """
    cdef size_t size = table.shape[0]
    cdef const uint8_t *at
    cdef uint64_t offset = 0
    cdef uint64_t compressed, decoded
    cdef uint64_t *offsets
    cdef uint64_t *compressed_sizes
    cdef uint64_t *sizes
    cdef uint32_t *checksums = NULL
    cdef size_t frames, entry, i
    if size != seek_table_size(table, file_size) or size == 0:
        raise ValueError("no seek table of that size")
    at = &table[0]
    if u32(at) != SEEK_TABLE_MAGIC or u32(at + 4) != size - SKIPPABLE_HEADER:
        raise ValueError("the skippable frame of the seek table is not as long as its footer says")
    frames = u32(at + size - SEEK_TABLE_FOOTER)
    entry = 12 if at[size - 5] & CHECKSUM_FLAG else 8
    columns = {name: Buffer(8 * frames) for name in ("offset", "compressed_size", "size")}
    offsets = <uint64_t *> (<Buffer> columns["offset"]).data
    compressed_sizes = <uint64_t *> (<Buffer> columns["compressed_size"]).data
    sizes = <uint64_t *> (<Buffer> columns["size"]).data
    if entry == 12:
        columns["checksum"] = Buffer(4 * frames)
        checksums = <uint32_t *> (<Buffer> columns["checksum"]).data
    at += SKIPPABLE_HEADER
    for i in range(frames):
        compressed, decoded = u32(at), u32(at + 4)
        if compressed < SKIPPABLE_HEADER or compressed > file_size - size - offset:
            raise ValueError(f"frame {i} of the seek table does not lie in the file")
        if not is_possible(ZSTD, compressed, decoded):
            raise ValueError(f"frame {i} of the seek table cannot hold {decoded} bytes")
        offsets[i], compressed_sizes[i], sizes[i] = offset, compressed, decoded
        if checksums != NULL:
            checksums[i] = u32(at + 8)
        offset += compressed
        at += entry
    if offset != file_size - size:
        raise ValueError(f"the frames of the seek table end at {offset}, not at {file_size - size}, where it begins")
    return columns


def check_frame(const unsigned char[::1] head not None, uint64_t compressed_size, uint64_t size):
    """Tell whether a frame can be the one that a seek table lists with these sizes.

    Parameters
    ----------
    head : buffer
        The first bytes of the frame: 18, or all where it has fewer.
    compressed_size, size : int
        As the table has them.
    """
    cdef size_t n = head.shape[0]
    cdef FrameHeader header
    if n >= SKIPPABLE_HEADER and is_skippable(&head[0]):
        return size == 0 and u32(&head[4]) == compressed_size - SKIPPABLE_HEADER
    if n < 5 or not is_frame(&head[0]) or parse_frame_header(&head[0], n, &header) != OK:
        return False
    return not header.has_content_size or header.content_size == size


def read_frame_header(const unsigned char[::1] head not None):
    """Return what the header of a frame says.

    Parameters
    ----------
    head : buffer
        The first bytes of the frame: 18, or all where it has fewer.

    Returns
    -------
    dict of str to int or None
        ``header_size``, ``window``, ``content_size`` (None where it is not known), ``dictionary_id`` (0: none) and
        ``has_checksum``.

    Raises
    ------
    ValueError
        If there is no frame, or its reserved bit is set.
    """
    cdef size_t n = head.shape[0]
    cdef FrameHeader header
    cdef Status status
    if n < 5 or not is_frame(&head[0]):
        raise ValueError("not a zstd frame")
    status = parse_frame_header(&head[0], n, &header)
    if status != OK:
        raise ValueError("the frame header ends too early" if status == TRUNCATED else "the reserved bit is set")
    return {
        "header_size": header.size,
        "window": header.window,
        "content_size": header.content_size if header.has_content_size else None,
        "dictionary_id": header.dictionary_id,
        "has_checksum": bool(header.has_checksum),
    }


def make_seek_table(frames, checksums=None):
    """Make the seek table that goes behind the frames of a file.

    Parameters
    ----------
    frames : iterable of (int, int)
        Compressed and decompressed size of each frame, in order.
    checksums : sequence of int, optional
        For each frame the low 32 bits of the XXH64 of its content: the checksum at the frame's own end.

    Raises
    ------
    ValueError
        If a frame is too large for the format, or there are too many.
    """
    entries = [(*sizes,) for sizes in frames]
    if checksums is not None:
        entries = [(*sizes, checksum) for sizes, checksum in zip(entries, checksums, strict=True)]
    if len(entries) > MOST_FRAMES:
        raise ValueError(f"{len(entries)} frames are too many for a seek table: at most {MOST_FRAMES}")
    pack = struct.Struct("<II" if checksums is None else "<III").pack
    try:
        body = b"".join([pack(*entry) for entry in entries])
    except struct.error as error:
        raise ValueError("sizes in a seek table are below 4 GiB: make smaller frames") from error
    head = struct.pack("<II", SEEK_TABLE_MAGIC, len(body) + SEEK_TABLE_FOOTER)
    return head + body + struct.pack("<IBI", len(entries), CHECKSUM_FLAG if checksums is not None else 0, FOOTER_MAGIC)
