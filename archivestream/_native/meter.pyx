# distutils: language = c++
"""What reading costs, counted by the threads that read."""

cimport cython
from libc.stdint cimport uint64_t

cdef extern from "meter.hpp":
    """
    static inline std::uint64_t load(const std::atomic<std::uint64_t> &count) {
      return count.load(std::memory_order_relaxed);
    }
    #define METER_FETCH_NANOSECONDS(meter) load((meter)->fetch_nanoseconds)
    #define METER_FETCHED(meter) load((meter)->fetched)
    #define METER_DECODED(meter) load((meter)->decoded)
    """
    uint64_t fetch_nanoseconds "METER_FETCH_NANOSECONDS"(MeterCounts *meter) noexcept nogil
    uint64_t fetched "METER_FETCHED"(MeterCounts *meter) noexcept nogil
    uint64_t decoded "METER_DECODED"(MeterCounts *meter) noexcept nogil


@cython.final
cdef class Meter:
    """Counts of what has been read and decoded. Safe for any number of threads."""

    def __cinit__(self):
        self.counts = new MeterCounts()

    def __dealloc__(self):
        del self.counts

    def add_fetch(self, double seconds, uint64_t size):
        """Count what was fetched elsewhere."""
        self.counts.add_fetch(<uint64_t> (seconds * 1e9), size)

    def counts_now(self):
        """Return (seconds spent on fetching, bytes fetched, bytes decoded): sums over all threads."""
        return fetch_nanoseconds(self.counts) * 1e-9, fetched(self.counts), decoded(self.counts)
