# distutils: language = c++
"""What is done with decoded members that processes share: as in `archivestream._native.memberview`, by copies."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport ETIMEDOUT
from libc.stddef cimport ptrdiff_t, size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cpp_bool
from libcpp.vector cimport vector
from posix.unistd cimport getpid

from archivestream._native.sharedstore cimport Copied, Key, Outcome, Place, Process, Region, SharedStore

import os
import time
import warnings

from archivestream.errors import ArchiveWarning

cdef extern from "shared_region.hpp" namespace "archivestream::shared" nogil:
    """
    namespace archivestream::shared {

    // The bytes of members, from where they lie: each behind a prefix that all share.
    struct Gather {
      const std::uint8_t *const *from;
      const std::uint8_t *prefix;
      std::uint64_t skip;

      void operator()(std::size_t i, std::uint8_t *to, std::uint64_t at, std::uint64_t size) const {
        if (at < skip) {
          const std::uint64_t head = std::min(skip - at, size);
          std::memcpy(to, prefix + at, head);
          to += head, at += head, size -= head;
        }
        if (size) std::memcpy(to, from[i] + (at - skip), size);
      }
    };

    }  // namespace archivestream::shared
    """
    cdef cppclass Gather:
        const uint8_t **source "from"
        const uint8_t *prefix
        uint64_t skip

cdef enum:
    SMALL = 64 << 10

cdef double FIRST_PAUSE = 50e-6     # seconds, of one who waits for another to load a member
cdef double LONGEST_PAUSE = 2e-3
cdef double DOUBT = 10e-3           # from then on, and so often, he looks whether the other is still there
cdef double PATIENCE = 10           # and from then on he reads it himself
cdef double NOW_AND_THEN = 1        # so often somebody looks for what the dead have left


@cython.final
cdef class SharedView:
    """The members of one archive in a store.

    Parameters
    ----------
    store : SharedStore
        Holds them.
    archive : bytes
        16 of them, which tell the archive from all others.
    """

    cdef SharedStore store
    cdef uint64_t archive[2]

    def __cinit__(self, SharedStore store not None, bytes archive not None):
        if len(archive) != 16:
            raise ValueError("an archive is told by 16 bytes")
        self.store = store
        memcpy(self.archive, PyBytes_AS_STRING(archive), 16)

    cdef Key _key(self, uint64_t member) noexcept nogil:
        cdef Key key
        key.archive[0] = self.archive[0]
        key.archive[1] = self.archive[1]
        key.member = member
        return key

    cpdef get(self, uint64_t member):
        """Return a copy of the bytes of a member, or None."""
        cdef Region mapped = self.store.region()
        cdef Place place
        cdef Key key
        cdef Copied copied
        cdef uint8_t *to
        if mapped is None:
            return None
        key = self._key(member)
        # A look-up, and the copy of a small member, take less time than giving back the GIL.
        if not mapped.region.find(&key, 1, &place, False):
            with nogil:
                mapped.region.find(&key, 1, &place, True)
        if place.at == 0:
            return None
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> place.size)
        to = <uint8_t *> PyBytes_AS_STRING(data)
        if place.size <= SMALL:
            copied = mapped.region.copy(place, to, NULL, 0)
        else:
            with nogil:
                copied = mapped.region.copy(place, to, NULL, 0)
        if copied != Copied.kWell:
            return None
        mapped.region.count(1, 0)
        return data

    cdef int _find(self, Region mapped, const int64_t[::1] members, vector[Place] &places) except -1:
        cdef vector[Key] keys
        cdef size_t n = members.shape[0]
        cdef size_t i
        places.resize(n)
        keys.resize(n)
        for i in range(n):
            keys[i] = self._key(members[i])
        with nogil:
            mapped.region.find(keys.data(), n, places.data(), True)
        return 0

    def get_many(self, const int64_t[::1] members not None, list found not None, int64_t[::1] absent not None):
        """Put copies of the members that are there into a list: see `MemberView.get_many`."""
        cdef Region mapped = self.store.region()
        cdef Py_ssize_t n = members.shape[0]
        cdef Py_ssize_t missing = 0
        cdef Py_ssize_t i
        cdef vector[Place] places
        cdef vector[uint8_t *] targets
        cdef vector[cpp_bool] well
        if len(found) < n or absent.shape[0] < n:
            raise ValueError("no place for all members")
        well.resize(n)
        if mapped is not None:
            self._find(mapped, members, places)
            targets.resize(n)
            for i in range(n):
                if places[i].at:
                    data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> places[i].size)
                    targets[i] = <uint8_t *> PyBytes_AS_STRING(data)
                    found[i] = data
            with nogil:
                for i in range(n):
                    if places[i].at:
                        well[i] = mapped.region.copy(places[i], targets[i], NULL, 0) == Copied.kWell
        for i in range(n):
            if not well[i]:
                found[i] = None
                absent[missing] = i
                missing += 1
        if mapped is not None:
            mapped.region.count(n - missing, 0)
        return missing

    def copy(
        self, const int64_t[::1] members not None, uint8_t[::1] out not None, const int64_t[::1] targets not None,
        int64_t[::1] absent not None, *, const uint8_t[::1] prefix=None, list odd=None,
    ):
        """Copy the members that are there to ``out[targets[i]:]``: see `MemberView.copy`."""
        cdef Region mapped = self.store.region()
        cdef Py_ssize_t n = members.shape[0]
        cdef uint64_t skip = 0 if prefix is None else prefix.shape[0]
        cdef const uint8_t *head = &prefix[0] if skip else NULL
        cdef uint8_t *base = &out[0] if out.shape[0] else NULL
        cdef uint64_t room = out.shape[0]
        cdef Py_ssize_t missing = 0
        cdef Py_ssize_t i
        cdef uint64_t size
        cdef vector[Place] places
        cdef vector[Py_ssize_t] differ
        cdef Copied copied
        if targets.shape[0] < n or absent.shape[0] < n:
            raise ValueError("no place for all members")
        if mapped is None:
            for i in range(n):
                absent[i] = i
            return n
        self._find(mapped, members, places)
        for i in range(n):
            size = places[i].size - skip if places[i].size > skip else 0
            if targets[i] < 0 or <uint64_t> targets[i] > room or size > room - <uint64_t> targets[i]:
                raise ValueError("a target lies outside the buffer")
        with nogil:
            for i in range(n):
                copied = Copied.kGone
                if places[i].at:
                    copied = mapped.region.copy(places[i], base + targets[i], head, skip)
                if copied == Copied.kGone:
                    absent[missing] = i
                    missing += 1
                elif copied == Copied.kDiffers:
                    differ.push_back(i)
        if odd is not None:
            odd.extend(differ)
        mapped.region.count(n - missing, 0)
        return missing

    def claim(self, const int64_t[::1] members not None, const uint64_t[::1] sizes not None, *, bint wait=True):
        """Say which of some members the caller reads, and which he waits for: see `MemberView.claim`."""
        if sizes.shape[0] != members.shape[0]:
            raise ValueError("a size for each member")
        return self._claim(
            &members[0] if members.shape[0] else NULL, &sizes[0] if sizes.shape[0] else NULL, members.shape[0], wait)

    cdef SharedClaim _claim(self, const int64_t *members, const uint64_t *sizes, Py_ssize_t n, bint wait):
        cdef SharedClaim claim = SharedClaim.__new__(SharedClaim)
        cdef Region mapped = self.store.region()
        cdef Process process = Process.self()
        cdef Outcome outcome
        cdef Place place
        cdef Key key
        cdef int failed = 0
        cdef Py_ssize_t i
        claim.mapped = mapped
        claim.process = getpid()
        # All that there may be, so that nothing fails while some are claimed and not noted yet.
        claim.places.reserve(n)
        claim.ours.reserve(n)
        claim.theirs.reserve(n)
        claim.awaited.reserve(n)
        with nogil:
            if mapped is not None:
                mapped.region.sweep(NOW_AND_THEN)
            for i in range(n):
                key = self._key(members[i])
                place.at = 0
                outcome = Outcome.kFull
                while mapped is not None:
                    outcome = mapped.region.claim(key, sizes[i], process, &place)
                    if outcome == Outcome.kGrow:
                        failed = mapped.region.grow()
                        if failed == ETIMEDOUT:
                            break
                    elif outcome == Outcome.kBroken:
                        if not mapped.region.repair(False):
                            break
                    elif outcome != Outcome.kFull or not mapped.region.sweep(DOUBT):
                        break
                if outcome == Outcome.kTheirs and wait:
                    claim.theirs.push_back(i)
                    claim.awaited.push_back(key)
                else:
                    claim.ours.push_back(i)
                    claim.places.push_back(place)
        if mapped is not None:
            mapped.region.count(0, claim.ours.size())
        if failed and failed != ETIMEDOUT:
            warnings.warn(
                f"the shared cache cannot grow, and stays as large as it is: {os.strerror(failed)}", ArchiveWarning,
                stacklevel=2)
        return claim

    def claim_one(self, uint64_t member, uint64_t size):
        """Claim one member, or return None where it would not be kept: see `MemberView.claim_one`."""
        cdef Region mapped = self.store.region()
        cdef int64_t row = <int64_t> member
        cdef cpp_bool admitted = False
        if mapped is not None:
            with nogil:
                admitted = mapped.region.admits(size) or (mapped.region.sweep(DOUBT) and mapped.region.admits(size))
            if not admitted:
                mapped.region.count(0, 1)
        return self._claim(&row, &size, 1, True) if admitted else None


@cython.final
cdef class SharedClaim:
    """Members that one caller reads for all: see `MemberClaim`. Made by `SharedView.claim`."""

    cdef Region mapped
    cdef int process
    cdef vector[Place] places       # of what is in `own`; where it is not to be kept, 0
    cdef vector[Py_ssize_t] ours
    cdef vector[Py_ssize_t] theirs
    cdef vector[Key] awaited

    def __dealloc__(self):
        self._release()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._release()

    cdef void _release(self) noexcept:
        if self.mapped is not None and self.places.size() and self.process == getpid():
            with nogil:
                self.mapped.region.abandon(self.places.data(), self.places.size(), self._writer())
        self.places.clear()

    cdef unsigned _writer(self) noexcept nogil:
        """A number that is another one for most threads, which have stacks of their own, and most processes."""
        cdef int here
        return <unsigned> (<size_t> &here >> 12) + <unsigned> self.process

    @property
    def own(self):
        """Places of the members that the caller reads, whether they are going to be kept or not."""
        return list(self.ours)

    @property
    def others(self):
        """Places of the members that are there, or will be once `wait` has returned."""
        return list(self.theirs)

    cdef int _publish(
        self, vector[Place] &places, vector[const uint8_t *] &sources, const uint8_t[::1] prefix
    ) except -1:
        cdef Gather gather
        if self.mapped is None or places.size() == 0:
            return 0
        gather.source = sources.data()
        gather.skip = 0 if prefix is None else prefix.shape[0]
        gather.prefix = &prefix[0] if gather.skip else NULL
        with nogil:
            self.mapped.region.publish(places.data(), places.size(), self._writer(), gather)
        return 0

    def keep(self, list data not None):
        """Keep copies of `bytes` objects: see `MemberClaim.keep`."""
        cdef vector[Place] places
        cdef vector[const uint8_t *] sources
        cdef size_t i
        if <size_t> len(data) != self.places.size():
            raise ValueError("an object for each own member")
        try:
            places.reserve(self.places.size())
            sources.reserve(self.places.size())
        except MemoryError:     # the caller has what he has read all the same
            return
        for i in range(self.places.size()):
            if self.places[i].at and PyBytes_CheckExact(data[i]):
                if <uint64_t> PyBytes_GET_SIZE(data[i]) != self.places[i].size:
                    raise ValueError("a member has another size than was claimed")
                places.push_back(self.places[i])
                sources.push_back(<const uint8_t *> PyBytes_AS_STRING(data[i]))
        self._publish(places, sources, None)

    def store_from(
        self, const uint8_t[::1] data not None, const int64_t[::1] starts not None, const uint64_t[::1] sizes not None,
        const uint8_t[::1] prefix=None,
    ):
        """Keep copies of what lies in memory: see `MemberClaim.store_from`."""
        cdef uint64_t skip = 0 if prefix is None else prefix.shape[0]
        cdef const uint8_t *base = &data[0] if data.shape[0] else NULL
        cdef uint64_t room = data.shape[0]
        cdef vector[Place] places
        cdef vector[const uint8_t *] sources
        cdef size_t i
        if <size_t> starts.shape[0] != self.places.size() or <size_t> sizes.shape[0] != self.places.size():
            raise ValueError("a start and a size for each own member")
        try:
            places.reserve(self.places.size())
            sources.reserve(self.places.size())
        except MemoryError:
            return
        for i in range(self.places.size()):
            if starts[i] < 0 or self.places[i].at == 0:
                continue
            if <uint64_t> starts[i] > room or sizes[i] > room - <uint64_t> starts[i]:
                raise ValueError("a member lies outside the buffer")
            if sizes[i] + skip != self.places[i].size:
                raise ValueError("a member has another size than was claimed")
            places.push_back(self.places[i])
            sources.push_back(base + starts[i])
        self._publish(places, sources, prefix)

    def wait(self):
        """Wait until nobody is loading the members in `others`; False where that takes too long.

        What a dead process was loading is nobody's again.
        """
        cdef double pause = FIRST_PAUSE
        cdef double waited = 0
        cdef ptrdiff_t left
        started = time.monotonic()
        while self.mapped is not None and self.awaited.size():
            with nogil:
                if waited >= DOUBT:
                    self.mapped.region.sweep(DOUBT)
                left = self.mapped.region.loading(self.awaited.data(), self.awaited.size())
            if left == 0:
                break
            if left < 0:
                return False
            if waited >= PATIENCE:
                with nogil:
                    self.mapped.region.doubt(self.awaited.data(), self.awaited.size())
                return False
            time.sleep(pause)
            waited = time.monotonic() - started
            pause = min(2 * pause, LONGEST_PAUSE)
        self.mapped = None      # it is done with: the file can be let go of
        return True
