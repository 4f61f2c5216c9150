// Reads at an offset, which share no file position: safe in any number of threads and forked processes.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <sys/uio.h>
#include <unistd.h>

namespace archivestream {

// One system call moves at most 2 GiB - 4 KiB on Linux; stay below it everywhere.
constexpr std::size_t kLargestRead = std::size_t{1} << 30;

// Read `size` bytes at `offset`. Returns how many there were (fewer only at the end of the file), or -1
// with errno set.
inline std::int64_t read_at(int fd, void *into, std::size_t size, std::uint64_t offset) {
  auto *to = static_cast<unsigned char *>(into);
  std::size_t done = 0;
  while (done < size) {
    const std::size_t want = size - done < kLargestRead ? size - done : kLargestRead;
    const ssize_t got = pread(fd, to + done, want, static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return static_cast<std::int64_t>(done);
}

// The same, into several places one after the other, mostly with one system call.
inline std::int64_t read_parts(int fd, const iovec *parts, int n, std::uint64_t offset) {
  std::size_t size = 0;
  for (int i = 0; i < n; ++i) size += parts[i].iov_len;
  if (size <= kLargestRead) {
    ssize_t got;
    do {
      got = preadv(fd, parts, n, static_cast<off_t>(offset));
    } while (got < 0 && errno == EINTR);
    if (got < 0) return -1;
    if (static_cast<std::size_t>(got) == size || got == 0) return got;
    // A short read, at the end of the file or by a signal: the loops below settle which.
  }
  std::int64_t done = 0;
  for (int i = 0; i < n; ++i) {
    const std::int64_t got =
        read_at(fd, parts[i].iov_base, parts[i].iov_len, offset + static_cast<std::uint64_t>(done));
    if (got < 0) return -1;
    done += got;
    if (static_cast<std::size_t>(got) < parts[i].iov_len) break;
  }
  return done;
}

}  // namespace archivestream
