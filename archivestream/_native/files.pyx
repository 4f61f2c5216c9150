# distutils: language = c++
"""File descriptors with an owner, small files read whole, and numbers that stand at many places of a file."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libcpp.vector cimport vector

cdef extern from *:
    """
    #include <cerrno>
    #include <fcntl.h>
    #include <sys/stat.h>
    #include <unistd.h>

    #include "positional_io.hpp"

    // Read a regular file of known size, through no link; 0, or an errno: EAGAIN where it is not the file that it was.
    static int read_file(const char *path, std::uint8_t *to, std::uint64_t size) {
      const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
      if (fd < 0) return errno;
      struct stat found;
      int status = 0;
      if (fstat(fd, &found) < 0) {
        status = errno;
      } else if (!S_ISREG(found.st_mode) || static_cast<std::uint64_t>(found.st_size) != size) {
        status = EAGAIN;
      } else {
        const std::int64_t got = archivestream::read_at(fd, to, size, 0);
        status = got < 0 ? errno : static_cast<std::uint64_t>(got) != size ? EAGAIN : 0;
      }
      close(fd);
      return status;
    }

    // Go over little-endian numbers in a file up to one that is not as expected; 0, or an errno: EILSEQ where one
    // is another, or where the file ends before it.
    static int compare_words(int fd, const std::uint64_t *offsets, const std::uint32_t *expected, std::size_t n,
                             std::size_t &row) {
      for (row = 0; row < n; ++row) {
        std::uint8_t word[4];
        const std::int64_t got = archivestream::read_at(fd, word, sizeof word, offsets[row]);
        if (got < 0) return errno;
        const std::uint32_t value = word[0] | word[1] << 8 | word[2] << 16 | static_cast<std::uint32_t>(word[3]) << 24;
        if (got != sizeof word || value != expected[row]) return EILSEQ;
      }
      return 0;
    }
    """
    int cpp_close "close"(int number) nogil
    int cpp_read_file "read_file"(const char *path, uint8_t *to, uint64_t size) nogil
    int cpp_compare_words "compare_words"(
        int fd, const uint64_t *offsets, const uint32_t *expected, size_t n, size_t &row) nogil


def read_files(list paths, list sizes, unsigned char[::1] target not None):
    """Read regular files whole, one behind the other, into memory that takes them all.

    Parameters
    ----------
    paths : list of bytes
        Where they are; a symbolic link is not followed.
    sizes : list of int
        How many bytes each must have.
    target : writable buffer
        As large as all of them.

    Returns
    -------
    count, errno : int
        How many were read, and, if not all, what is wrong with the next one: ``EAGAIN`` where it is no regular file or
        has another size.
    """
    cdef vector[const char *] names
    cdef vector[uint64_t] lengths
    cdef uint64_t left = target.shape[0]
    cdef size_t i = 0
    cdef int status = 0
    cdef uint8_t *to = &target[0] if target.shape[0] else NULL
    for path, size in zip(paths, sizes, strict=True):
        names.push_back(<bytes> path)
        lengths.push_back(size)
        if lengths.back() > left:
            raise ValueError("the files are larger than the target")
        left -= lengths.back()
    with nogil:
        while i < names.size():
            status = cpp_read_file(names[i], to, lengths[i])
            if status:
                break
            to += lengths[i]
            i += 1
    return i, status


def compare_words(int descriptor, const uint64_t[::1] offsets not None, const uint32_t[::1] expected not None):
    """Compare the 32-bit little-endian numbers at some places of a file with what they must be.

    Parameters
    ----------
    descriptor : int
        Of the file.
    offsets, expected : contiguous buffers, shape (n,)
        Where each number stands, and what it must be.

    Returns
    -------
    count, errno : int
        How many are as they must be, and, if not all, what is wrong with the next one: ``EILSEQ`` where it is another
        number, or the file ends before it.
    """
    cdef size_t n = offsets.shape[0]
    cdef size_t row = 0
    cdef int status
    if <size_t> expected.shape[0] != n:
        raise ValueError("there must be as many numbers as places")
    if n == 0:
        return 0, 0
    with nogil:
        status = cpp_compare_words(descriptor, &offsets[0], &expected[0], n, row)
    return row, status


@cython.final
cdef class Descriptor:
    """Closes a file descriptor once nobody refers to it any more.

    Not by a finalizer: the collector of reference cycles calls those while native threads may still read.

    Parameters
    ----------
    number : int
        An open descriptor; it belongs to this object from now on.
    """

    cdef readonly int number

    def __cinit__(self, int number):
        self.number = number

    def __dealloc__(self):
        if self.number >= 0:
            cpp_close(self.number)
