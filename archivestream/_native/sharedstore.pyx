# distutils: language = c++
"""Decoded members in memory that all processes of a machine share: a hit is copied out of it.

What the memory holds, and how it stays whole when a process dies, is told in ``shared_region.hpp``. The faces are those
of `archivestream._native.memberstore`.
"""

cimport cython
from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libcpp cimport bool as cpp_bool
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

import os

ROBUST = cpp_robust
SMALLEST = cpp_smallest

cdef enum:
    PAGE = 4096     # what files take memory in


@cython.final
cdef class Region:
    """A mapped file, and a descriptor of it: both are given back when the last one lets go of it."""

    def __cinit__(self, int descriptor, size_t size):
        cdef void *base
        self.descriptor = -1
        self.descriptor = os.dup(descriptor)
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, self.descriptor, 0)
        if base == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.base = <uint8_t *> base
        self.size = size
        self.region = new SharedRegion(self.base, self.descriptor)

    def __dealloc__(self):
        del self.region
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.descriptor >= 0:
            close(self.descriptor)


cdef policy_of(bint lru):
    return "lru" if lru else "keep"


@cython.final
cdef class SharedStore:
    """Members of any number of archives, in a file that processes share.

    Parameters
    ----------
    descriptor : int
        Of the file. The store has a copy of it.
    limit : int
        Most bytes to take: the size of the file.
    lru : bool
        As for `MemberStore`.
    name_space : int
        That of the numbers of processes.
    create : bool
        The file is empty, and is made a store; else it must be one.

    Raises
    ------
    OSError
        If there is not so much memory.
    BlockingIOError
        If it is no whole store: whoever made it has died.
    ValueError
        If it is one of another limit or policy, or of processes that this one cannot see.

    Safe for any number of threads and processes.
    """

    def __cinit__(self, int descriptor, size_t limit, bint lru, *, uint64_t name_space, bint create):
        cdef Region mapped
        cdef int failed
        if limit < SMALLEST:
            raise ValueError(f"a shared cache has a limit of {SMALLEST} bytes or more, not {limit}")
        if create:
            os.ftruncate(descriptor, limit // PAGE * PAGE)
        size = os.fstat(descriptor).st_size
        # Looked at before it is mapped: what was never written to may have no memory.
        if size < PAGE or not (create or any(os.pread(descriptor, 8, 0))):
            raise BlockingIOError("the shared cache was never completed")
        mapped = Region(descriptor, size)
        if create:
            failed = mapped.region.initialise(limit // PAGE * PAGE, lru, name_space)
            if failed:
                raise OSError(failed, f"a shared cache: {os.strerror(failed)}")
        elif not mapped.region.is_whole():
            raise BlockingIOError("the shared cache was never completed")
        elif mapped.region.limit() != limit // PAGE * PAGE or mapped.region.lru() != lru:
            raise ValueError(
                f"it was made with limit={mapped.region.limit()} and policy={policy_of(mapped.region.lru())!r}, "
                f"and is asked for with limit={limit} and policy={policy_of(lru)!r}")
        elif mapped.region.name_space() != name_space:
            raise ValueError("it belongs to processes of another PID namespace (container)")
        self.mapped = mapped

    cdef Region region(self):
        with cython.critical_section(self):
            return self.mapped

    @property
    def descriptor(self):
        """The descriptor of the file; -1 once the store is closed."""
        mapped = self.region()
        return -1 if mapped is None else mapped.descriptor

    def statistics(self):
        """Return (hits, misses, bytes, evictions, members), of all processes together."""
        cdef Region mapped = self.region()
        cdef Statistics found
        if mapped is None:
            return 0, 0, 0, 0, 0
        with nogil:
            found = mapped.region.statistics()
        return found.hits, found.misses, found.bytes, found.evictions, found.members

    def clear(self):
        """Drop all members, for all processes; `TimeoutError` where one that was stopped is in the way."""
        cdef Region mapped = self.region()
        cdef cpp_bool cleared = True
        if mapped is not None:
            with nogil:
                cleared = mapped.region.repair(True)
        if not cleared:
            raise TimeoutError("the shared cache cannot be cleared: a process that was stopped, or is slow, uses it")

    def close(self):
        """Let go of the memory: nothing is found and nothing kept from here on. Other processes go on."""
        with cython.critical_section(self):
            mapped = self.mapped
            self.mapped = None
        del mapped
