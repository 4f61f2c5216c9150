// Memory that grows as data really come, without exceptions: every call says whether there was enough.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace archivestream {

struct Bytes {
  std::uint8_t *data = nullptr;
  std::size_t size = 0;
  std::size_t capacity = 0;

  bool reserve(std::size_t wanted) noexcept {
    if (wanted <= capacity && data != nullptr) return true;
    std::size_t larger = capacity + capacity / 2;
    if (larger < wanted) larger = wanted;
    if (larger < 256) larger = 256;
    void *moved = std::realloc(data, larger);
    if (moved == nullptr) return false;
    data = static_cast<std::uint8_t *>(moved);
    capacity = larger;
    return true;
  }
  bool append(const void *bytes, std::size_t count) noexcept {
    if (count > SIZE_MAX / 4 - size || !reserve(size + count)) return false;
    if (count != 0) std::memcpy(data + size, bytes, count);
    size += count;
    return true;
  }
  // Seven bits a byte, the lowest first; the highest bit says that more come.
  bool append_varint(std::uint64_t value) noexcept {
    std::uint8_t bytes[10];
    std::size_t count = 0;
    for (; value >= 128; value >>= 7) bytes[count++] = static_cast<std::uint8_t>(value | 128);
    bytes[count++] = static_cast<std::uint8_t>(value);
    return append(bytes, count);
  }
  void clear() noexcept { size = 0; }
  void release() noexcept {
    std::free(data);
    data = nullptr;
    size = capacity = 0;
  }

  Bytes() = default;
  Bytes(const Bytes &) = delete;
  Bytes &operator=(const Bytes &) = delete;
  ~Bytes() { std::free(data); }
};

// The last bytes of a stream. `reach` of them are kept at least, or all that came, where those are fewer; `limit` is what
// they will hardly ever be more than.
struct History {
  std::uint8_t *ring = nullptr;
  std::size_t capacity = 0;
  std::uint64_t end = 0;  // bytes that came so far

  bool append(const std::uint8_t *bytes, std::size_t count, std::uint64_t reach, std::uint64_t limit) noexcept {
    if (count == 0) return true;
    const std::uint64_t wanted = (reach < end ? reach : end) + count;
    if (wanted > capacity && !grow(wanted, limit)) return false;
    const std::size_t at = static_cast<std::size_t>(end % capacity);
    const std::size_t first = count < capacity - at ? count : capacity - at;
    std::memcpy(ring + at, bytes, first);
    std::memcpy(ring, bytes + first, count - first);
    end += count;
    return true;
  }
  // Copy `count` bytes that begin `back` bytes before the end.
  void copy(std::uint8_t *into, std::uint64_t back, std::size_t count) const noexcept {
    const std::size_t at = static_cast<std::size_t>((end - back) % capacity);
    const std::size_t first = count < capacity - at ? count : capacity - at;
    std::memcpy(into, ring + at, first);
    std::memcpy(into + first, ring, count - first);
  }
  void clear() noexcept { end = 0; }

  History() = default;
  History(const History &) = delete;
  History &operator=(const History &) = delete;
  ~History() { std::free(ring); }

 private:
  bool grow(std::uint64_t wanted, std::uint64_t limit) noexcept {
    std::uint64_t doubled = 2 * static_cast<std::uint64_t>(capacity);
    if (doubled > limit) doubled = limit > wanted ? limit : wanted + wanted / 4;
    if (wanted < doubled) wanted = doubled;
    if (wanted > SIZE_MAX / 2) return false;
    const std::size_t larger = static_cast<std::size_t>(wanted);
    if (end <= capacity) {
      // Nothing has been overwritten yet: every byte stays where it is, and the kernel can move the pages.
      void *extended = std::realloc(ring, larger);
      if (extended == nullptr) return false;
      ring = static_cast<std::uint8_t *>(extended);
      capacity = larger;
      return true;
    }
    auto *moved = static_cast<std::uint8_t *>(std::malloc(larger));
    if (moved == nullptr) return false;
    for (std::uint64_t i = end - capacity; i < end;) {
      // Runs that wrap in neither ring.
      std::uint64_t run = end - i;
      if (run > capacity - i % capacity) run = capacity - i % capacity;
      if (run > larger - i % larger) run = larger - i % larger;
      std::memcpy(moved + i % larger, ring + i % capacity, static_cast<std::size_t>(run));
      i += run;
    }
    std::free(ring);
    ring = moved;
    capacity = larger;
    return true;
  }
};

// The first bit from `from` on that is set, or with `flip` clear; `size` where there is none. `size` is a multiple of 64.
inline std::uint64_t find_bit(const std::uint64_t *bitmap, std::uint64_t size, std::uint64_t from, bool flip) noexcept {
  const std::uint64_t mask = flip ? ~std::uint64_t{0} : 0;
  if (from >= size) return size;
  std::uint64_t word = (bitmap[from / 64] ^ mask) >> (from % 64);
  if (word != 0) return from + static_cast<unsigned>(__builtin_ctzll(word));
  for (std::uint64_t i = from / 64 + 1; i < size / 64; ++i) {
    word = bitmap[i] ^ mask;
    if (word != 0) return 64 * i + static_cast<unsigned>(__builtin_ctzll(word));
  }
  return size;
}

}  // namespace archivestream
