// What the ZIP scanner does with the containers and algorithms of C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace archivestream {

// Fill `successor` with, for each member, the member whose local header comes next in the file (`none` for
// the last), and flag the members that share a header with another one of the same name. Members with a flag of
// `elsewhere` lie nowhere in this file: they have no successor, and are none.
inline void order_members(const std::uint64_t *offsets, const std::uint64_t *name_offsets,
                          const std::uint8_t *names, std::uint32_t n, std::uint32_t *successor,
                          std::uint16_t *flags, std::uint16_t alias, std::uint16_t elsewhere) {
  const std::uint32_t none = UINT32_MAX;
  std::vector<std::uint32_t> order;
  order.reserve(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    successor[i] = none;
    if (!(flags[i] & elsewhere)) order.push_back(i);
  }
  n = static_cast<std::uint32_t>(order.size());
  std::sort(order.begin(), order.end(), [=](std::uint32_t a, std::uint32_t b) {
    return offsets[a] != offsets[b] ? offsets[a] < offsets[b] : a < b;
  });
  auto compare_names = [=](std::uint32_t a, std::uint32_t b) {
    const std::uint64_t la = name_offsets[a + 1] - name_offsets[a];
    const std::uint64_t lb = name_offsets[b + 1] - name_offsets[b];
    const int c = std::memcmp(names + name_offsets[a], names + name_offsets[b], std::min(la, lb));
    return c != 0 ? c : (la < lb ? -1 : la > lb);
  };
  for (std::uint32_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && offsets[order[end]] == offsets[order[begin]];) ++end;
    if (end - begin > 1) {
      std::sort(order.begin() + begin, order.begin() + end, [=](std::uint32_t a, std::uint32_t b) {
        const int c = compare_names(a, b);
        return c != 0 ? c < 0 : a < b;
      });
    }
    for (std::uint32_t i = begin; i < end; ++i) {
      successor[order[i]] = end < n ? order[end] : none;
      // Look-up by name gives the last of several: that one may be read.
      if (i + 1 < end && compare_names(order[i], order[i + 1]) == 0) flags[order[i]] |= alias;
    }
  }
}

inline bool append_raw(std::vector<std::uint32_t> &members, std::vector<std::uint64_t> &offsets,
                       std::vector<std::uint8_t> &names, std::uint32_t member, const std::uint8_t *raw,
                       std::size_t size) noexcept {
  try {
    members.push_back(member);
    offsets.push_back(names.size());
    names.insert(names.end(), raw, raw + size);
    return true;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

}  // namespace archivestream
