# distutils: language = c++
"""Decoded members, kept as `bytes` objects for the threads of this process: a hit gives the object itself.

An entry is a block of malloc in a chained hash table, and what a store holds is counted as it is: the objects, the
entries and the table. There is no lock of its own: the GIL, or a critical section where Python has none, guards every
step, and no step runs Python code. So there is none that a forked process could find taken.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.unistd cimport getpid

cdef enum:
    SMALLEST_TABLE = 64

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15   # 2**64 / phi: Knuth, The Art of Computer Programming, 6.4
cdef size_t EMPTY_BYTES = (<object> bytes).__basicsize__    # what `sys.getsizeof` says of an empty one

# An entry of 40 bytes, and what malloc adds to it.
cdef enum:
    ENTRY_BYTES = 48


@cython.final
@cython.no_gc_clear    # a view, or a claim, that is dropped uses it
cdef class MemberStore:
    """Members of any number of archives, within a number of bytes.

    Parameters
    ----------
    limit : int
        Most bytes to hold: `sys.getsizeof` of each object, and the table of them.
    lru : bool
        Make room by dropping what was least recently used; else what is there stays, and what does not fit is not kept.

    Safe for any number of threads. A forked process goes on with what its parent held when it forked.
    """

    def __cinit__(self, size_t limit, bint lru):
        self.limit = limit
        self.lru = lru
        self.archives = {}
        self.flights = {}
        self.process = getpid()

    def __dealloc__(self):
        self._drop_all()
        free(self.buckets)

    cdef uint64_t number_of(self, bytes archive):
        """Number the archives that members are of."""
        with cython.critical_section(self):
            return <uint64_t> self.archives.setdefault(archive, len(self.archives))

    def statistics(self):
        """Return (hits, misses, bytes, evictions, members)."""
        with cython.critical_section(self):
            return self.hits, self.misses, self.held + self.reserved, self.evictions, self.members

    def clear(self):
        """Drop all members; the counts of hits and misses stay."""
        with cython.critical_section(self):
            self._drop_all()

    def close(self):
        """Drop all members, and keep none from here on."""
        with cython.critical_section(self):
            self.limit = 0
            self._drop_all()
            free(self.buckets)
            self.buckets = NULL
            self.held = self.table_size = 0

    cdef Entry **_bucket(self, uint64_t key) noexcept:
        return &self.buckets[(key * GOLDEN) >> self.shift]

    cdef Entry *find(self, uint64_t key) noexcept:
        """Find an entry, and make it the most recently used."""
        cdef Entry *entry
        if self.buckets == NULL:
            return NULL
        entry = self._bucket(key)[0]
        while entry != NULL and entry.key != key:
            entry = entry.next
        if entry != NULL and self.lru and entry != self.newest:
            self._unlist(entry)
            self._list(entry)
        return entry

    cdef void _list(self, Entry *entry) noexcept:
        entry.newer = NULL
        entry.older = self.newest
        if self.newest != NULL:
            self.newest.newer = entry
        else:
            self.oldest = entry
        self.newest = entry

    cdef void _unlist(self, Entry *entry) noexcept:
        if entry.newer != NULL:
            entry.newer.older = entry.older
        else:
            self.newest = entry.older
        if entry.older != NULL:
            entry.older.newer = entry.newer
        else:
            self.oldest = entry.newer

    cdef void _free(self, Entry *entry) noexcept:
        self.held -= ENTRY_BYTES + EMPTY_BYTES + <size_t> PyBytes_GET_SIZE(<object> entry.data)
        self.members -= 1
        Py_DECREF(<object> entry.data)
        free(entry)

    cdef void _drop_all(self) noexcept:
        cdef Entry *entry = self.newest
        cdef Entry *older
        if self.buckets != NULL:
            memset(self.buckets, 0, self.table_size * sizeof(Entry *))
        self.newest = self.oldest = NULL
        while entry != NULL:
            older = entry.older
            self._free(entry)
            entry = older

    cdef void _evict(self) noexcept:
        cdef Entry *entry = self.oldest
        cdef Entry **link = self._bucket(entry.key)
        while link[0] != entry:
            link = &link[0].next
        link[0] = entry.next
        self._unlist(entry)
        self._free(entry)
        self.evictions += 1

    cdef bint _has_room(self, size_t size) noexcept:
        """Whether so much more fits, once all is dropped that may be."""
        cdef size_t fixed = self.reserved + (self.table_size * sizeof(Entry *) if self.lru else self.held)
        return fixed <= self.limit and size <= self.limit - fixed

    cdef bint may_keep(self, size_t size) noexcept:
        """Whether a member of a size has a chance to be kept."""
        return self._has_room(ENTRY_BYTES + EMPTY_BYTES + size)

    cdef bint _make_room(self, size_t size) noexcept:
        """Drop what must go so that so much more fits; False, and nothing is dropped, where that does not help."""
        if not self._has_room(size):
            return False
        while self.held + self.reserved > self.limit - size:
            self._evict()
        return True

    cdef bint _grow(self) noexcept:
        """See that there is a table, with short chains as far as the limit allows; False where there is none."""
        cdef size_t size = 2 * self.table_size if self.table_size else SMALLEST_TABLE
        cdef size_t old_size = self.table_size
        cdef Entry **old = self.buckets
        cdef Entry **table
        cdef Entry *entry
        cdef Entry **link
        if self.members < self.table_size:
            return True
        # Both tables are there for a moment.
        if not self._make_room(size * sizeof(Entry *)):
            return old != NULL
        table = <Entry **> calloc(size, sizeof(Entry *))
        if table == NULL:
            return old != NULL
        self.buckets = table
        self.table_size = size
        self.shift = 64
        while size > 1:
            size //= 2
            self.shift -= 1
        self.held += self.table_size * sizeof(Entry *) - old_size * sizeof(Entry *)
        entry = self.newest
        while entry != NULL:
            link = self._bucket(entry.key)
            entry.next = link[0]
            link[0] = entry
            entry = entry.older
        free(old)
        return True

    cdef bytes reserve(self, size_t size):
        """Make a `bytes` object of a size within the limit, not filled; None where there is no room or no memory."""
        cdef size_t whole = ENTRY_BYTES + EMPTY_BYTES + size
        with cython.critical_section(self):
            if not self._grow() or not self._make_room(whole):
                return None
            self.reserved += whole
        try:
            return PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
        except MemoryError:
            self.unreserve(size)
            return None

    cdef void unreserve(self, size_t size) noexcept:
        with cython.critical_section(self):
            self.reserved -= ENTRY_BYTES + EMPTY_BYTES + size

    cdef void insert(self, uint64_t key, bytes data, bint reserved) noexcept:
        """Keep an object where there is room for it, or it was reserved, and there is none of the key yet.

        Without memory for an entry it is not kept: who has read it can do without.
        """
        cdef size_t whole = ENTRY_BYTES + EMPTY_BYTES + <size_t> PyBytes_GET_SIZE(data)
        cdef Entry *entry
        cdef Entry **link
        with cython.critical_section(self):
            if reserved:
                self.reserved -= whole
            if self.find(key) != NULL or not self._grow() or not self._make_room(whole):
                return
            entry = <Entry *> malloc(sizeof(Entry))
            if entry == NULL:
                return
            Py_INCREF(data)
            entry.data = <PyObject *> data
            entry.key = key
            link = self._bucket(key)
            entry.next = link[0]
            link[0] = entry
            self._list(entry)
            self.members += 1
            self.held += whole

    cdef void enter_process(self) noexcept:
        """Forget what threads of a parent process were about, which are not in this one."""
        if self.process != getpid():
            self.process = getpid()
            self.flights = {}
            self.reserved = 0
