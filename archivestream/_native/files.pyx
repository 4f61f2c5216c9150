# distutils: language = c++
"""File descriptors with an owner, and small files read whole."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
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
    """
    int cpp_close "close"(int number) nogil
    int cpp_read_file "read_file"(const char *path, uint8_t *to, uint64_t size) nogil


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
