# distutils: language = c++
"""Stored members of a ZIP, many at a time: their headers and data one behind the other, and their directory.

Section numbers are those of PKWARE's APPNOTE.TXT 6.3.10. All numbers are little-endian::

    local header (4.3.7)             central header (4.3.12)
     0  4  50 4B 03 04                0  4  50 4B 01 02
     4  2  version needed             4  2  version made by
     6  2  flags                      6  2  version needed
     8  2  method                     8  2  flags
    10  4  time and date             10  2  method
    14  4  CRC-32                    12  4  time and date
    18  4  compressed size           16  4  CRC-32
    22  4  size                      20  4  compressed size
    26  2  length of the name        24  4  size
    28  2  length of extra fields    28  2  length of the name
    30     name                      30  8  lengths of extra fields and comment, disk, internal attributes
                                     38  4  external attributes
                                     42  4  offset of the local header
                                     46     name
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libcpp.vector cimport vector

from archivestream._native.codecs cimport crc32_of

cdef enum:
    LOCAL = 30
    CENTRAL = 46
    MADE_BY = 3 << 8 | 63       # Unix, 6.3
    NEEDED = 10
    LONGEST_NAME = 0xFFFF
    LARGEST = 0xFFFFFFFE        # what a field of a size can hold, as the sentinel of ZIP64 cannot stand for itself


cdef inline void put16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t> value
    at[1] = <uint8_t> (value >> 8)


cdef inline void put32(uint8_t *at, uint32_t value) noexcept nogil:
    put16(at, value)
    put16(at + 2, value >> 16)


cdef inline uint32_t get32(const uint8_t *at) noexcept nogil:
    return at[0] | at[1] << 8 | at[2] << 16 | <uint32_t> at[3] << 24


def store(
    list names,
    list contents,
    const uint32_t[::1] timestamps not None,
    const uint32_t[::1] attributes not None,
    unsigned char[::1] data not None,
    unsigned char[::1] directory not None,
    uint32_t[::1] crcs not None,
):
    """Write stored members, and their central headers with offsets from the first of them.

    Parameters
    ----------
    names : list of bytes
        In ASCII.
    contents : list of bytes-like
        Of each member.
    timestamps, attributes : buffers of uint32, shape (n,)
        MS-DOS date and time, and external attributes.
    data : writable buffer
        30 bytes for each member, its name and its contents: exactly as large.
    directory : writable buffer
        46 bytes for each member, and its name: exactly as large.
    crcs : writable buffer of uint32, shape (n,)
        Where the CRC-32 of each goes.

    Raises
    ------
    ValueError
        If the sizes are not those, or one is more than a field can hold.
    """
    cdef size_t n = len(names)
    cdef vector[const uint8_t *] name, content
    cdef vector[size_t] name_size, content_size
    cdef vector[Py_buffer] held
    cdef Py_buffer view
    cdef size_t whole = 0
    cdef size_t headers = 0
    if len(contents) != <Py_ssize_t> n or <size_t> timestamps.shape[0] != n or <size_t> attributes.shape[0] != n \
            or <size_t> crcs.shape[0] != n:
        raise ValueError("there must be as many names as contents, times, attributes and checksums")
    try:
        for text, one in zip(names, contents):
            name.push_back(<const uint8_t *> <const char *> (<bytes> text))
            name_size.push_back(len(<bytes> text))
            PyObject_GetBuffer(one, &view, PyBUF_SIMPLE)
            held.push_back(view)
            content.push_back(<const uint8_t *> view.buf)
            content_size.push_back(view.len)
            if name_size.back() > LONGEST_NAME or content_size.back() > LARGEST:
                raise ValueError("a name or a member is larger than its field can hold")
            whole += LOCAL + name_size.back() + content_size.back()
            headers += CENTRAL + name_size.back()
        if whole != <size_t> data.shape[0] or headers != <size_t> directory.shape[0] or whole > LARGEST:
            raise ValueError("the memory is not as large as what goes there")
        if n:
            with nogil:
                write(name, name_size, content, content_size, &timestamps[0], &attributes[0],
                      &data[0], &directory[0], &crcs[0])
    finally:
        for i in range(held.size()):
            PyBuffer_Release(&held[i])


cdef void write(
    const vector[const uint8_t *] &name, const vector[size_t] &name_size, const vector[const uint8_t *] &content,
    const vector[size_t] &content_size, const uint32_t *timestamps, const uint32_t *attributes, uint8_t *data,
    uint8_t *directory, uint32_t *crcs,
) noexcept nogil:
    cdef uint8_t *to = data
    cdef uint8_t *header = directory
    cdef size_t i
    for i in range(name.size()):
        crcs[i] = crc32_of(0, content[i], content_size[i])
        memset(to, 0, LOCAL)
        memset(header, 0, CENTRAL)
        put32(to, 0x04034B50)
        put32(header, 0x02014B50)
        put16(to + 4, NEEDED)
        put16(header + 4, MADE_BY)
        put16(header + 6, NEEDED)
        put32(to + 10, timestamps[i])
        put32(header + 12, timestamps[i])
        put32(to + 14, crcs[i])
        put32(header + 16, crcs[i])
        put32(to + 18, content_size[i])
        put32(header + 20, content_size[i])
        put32(to + 22, content_size[i])
        put32(header + 24, content_size[i])
        put16(to + 26, name_size[i])
        put16(header + 28, name_size[i])
        put32(header + 38, attributes[i])
        put32(header + 42, to - data)
        to += LOCAL
        header += CENTRAL
        memcpy(to, name[i], name_size[i])
        memcpy(header, name[i], name_size[i])
        to += name_size[i]
        header += name_size[i]
        if content_size[i]:
            memcpy(to, content[i], content_size[i])
        to += content_size[i]


def move(unsigned char[::1] directory not None, uint64_t base):
    """Add to the offsets in central headers without extra fields; return whether they can still hold them all.

    Where they cannot, nothing is changed.
    """
    cdef size_t size = directory.shape[0]
    cdef uint8_t *header = &directory[0] if size else NULL
    cdef uint32_t last = 0
    cdef size_t at = 0
    with nogil:
        while size - at >= CENTRAL:
            last = get32(header + at + 42)  # they ascend
            at += CENTRAL + (header[at + 28] | header[at + 29] << 8)
            if at > size:
                break
    if base > LARGEST or last > LARGEST - base:
        return False
    at = 0
    with nogil:
        while size - at >= CENTRAL:
            put32(header + at + 42, get32(header + at + 42) + <uint32_t> base)
            at += CENTRAL + (header[at + 28] | header[at + 29] << 8)
            if at > size:
                break
    return True
