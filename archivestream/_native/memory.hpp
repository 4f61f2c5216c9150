// Memory for buffers: aligned, and large blocks straight from the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <sys/mman.h>

namespace archivestream {

// AddressSanitizer knows where a block ends that malloc has given: for it, all blocks are, of just the size asked for.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kExact = true;
#elif defined(__has_feature)
constexpr bool kExact = __has_feature(address_sanitizer);
#else
constexpr bool kExact = false;
#endif

constexpr std::size_t kAlignment = 64;            // a cache line, and the widest vector
constexpr std::size_t kSmallestMapped = kExact ? SIZE_MAX : 1 << 20;  // from here on, straight from the kernel

// Large blocks do not go through malloc: given back, they must leave the process, and leave no holes.
inline void *allocate(std::size_t size) {
  void *memory = nullptr;
  if (size < kSmallestMapped) return posix_memalign(&memory, kAlignment, size) == 0 ? memory : nullptr;
  memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  // The first touch of a huge page costs a quarter of that of its small ones. A wish: the kernel may not have any.
  madvise(memory, size, MADV_HUGEPAGE);
#endif
  return memory;
}

// The size as it was asked for.
inline void release(void *memory, std::size_t size) {
  if (memory != nullptr && size >= kSmallestMapped) {
    munmap(memory, size);
    return;
  }
  std::free(memory);
}

}  // namespace archivestream
