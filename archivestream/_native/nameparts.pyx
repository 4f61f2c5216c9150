"""Parts of names, of all members at once: how they begin and end, their folders and stems, and which are the same.

Each function goes over parts of a blob of names: part i lies from ``begin[i]`` to ``end[i]``. Results go to arrays of
the caller, of as many rows. Raises `ValueError` for a part that does not lie in the blob.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from os import urandom

from archivestream._native.siphash cimport siphash


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if 65 <= byte <= 90 else byte


cdef inline const uint8_t *address(const uint8_t[::1] names) noexcept nogil:
    return &names[0] if names.shape[0] else NULL


cdef size_t check(
    const uint8_t[::1] names, const uint64_t[::1] begin, const uint64_t[::1] end, size_t rows
) except? 0:
    """Return how many parts there are, all of them within the blob."""
    cdef size_t n = begin.shape[0]
    cdef uint64_t size = names.shape[0]
    cdef size_t i
    cdef bint ok = n == <size_t> end.shape[0] and n == rows
    if ok:
        with nogil:
            for i in range(n):
                ok &= begin[i] <= end[i] and end[i] <= size
    if not ok:
        raise ValueError("parts of names that do not lie in the column of names")
    return n


def mark_prefixes(
    const uint8_t[::1] names not None, const uint64_t[::1] begin not None, const uint64_t[::1] end not None,
    const uint8_t[::1] prefix not None, uint8_t[::1] out not None,
):
    """Put 1 where a part begins with some bytes, 0 elsewhere."""
    cdef size_t n = check(names, begin, end, out.shape[0])
    cdef const uint8_t *text = address(names)
    cdef const uint8_t *wanted = address(prefix)
    cdef size_t size = prefix.shape[0]
    cdef size_t i
    with nogil:
        for i in range(n):
            out[i] = end[i] - begin[i] >= size and (size == 0 or memcmp(text + begin[i], wanted, size) == 0)


def mark_suffixes(
    const uint8_t[::1] names not None, const uint64_t[::1] begin not None, const uint64_t[::1] end not None,
    const uint8_t[::1] suffix not None, bint ignore_case, uint8_t[::1] out not None,
):
    """Put 1 where a part ends with some bytes (ASCII letters in either case, if asked), and leave the others."""
    cdef size_t n = check(names, begin, end, out.shape[0])
    cdef const uint8_t *text = address(names)
    cdef const uint8_t *there
    cdef size_t size = suffix.shape[0]
    cdef size_t i, k
    with nogil:
        for i in range(n):
            if end[i] - begin[i] < size:
                continue
            there = text + (end[i] - size)
            for k in range(size):
                if there[k] != suffix[k] and not (ignore_case and lower(there[k]) == lower(suffix[k])):
                    break
            else:
                out[i] = 1


def cut_stems(
    const uint8_t[::1] names not None, const uint64_t[::1] begin not None, const uint64_t[::1] end not None,
    uint64_t[::1] stem not None,
):
    """Find where the stem of each name ends: at the first dot of its base name, or where the name does.

    One without a stem (``.hidden``) ends where it begins.
    """
    cdef size_t n = check(names, begin, end, stem.shape[0])
    cdef const uint8_t *text = address(names)
    cdef size_t i
    cdef uint64_t place, dot
    with nogil:
        for i in range(n):
            dot = end[i]
            place = end[i]
            while place > begin[i] and text[place - 1] != b"/":
                place -= 1
                if text[place] == b".":
                    dot = place
            stem[i] = begin[i] if dot == place else dot


def cut_folders(
    const uint8_t[::1] names not None, const uint64_t[::1] begin not None, const uint64_t[::1] end not None,
    uint64_t[::1] folder not None, uint64_t[::1] folder_end not None,
):
    """Find the innermost folder that each name lies in, without its slashes; an empty part where there is none."""
    cdef size_t n = check(names, begin, end, min(folder.shape[0], folder_end.shape[0]))
    cdef const uint8_t *text = address(names)
    cdef size_t i
    cdef uint64_t place
    with nogil:
        for i in range(n):
            place = end[i]
            while place > begin[i] and text[place - 1] != b"/":
                place -= 1
            if place > begin[i]:
                place -= 1
            folder_end[i] = place
            while place > begin[i] and text[place - 1] != b"/":
                place -= 1
            folder[i] = place


def number_parts(
    const uint8_t[::1] names not None, const uint64_t[::1] begin not None, const uint64_t[::1] end not None,
    const int64_t[::1] among, int64_t[::1] number not None, int64_t[::1] first not None,
):
    """Number the parts that differ from 0, in the order in which they appear first; return how many there are.

    Parameters
    ----------
    among : array of int64, or None
        Parts with different values here differ, though their bytes are the same.
    number : array of int64
        Gets the number of each part.
    first : array of int64
        Gets the row in which each number appears first.
    """
    cdef size_t n = check(names, begin, end, min(number.shape[0], first.shape[0]))
    cdef const uint8_t *text = address(names)
    cdef uint64_t capacity = n + n // 2 + 1     # at most two thirds full
    cdef bint apart = among is not None
    cdef uint64_t slot, size, k0, k1
    cdef int64_t found
    cdef size_t i
    cdef int64_t count = 0
    cdef uint32_t *slots
    if n >= 0xFFFFFFFF or (apart and <size_t> among.shape[0] != n):
        raise ValueError("as many values as parts, and fewer than 2**32")
    slots = <uint32_t *> calloc(capacity, sizeof(uint32_t))     # a number and one, or 0
    if slots == NULL:
        raise MemoryError(f"cannot allocate {4 * capacity} bytes")
    key = urandom(16)
    k0 = int.from_bytes(key[:8], "little")
    k1 = int.from_bytes(key[8:], "little")
    with nogil:
        for i in range(n):
            size = end[i] - begin[i]
            slot = siphash(k0 ^ (<uint64_t> among[i] if apart else 0), k1, text + begin[i], size) % capacity
            while slots[slot]:
                found = first[slots[slot] - 1]
                if end[found] - begin[found] == size and (not apart or among[found] == among[i]) and (
                    size == 0 or memcmp(text + begin[found], text + begin[i], size) == 0
                ):
                    break
                slot += 1
                if slot == capacity:
                    slot = 0
            if slots[slot] == 0:
                first[count] = i
                count += 1
                slots[slot] = <uint32_t> count
            number[i] = <int64_t> slots[slot] - 1
    free(slots)
    return count
