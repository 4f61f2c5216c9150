# distutils: language = c++
"""What scanners of headers have in common: how they get at the bytes that they want, and no others."""

from libc.errno cimport errno
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

cdef extern from "positional_io.hpp" namespace "archivestream":
    int64_t cpp_read_at "archivestream::read_at"(int fd, void *into, size_t size, uint64_t offset) noexcept nogil

cdef size_t SMALLEST_WINDOW = 4 << 10
cdef size_t LARGEST_WINDOW = 256 << 10


cdef class HeaderScanner:
    """Skips from header to header in a stream that is fed in pieces of any size.

    What its methods return is a fault of the subclass, or 0. Not thread-safe: one thread feeds it.
    """

    def __cinit__(self):
        self.window = SMALLEST_WINDOW

    @property
    def wanted(self):
        """The next place in the stream whose bytes it needs; 2**64 - 1 where it needs no more."""
        return self.next_wanted()

    def feed(self, const unsigned char[::1] data not None, uint64_t offset):
        """Take a piece of the stream, which begins at `offset`. What is not wanted is passed over.

        Returns
        -------
        fault : int
            0, or what is wrong: for good.

        Raises
        ------
        ValueError
            If bytes that are wanted lie before the piece.
        """
        cdef size_t size = data.shape[0]
        cdef const uint8_t *start = &data[0] if size else NULL
        cdef int fault
        with nogil:
            fault = self.take(NULL, 0, self.next_wanted())
        if fault == 0 and offset > self.next_wanted():
            raise ValueError(f"the stream is wanted from {self.next_wanted()}, not from {offset}")
        with nogil:
            fault = self.take(start, size, offset)
        return fault

    def scan(self, int descriptor, uint64_t size, uint64_t budget):
        """Read what is wanted of a file of `size` bytes, until about `budget` bytes were read.

        Returns
        -------
        fault : int
            As `feed`; where reading failed, `read_errno` says why.
        """
        cdef uint8_t *buffer = <uint8_t *> malloc(LARGEST_WINDOW)
        cdef uint64_t done = 0
        cdef uint64_t at
        cdef size_t ask
        cdef int64_t got
        cdef int fault
        if buffer == NULL:
            raise MemoryError("no memory to read headers")
        with nogil:
            fault = self.take(NULL, 0, self.next_wanted())
            while fault == 0 and done < budget and self.next_wanted() < size:
                at = self.next_wanted()
                ask = min(self.window, size - at)
                got = cpp_read_at(descriptor, buffer, ask, at)
                if got < 0:
                    self.read_errno = errno
                    fault = self.fail(True)
                    break
                fault = self.take(buffer, got, at)
                if fault == 0 and <size_t> got < ask:
                    fault = self.fail(False)    # the file became shorter
                done += got + SMALLEST_WINDOW
        free(buffer)
        return fault

    cdef uint64_t next_wanted(self) noexcept nogil:
        return 0

    cdef int take(self, const uint8_t *data, size_t size, uint64_t offset) noexcept nogil:
        """Take a piece that begins at `offset` or before what is wanted; return the fault, which may be an old one."""
        return 0

    cdef int fail(self, bint unreadable) noexcept nogil:
        """Note that the file cannot be read, or is shorter than it was; return the fault that this is."""
        return 0

    cdef void adapt(self, uint64_t missed, size_t size) noexcept nogil:
        """Choose the next window, after a piece that ends so many bytes before what is wanted next."""
        # Where headers are dense, large pieces cost least; where payloads are large, what is read in vain.
        if missed <= size:
            self.window = min(2 * self.window, LARGEST_WINDOW)
        else:
            self.window = max(self.window // 4, SMALLEST_WINDOW)
