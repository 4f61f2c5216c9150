// What reading costs: counted by the threads that read, where somebody asks for it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "positional_io.hpp"

namespace archivestream {

struct Meter {
  std::atomic<std::uint64_t> fetch_nanoseconds{0};
  std::atomic<std::uint64_t> fetched{0};  // bytes
  std::atomic<std::uint64_t> decoded{0};  // bytes

  void add_fetch(std::uint64_t nanoseconds, std::uint64_t bytes) {
    fetch_nanoseconds.fetch_add(nanoseconds, std::memory_order_relaxed);
    fetched.fetch_add(bytes, std::memory_order_relaxed);
  }
};

inline void count_decoded(Meter *meter, std::uint64_t bytes) {
  if (meter != nullptr) meter->decoded.fetch_add(bytes, std::memory_order_relaxed);
}

// `read_at` and `read_parts`, on a meter, or on none: a null pointer costs no look at the clock.
template <typename Read>
inline std::int64_t metered(Meter *meter, Read read) {
  if (meter == nullptr) return read();
  const auto begin = std::chrono::steady_clock::now();
  const std::int64_t got = read();
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - begin;
  const int error = errno;
  meter->add_fetch(static_cast<std::uint64_t>(took.count()), got > 0 ? static_cast<std::uint64_t>(got) : 0);
  errno = error;
  return got;
}

inline std::int64_t read_at(Meter *meter, int fd, void *into, std::size_t size, std::uint64_t offset) {
  return metered(meter, [=] { return read_at(fd, into, size, offset); });
}

inline std::int64_t read_parts(Meter *meter, int fd, const iovec *parts, int n, std::uint64_t offset) {
  return metered(meter, [=] { return read_parts(fd, parts, n, offset); });
}

}  // namespace archivestream
