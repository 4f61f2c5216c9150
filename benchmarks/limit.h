/* What the loops have in common. */
#include <stdint.h>
#include <unistd.h>

static int read_all(int fd, uint8_t *to, uint64_t size, uint64_t offset) {
  while (size) {
    ssize_t got = pread(fd, to, size, (off_t)offset);
    if (got <= 0) return 0;
    to += got;
    size -= (uint64_t)got;
    offset += (uint64_t)got;
  }
  return 1;
}
