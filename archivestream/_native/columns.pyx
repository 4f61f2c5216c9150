"""The enumerations of an index, and what must hold of its columns before native code may follow them."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from archivestream._native.text cimport is_ascii, is_generalized_utf8


def is_ascending(const uint64_t[::1] offsets not None, uint64_t end):
    """Whether offsets go from 0 to `end` and never back."""
    cdef size_t n = offsets.shape[0]
    cdef size_t i
    cdef bint ok
    with nogil:
        ok = n > 0 and offsets[0] == 0 and offsets[n - 1] == end
        if ok:
            for i in range(1, n):       # no way out of the loop, so that it is compiled to vector instructions
                ok &= offsets[i - 1] <= offsets[i]
    return ok


def is_text(const uint8_t[::1] text not None, const uint64_t[::1] offsets not None):
    """Whether a blob is UTF-8 that ascending offsets cut between characters.

    Lone surrogates may stand in it, as the error handler ``surrogatepass`` writes them: names that are not UTF-8.
    """
    cdef size_t size = text.shape[0]
    cdef size_t i
    cdef bint ok
    if size == 0:
        return True
    with nogil:
        ok = is_ascii(&text[0], size)
        if not ok:
            ok = is_generalized_utf8(&text[0], size)
            if ok:
                for i in range(<size_t> offsets.shape[0]):
                    if offsets[i] < size and text[offsets[i]] & 0xC0 == 0x80:
                        ok = False
                        break
    return ok


def is_contiguous(
    const uint64_t[::1] starts not None, const uint64_t[::1] sizes not None, const uint64_t[::1] first not None
):
    """Whether the blocks of each run begin at 0 and leave no gap; `first` has the first row of each, ascending."""
    cdef size_t run, row
    cdef uint64_t end
    cdef bint ok = True
    with nogil:
        for run in range(1, <size_t> first.shape[0]):
            end = 0
            for row in range(first[run - 1], first[run]):
                ok &= starts[row] == end and sizes[row] <= <uint64_t> -1 - end
                end += sizes[row]
    return ok


def is_sparse(
    const uint64_t[::1] sizes not None,
    const uint32_t[::1] members not None,
    const uint64_t[::1] first not None,
    const uint64_t[::1] places not None,
    const uint64_t[::1] extents not None,
):
    """Whether the extents of each sparse member ascend within it and do not overlap.

    `sizes` are those of all members, `members` the sparse ones, `first` the first extent of each, ascending.
    """
    cdef size_t i, row
    cdef uint64_t size, end
    cdef bint ok = True
    with nogil:
        for i in range(<size_t> members.shape[0]):
            size = sizes[members[i]]
            end = 0
            for row in range(first[i], first[i + 1]):
                if places[row] < end or places[row] > size or extents[row] > size - places[row]:
                    ok = False
                    break
                end = places[row] + extents[row]
    return ok
