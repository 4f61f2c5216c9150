# distutils: language = c++
"""File descriptors with an owner, small files read whole, and numbers that stand at many places of a file."""

from os import fsencode, strerror

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libcpp.vector cimport vector

cdef extern from *:
    """
    #include <algorithm>
    #include <cerrno>
    #include <fcntl.h>
    #include <sys/stat.h>
    #include <unistd.h>

    #include "positional_io.hpp"

    // Open a regular file of known size, through no link, and wait for nobody (a pipe may have taken its place); 0, or
    // an errno: EAGAIN where it is not the file that it was.
    static int open_file(const char *path, std::uint64_t size, int &fd) {
      fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
      if (fd < 0) return errno;
      struct stat found;
      int status = 0;
      if (fstat(fd, &found) < 0) {
        status = errno;
      } else if (!S_ISREG(found.st_mode) || static_cast<std::uint64_t>(found.st_size) != size) {
        status = EAGAIN;
      }
      if (status != 0) close(fd);
      return status;
    }

    // Read such a file.
    static int read_file(const char *path, std::uint8_t *to, std::uint64_t size) {
      int fd;
      int status = open_file(path, size, fd);
      if (status != 0) return status;
      const std::int64_t got = archivestream::read_at(fd, to, size, 0);
      status = got < 0 ? errno : static_cast<std::uint64_t>(got) != size ? EAGAIN : 0;
      close(fd);
      return status;
    }

    // Open a folder that is only gone through: where the system knows that, without the right to list it.
    static int enter(int above, const char *name, bool follow) {
    #ifdef O_PATH
      const int how = O_PATH | O_DIRECTORY | O_CLOEXEC;
    #else
      const int how = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    #endif
      int fd;
      do {
        fd = openat(above < 0 ? AT_FDCWD : above, name, how | (follow ? 0 : O_NOFOLLOW));
      } while (fd < 0 && errno == EINTR);
      return fd < 0 ? -errno : fd;
    }

    // Open a file without a name in a folder, so that it can get one; or an errno: EOPNOTSUPP where there are none.
    static int open_unnamed(int above, const char *folder) {
    #ifdef O_TMPFILE
      int fd;
      do {
        fd = openat(above < 0 ? AT_FDCWD : above, folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
      } while (fd < 0 && errno == EINTR);
      return fd < 0 ? -errno : fd;
    #else
      static_cast<void>(above), static_cast<void>(folder);
      return -EOPNOTSUPP;
    #endif
    }

    // Go over little-endian numbers in a file up to one that is not as expected; 0, or an errno: EILSEQ where one
    // is another, or where the file ends before it. Those that lie on neighbouring pages come with one read.
    static int compare_words(int fd, const std::uint64_t *offsets, const std::uint32_t *expected, std::size_t n,
                             std::size_t &row) {
      constexpr std::size_t kWord = 4, kNear = 4096;
      std::uint8_t window[64 << 10];
      std::uint64_t begin = 0;  // of the window, in the file
      std::size_t have = 0, ask = kWord;
      for (row = 0; row < n; ++row) {
        const std::uint64_t at = offsets[row];
        if (have < kWord || at < begin || at - begin > have - kWord) {
          ask = row && at - offsets[row - 1] <= kNear ? std::min(2 * ask, sizeof window) : kWord;
          const std::int64_t got = archivestream::read_at(fd, window, ask, at);
          if (got < 0) return errno;
          begin = at;
          have = static_cast<std::size_t>(got);
          if (have < kWord) return EILSEQ;
        }
        const std::uint8_t *word = window + (at - begin);
        const std::uint32_t value = word[0] | word[1] << 8 | word[2] << 16 | static_cast<std::uint32_t>(word[3]) << 24;
        if (value != expected[row]) return EILSEQ;
      }
      return 0;
    }
    """
    int cpp_close "close"(int number) nogil
    int cpp_open_file "open_file"(const char *path, uint64_t size, int &fd) nogil
    int cpp_enter "enter"(int above, const char *name, bint follow) nogil
    int cpp_open_unnamed "open_unnamed"(int above, const char *folder) nogil
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


def open_file(bytes path not None, uint64_t size):
    """Open a regular file of known size; a symbolic link is not followed.

    Returns
    -------
    descriptor, errno : int
        ``EAGAIN`` where it is no regular file or has another size.
    """
    cdef const char *name = path
    cdef int descriptor = -1
    cdef int status
    with nogil:
        status = cpp_open_file(name, size, descriptor)
    return descriptor, status


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


def enter_folder(bytes name not None, int above=-1):
    """Open a folder right in another one, and not through a link; without one above it, at a path, which may be one.

    In one step, between which and its owner no signal comes.

    Returns
    -------
    Descriptor or int
        Or an errno.
    """
    cdef const char *path = name
    cdef int number
    with nogil:
        number = cpp_enter(above, path, above < 0)
    return Descriptor(number) if number >= 0 else -number


def open_unnamed(str folder not None, int flags, int above=-1):
    """Open a file without a name for writing: an opener for `io.FileIO`, which owns it before a signal can come.

    Parameters
    ----------
    folder : str
        Where it will get its name.
    flags : int
        Not used: these need others.
    above : int
        A descriptor, where the path of the folder begins; default: the working directory.

    Raises
    ------
    OSError
        Also where the file system, or the system, has no such files.
    """
    cdef bytes encoded = fsencode(folder)
    cdef const char *path = encoded
    cdef int number
    with nogil:
        number = cpp_open_unnamed(above, path)
    if number < 0:
        raise OSError(-number, strerror(-number))
    return number
