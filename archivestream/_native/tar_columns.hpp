// What the tar scanner does with the containers and algorithms of C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace archivestream {

using Bytes = std::vector<std::uint8_t>;

struct Extent {
  std::uint64_t place;  // in the member
  std::uint64_t size;
};

// What the extension headers in front of a file's own header say about it, or a global one about all files.
struct Extension {
  Bytes path, link, sparse_name;
  std::uint64_t link_place = 0;  // where in the stream the target of a link stands
  std::uint64_t size = 0;
  std::int64_t mtime = 0;
  bool has_path = false, has_link = false, has_size = false, has_mtime = false;
  bool pax_path = false;
  // GNU.sparse.*
  bool sparse = false, has_real_size = false, has_sparse_name = false, has_entries = false, half = false;
  std::uint64_t place = 0, real_size = 0, major = 0, minor = 0, entries = 0;
  std::vector<Extent> map;

  void clear() noexcept { *this = Extension(); }
};

struct TarMember {
  std::uint64_t size, stored_size, offset;
  std::uint32_t timestamp, attributes;
  std::uint16_t flags;
};

struct TarColumns {
  std::vector<std::uint64_t> size, compressed_size, offset, name_offset;
  std::vector<std::uint32_t> timestamp, attributes;
  std::vector<std::uint16_t> flags;
  Bytes names;
  std::vector<std::uint32_t> raw_member;
  std::vector<std::uint64_t> raw_offset;
  Bytes raw_names;
  std::vector<std::uint32_t> sparse_member;
  std::vector<std::uint64_t> sparse_offset, extent_place, extent_offset, extent_size;
  std::vector<std::uint32_t> link_member;  // hard links, and the names that they refer to
  std::vector<std::uint64_t> link_offset;
  Bytes link_names;
};

