// Memory of one thread, kept from block to block; a large one is given back after use.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory.hpp"

namespace archivestream {

struct Scratch {
  static constexpr std::size_t kSmallest = kExact ? 1 : 64 << 10;
  static constexpr std::size_t kLargestKept = std::size_t{16} << 20;

  std::uint8_t *data = nullptr;
  std::size_t capacity = 0;

  std::uint8_t *reserve(std::size_t size) {
    if (size > capacity || data == nullptr || (kExact && size < capacity)) {
      release(data, capacity);
      capacity = size < kSmallest ? kSmallest : size;
      data = static_cast<std::uint8_t *>(allocate(capacity));
      if (data == nullptr) capacity = 0;
    }
    return data;
  }
  void trim() {
    if (capacity > kLargestKept) {
      release(data, capacity);
      data = nullptr;
      capacity = 0;
    }
  }
  ~Scratch() { release(data, capacity); }
};

}  // namespace archivestream
