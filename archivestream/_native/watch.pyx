# distutils: language = c++
"""Whether files are as they were when they were opened, asked after each read of what no checksum guards."""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libcpp.vector cimport vector

cdef extern from *:
    """
    #include <algorithm>
    #include <cstdint>
    #include <vector>

    #include <sys/stat.h>

    namespace archivestream {

    struct WatchedFile {
      int fd;
      std::int64_t size;
      std::int64_t mtime_ns;
      bool may_grow;

      // What the kernel says is not asked of the file system again, but on a network: some 0.2 us.
      bool has_changed() const {
        struct stat now;
        if (fd < 0) return false;
        if (fstat(fd, &now) < 0) return true;
    #ifdef __APPLE__
        const struct timespec &mtime = now.st_mtimespec;
    #else
        const struct timespec &mtime = now.st_mtim;
    #endif
        if (may_grow && now.st_size > size) return false;
        return now.st_size != size || static_cast<std::int64_t>(mtime.tv_sec) * 1000000000 + mtime.tv_nsec != mtime_ns;
      }
    };

    // The first of the sources of some members that has changed, or -1; each is asked once.
    static std::int64_t find_changed(const std::vector<WatchedFile> &files, const std::vector<std::uint64_t> &first,
                                     const std::int64_t *members, std::size_t n) {
      std::vector<bool> asked(files.size());
      std::size_t source = 0;
      for (std::size_t i = 0; i < n; ++i) {
        const std::uint64_t member = members[i];
        if (member < first[source] || member >= first[source + 1]) {
          const std::size_t place = std::upper_bound(first.begin(), first.end(), member) - first.begin();
          if (place == 0 || place > files.size()) continue;
          source = place - 1;
        }
        if (!asked[source] && files[source].has_changed()) return static_cast<std::int64_t>(source);
        asked[source] = true;
      }
      return -1;
    }

    }  // namespace archivestream
    """
    cdef cppclass WatchedFile "archivestream::WatchedFile":
        int fd
        int64_t size
        int64_t mtime_ns
        bint may_grow
    int64_t cpp_find_changed "archivestream::find_changed"(
        const vector[WatchedFile] &files, const vector[uint64_t] &first, const int64_t *members, size_t n
    ) except + nogil


@cython.final
cdef class Watch:
    """The files of an archive, and how they were when they were opened.

    Parameters
    ----------
    files : sequence of (int, int, int, bool)
        Of each source: its descriptor, or -1 where it need not be watched; its size; its time of modification in
        nanoseconds; whether its writers append to it, so that one that has grown is as it was.
    first_member : contiguous buffer
        The first member of each source, and the number of all.
    held : object
        What keeps the descriptors open.
    """

    cdef vector[WatchedFile] files
    cdef vector[uint64_t] first
    cdef object held

    def __cinit__(self, files, const uint64_t[::1] first_member not None, held):
        cdef WatchedFile file
        cdef uint64_t member
        for file.fd, file.size, file.mtime_ns, file.may_grow in files:
            self.files.push_back(file)
        for member in first_member:
            self.first.push_back(member)
        if self.files.empty() or self.first.size() != self.files.size() + 1:
            raise ValueError("a first member for each file, and the number of all")
        self.held = held

    def changed(self, const int64_t[::1] members not None):
        """Return the first of the sources of some members that is not as it was, or -1."""
        cdef size_t n = members.shape[0]
        cdef int64_t source = -1
        if n:
            with nogil:
                source = cpp_find_changed(self.files, self.first, &members[0], n)
        return source

    def changed_one(self, int64_t member):
        """Return the source of a member if that is not as it was, or -1."""
        cdef int64_t source
        with nogil:
            source = cpp_find_changed(self.files, self.first, &member, 1)
        return source