inline bool append(Bytes &to, const std::uint8_t *data, std::size_t size) noexcept {
  try {
    to.insert(to.end(), data, data + size);
    return true;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

inline bool append_extent(std::vector<Extent> &to, std::uint64_t place, std::uint64_t size) noexcept {
  try {
    to.push_back({place, size});
    return true;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

// Make room for the name of the next member at the end of the blob: NULL where there is no memory.
inline std::uint8_t *grow_names(Bytes &names, std::size_t more) noexcept {
  try {
    names.resize(names.size() + more);
    return names.data() + (names.size() - more);
  } catch (const std::bad_alloc &) {
    return nullptr;
  }
}

inline void shrink_names(Bytes &names, std::size_t less) noexcept { names.resize(names.size() - less); }

// Add a member whose name is at the end of the blob already.
inline bool append_member(TarColumns &to, const TarMember &member) noexcept {
  try {
    if (to.name_offset.empty()) to.name_offset.push_back(0);
    to.size.push_back(member.size);
    to.compressed_size.push_back(member.stored_size);
    to.offset.push_back(member.offset);
    to.timestamp.push_back(member.timestamp);
    to.attributes.push_back(member.attributes);
    to.flags.push_back(member.flags);
    to.name_offset.push_back(to.names.size());
    return true;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

inline bool append_row(std::vector<std::uint32_t> &members, std::vector<std::uint64_t> &offsets, Bytes &names,
                       std::uint32_t member, const std::uint8_t *name, std::size_t size) noexcept {
  try {
    members.push_back(member);
    offsets.push_back(names.size());
    names.insert(names.end(), name, name + size);
    return true;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

// Add the extents of a sparse member, whose packed bytes begin at `offset`; empty ones say nothing.
inline bool append_map(TarColumns &to, std::uint32_t member, const std::vector<Extent> &map,
                       std::uint64_t offset) noexcept {
  try {
    to.sparse_member.push_back(member);
    to.sparse_offset.push_back(to.extent_place.size());
    for (const Extent &extent : map) {
      if (extent.size == 0) continue;
      to.extent_place.push_back(extent.place);
      to.extent_offset.push_back(offset);
      to.extent_size.push_back(extent.size);
      offset += extent.size;
    }
    return true;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

// Take the memory out of a column, at its exact size: for `free`.
template <class T>
void *release(std::vector<T> &column) {
  void *memory = std::malloc(std::max<std::size_t>(1, sizeof(T) * column.size()));
  if (memory == nullptr) throw std::bad_alloc();
  if (!column.empty()) std::memcpy(memory, column.data(), sizeof(T) * column.size());
  std::vector<T>().swap(column);
  return memory;
}

struct Name {
  const std::uint8_t *data;
  std::size_t size;

  bool operator<(const Name &other) const {
    const int c = size && other.size ? std::memcmp(data, other.data, std::min(size, other.size)) : 0;
    return c != 0 ? c < 0 : size < other.size;
  }
  bool operator==(const Name &other) const {
    return size == other.size && (size == 0 || std::memcmp(data, other.data, size) == 0);
  }
};

// Give each hard link what the last member before it of the name that it refers to has, or the flag `broken`.
// Sorts the names that links refer to, and looks each member up in them: no hash that names could be made to
// collide in, and no memory for members that nothing refers to. `most` bounds the extents of all sparse members;
// false where that is passed.
inline bool resolve_links(TarColumns &c, std::uint16_t sparse, std::uint16_t broken, std::uint32_t type_bits,
                          std::uint64_t most) {
  const std::uint32_t none = UINT32_MAX;
  const std::size_t links = c.link_member.size();
  auto name_of = [](const Bytes &names, const std::vector<std::uint64_t> &offsets, std::size_t i) {
    const std::uint64_t end = i + 1 < offsets.size() ? offsets[i + 1] : names.size();
    Name name{names.data() + offsets[i], static_cast<std::size_t>(end - offsets[i])};
    // "./a" is "a".
    while (name.size >= 2 && name.data[0] == '.' && name.data[1] == '/') {
      for (name.data += 1, name.size -= 1; name.size && name.data[0] == '/'; ++name.data) --name.size;
    }
    return name;
  };
  std::vector<Name> targets;
  targets.reserve(links);
  for (std::size_t i = 0; i < links; ++i) targets.push_back(name_of(c.link_names, c.link_offset, i));
  std::sort(targets.begin(), targets.end());
  targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
  std::vector<std::uint32_t> last(targets.size(), none);  // member of that name
  auto find = [&](const Name &name) {
    const auto found = std::lower_bound(targets.begin(), targets.end(), name);
    return found != targets.end() && *found == name ? static_cast<std::size_t>(found - targets.begin()) : targets.size();
  };
  std::vector<std::uint32_t> sparse_members, sparse_rows;
  std::size_t row = 0, link = 0;
  std::uint64_t extents = 0;
  auto extents_of = [&](std::size_t i) {
    return (i + 1 < c.sparse_offset.size() ? c.sparse_offset[i + 1] : c.extent_place.size()) - c.sparse_offset[i];
  };
  for (std::uint32_t i = 0; i < c.size.size(); ++i) {
    std::uint32_t own = none;
    if (row < c.sparse_member.size() && c.sparse_member[row] == i) own = static_cast<std::uint32_t>(row++);
    if (link < links && c.link_member[link] == i) {
      const std::uint32_t target = last[find(name_of(c.link_names, c.link_offset, link++))];
      if (target == none) {
        c.flags[i] |= broken;
      } else {
        c.size[i] = c.size[target];
        c.compressed_size[i] = c.compressed_size[target];
        c.offset[i] = c.offset[target];
        c.flags[i] |= c.flags[target] & (sparse | broken);
        c.attributes[i] = (c.attributes[i] & ~type_bits) | (c.attributes[target] & type_bits);
        if (c.flags[i] & sparse) {
          const auto at = std::lower_bound(sparse_members.begin(), sparse_members.end(), target);
          own = sparse_rows[at - sparse_members.begin()];
        }
      }
    }
    if (own != none) {
      sparse_members.push_back(i);
      sparse_rows.push_back(own);
      extents += extents_of(own);
    }
    const std::size_t slot = find(name_of(c.names, c.name_offset, i));
    if (slot < last.size()) last[slot] = i;
  }
  if (sparse_members.size() == c.sparse_member.size()) return true;  // no link to a sparse member
  if (extents > most) return false;
  std::vector<std::uint64_t> offsets, place, offset, size;
  for (const std::uint32_t from : sparse_rows) {
    offsets.push_back(place.size());
    const std::uint64_t begin = c.sparse_offset[from], end = begin + extents_of(from);
    place.insert(place.end(), c.extent_place.begin() + begin, c.extent_place.begin() + end);
    offset.insert(offset.end(), c.extent_offset.begin() + begin, c.extent_offset.begin() + end);
    size.insert(size.end(), c.extent_size.begin() + begin, c.extent_size.begin() + end);
  }
  c.sparse_member = std::move(sparse_members);
  c.sparse_offset = std::move(offsets);
  c.extent_place = std::move(place);
  c.extent_offset = std::move(offset);
  c.extent_size = std::move(size);
  return true;
}

}  // namespace archivestream
