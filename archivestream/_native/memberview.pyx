# distutils: language = c++
"""What is done with decoded members in this process: looked up, copied to batches, claimed by whoever reads them."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from libcpp.vector cimport vector

from archivestream._native.memberstore cimport Entry, MemberStore

from threading import Lock

cdef extern from "Python.h":
    char *data_of "PyBytes_AS_STRING"(PyObject *) nogil
    Py_ssize_t size_of "PyBytes_GET_SIZE"(PyObject *) nogil


@cython.final
@cython.no_gc_clear
cdef class MemberView:
    """The members of one archive in a store.

    Parameters
    ----------
    store : MemberStore
        Holds them.
    archive : bytes
        What tells the archive from all others.
    """

    cdef MemberStore store
    cdef uint64_t base

    def __cinit__(self, MemberStore store not None, bytes archive not None):
        self.store = store
        self.base = store.number_of(archive) << 32

    cpdef get(self, uint32_t member):
        """Return the bytes of a member, or None."""
        cdef MemberStore store = self.store
        cdef Entry *entry
        with cython.critical_section(store):
            entry = store.find(self.base | member)
            if entry == NULL:
                return None
            store.hits += 1
            return <object> entry.data

    def get_many(self, const int64_t[::1] members not None, list found not None, int64_t[::1] absent not None):
        """Put the members that are there to their places in a list; return how many are not, and which in `absent`."""
        cdef MemberStore store = self.store
        cdef Py_ssize_t n = members.shape[0]
        cdef Py_ssize_t missing = 0
        cdef Py_ssize_t i
        cdef Entry *entry
        if len(found) < n or absent.shape[0] < n:
            raise ValueError("no place for all members")
        with cython.critical_section(store):
            for i in range(n):
                entry = store.find(self.base | <uint32_t> members[i])
                if entry == NULL:
                    absent[missing] = i
                    missing += 1
                else:
                    found[i] = <object> entry.data
            store.hits += n - missing
        return missing

    def copy(
        self, const int64_t[::1] members not None, uint8_t[::1] out not None, const int64_t[::1] targets not None,
        int64_t[::1] absent not None, *, const uint8_t[::1] prefix=None, list odd=None,
    ):
        """Copy the members that are there to ``out[targets[i]:]``; return how many are not, and which in `absent`.

        Parameters
        ----------
        prefix : buffer, optional
            What is left out at the start of each; the places of those that begin otherwise are appended to `odd`.
        """
        cdef MemberStore store = self.store
        cdef Py_ssize_t n = members.shape[0]
        cdef size_t skip = 0 if prefix is None else prefix.shape[0]
        cdef const uint8_t *head = &prefix[0] if skip else NULL
        cdef uint8_t *base = &out[0] if out.shape[0] else NULL
        cdef size_t room = out.shape[0]
        cdef vector[PyObject *] found
        cdef vector[Py_ssize_t] differ
        cdef Py_ssize_t missing = 0
        cdef Py_ssize_t i
        cdef size_t size
        cdef Entry *entry
        cdef bint fits = True
        cdef char *data
        if targets.shape[0] < n or absent.shape[0] < n:
            raise ValueError("no place for all members")
        found.resize(n)
        with cython.critical_section(store):
            for i in range(n):
                entry = store.find(self.base | <uint32_t> members[i])
                if entry == NULL:
                    absent[missing] = i
                    missing += 1
                else:
                    Py_INCREF(<object> entry.data)
                    found[i] = entry.data
            store.hits += n - missing
        for i in range(n):
            if found[i] != NULL:
                size = size_of(found[i])
                size = size - skip if size > skip else 0
                fits = fits and 0 <= targets[i] and <size_t> targets[i] <= room and size <= room - <size_t> targets[i]
        if fits:
            with nogil:
                for i in range(n):
                    if found[i] == NULL:
                        continue
                    data = data_of(found[i])
                    size = <size_t> size_of(found[i])
                    if size < skip or (skip and memcmp(data, head, skip) != 0):
                        differ.push_back(i)
                    elif base != NULL:
                        memcpy(base + targets[i], data + skip, size - skip)
        for i in range(n):
            if found[i] != NULL:
                Py_DECREF(<object> found[i])
        if not fits:
            raise ValueError("a target lies outside the buffer")
        if odd is not None:
            odd.extend(differ)
        return missing

    def claim(self, const int64_t[::1] members not None, const uint64_t[::1] sizes not None, *, bint wait=True):
        """Say which of some members that are not there the caller reads, and which he waits for.

        Parameters
        ----------
        members, sizes : arrays
            The members, and how many bytes each has.
        wait : bool
            Leave to others what they are reading already; else the caller reads it, too.

        Returns
        -------
        MemberClaim
        """
        if sizes.shape[0] != members.shape[0]:
            raise ValueError("a size for each member")
        return self._claim(
            &members[0] if members.shape[0] else NULL, &sizes[0] if sizes.shape[0] else NULL, members.shape[0], wait)

    cdef MemberClaim _claim(self, const int64_t *members, const uint64_t *sizes, Py_ssize_t n, bint wait):
        cdef MemberStore store = self.store
        cdef MemberClaim claim = MemberClaim.__new__(MemberClaim)
        cdef Py_ssize_t i
        cdef uint64_t key
        claim.store = store
        claim.flights = []
        claim.keys.reserve(n)
        with cython.critical_section(store):
            store.enter_process()
            for i in range(n):
                key = self.base | <uint32_t> members[i]
                flight = store.flights.get(key)
                if wait and (flight is not None or store.find(key) != NULL):
                    claim.theirs.push_back(i)
                    if flight is not None and flight is not claim.flight and flight not in claim.flights:
                        claim.flights.append(flight)
                    continue
                store.misses += 1
                claim.ours.push_back(i)
                claim.keys.push_back(key)
                # What is not going to be kept, nobody need wait for.
                if flight is None and store.may_keep(sizes[i]):
                    if claim.flight is None:
                        claim.flight = held_lock()
                    store.flights[key] = claim.flight
        return claim

    def claim_one(self, uint32_t member, uint64_t size):
        """Claim one member as `claim` does; None where it would not be kept, so that the caller just reads it."""
        cdef MemberStore store = self.store
        cdef int64_t row = member
        with cython.critical_section(store):
            if not store.may_keep(size):
                store.misses += 1
                return None
        return self._claim(&row, &size, 1, True)


@cython.final
cdef class MemberLookup:
    """Reads one member at a time: what is there with no step of Python between, and the rest by a function.

    Parameters
    ----------
    view : MemberView
        What is there.
    load : callable
        Called with a member that is not, for its bytes.
    """

    cdef MemberView view
    cdef object load

    def __cinit__(self, MemberView view not None, load):
        self.view = view
        self.load = load

    def read(self, uint32_t member):
        """Return the bytes of a member."""
        data = self.view.get(member)
        return self.load(member) if data is None else data


cdef held_lock():
    lock = Lock()
    lock.acquire()
    return lock


@cython.final
@cython.no_gc_clear
cdef class MemberClaim:
    """Members that one caller reads for all: others who want them wait until the claim is released.

    Made by `MemberView.claim`. Released at the end of ``with``, or when it is dropped.
    """

    cdef MemberStore store
    cdef object flight          # the lock that others wait for; None where nobody need wait
    cdef list flights           # the locks of others
    cdef vector[uint64_t] keys  # of what is in `own`
    cdef vector[Py_ssize_t] ours
    cdef vector[Py_ssize_t] theirs

    def __dealloc__(self):
        self._release()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._release()

    cdef void _release(self) noexcept:
        cdef MemberStore store = self.store
        cdef size_t i
        if self.flight is None:
            return
        with cython.critical_section(store):
            for i in range(self.keys.size()):
                if store.flights.get(self.keys[i]) is self.flight:
                    del store.flights[self.keys[i]]
        self.flight.release()
        self.flight = None

    @property
    def own(self):
        """Places of the members that the caller reads, whether they are going to be kept or not."""
        return list(self.ours)

    @property
    def others(self):
        """Places of the members that are there, or will be once `wait` has returned."""
        return list(self.theirs)

    def keep(self, list data not None):
        """Keep `bytes` objects, in the order of `own`; other objects stand for what could not be read."""
        cdef size_t i
        if len(data) != <Py_ssize_t> self.keys.size():
            raise ValueError("an object for each own member")
        for i in range(self.keys.size()):
            if PyBytes_CheckExact(data[i]):
                self.store.insert(self.keys[i], data[i], False)

    def store_from(
        self, const uint8_t[::1] data not None, const int64_t[::1] starts not None, const uint64_t[::1] sizes not None,
        const uint8_t[::1] prefix=None,
    ):
        """Keep copies of what lies in memory, in the order of `own`.

        Parameters
        ----------
        starts, sizes : arrays
            Where each begins in `data`, and its bytes there; a negative start stands for what could not be read.
        prefix : buffer, optional
            What each begins with, and is not there.
        """
        cdef size_t skip = 0 if prefix is None else prefix.shape[0]
        cdef const uint8_t *head = &prefix[0] if skip else NULL
        cdef const uint8_t *base = &data[0] if data.shape[0] else NULL
        cdef uint64_t room = data.shape[0]
        cdef vector[char *] targets
        cdef list kept
        cdef size_t n = self.keys.size()
        cdef size_t i
        if <size_t> starts.shape[0] != n or <size_t> sizes.shape[0] != n:
            raise ValueError("a start and a size for each own member")
        try:
            targets.resize(n)
            kept = [None] * <Py_ssize_t> n
        except MemoryError:     # the caller has what he has read all the same
            return
        try:
            for i in range(n):
                if starts[i] < 0:
                    continue
                if <uint64_t> starts[i] > room or sizes[i] > room - <uint64_t> starts[i]:
                    raise ValueError("a member lies outside the buffer")
                one = self.store.reserve(skip + sizes[i])
                if one is not None:
                    targets[i] = PyBytes_AS_STRING(one)
                    kept[i] = one
            with nogil:
                for i in range(n):
                    if targets[i] != NULL:
                        if skip:
                            memcpy(targets[i], head, skip)
                        if sizes[i]:
                            memcpy(targets[i] + skip, base + starts[i], sizes[i])
        except BaseException:
            for one in kept:
                if one is not None:
                    self.store.unreserve(len(one))
            raise
        for i in range(n):
            if kept[i] is not None:
                self.store.insert(self.keys[i], kept[i], True)

    def wait(self):
        """Wait until those who read the members in `others` have released their claims. Always True here."""
        for flight in self.flights:
            with flight:
                pass
        return True
