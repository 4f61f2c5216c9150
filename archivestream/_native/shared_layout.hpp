// What lies where in the memory that processes share for decoded members: see shared_region.hpp.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "robust_mutex.hpp"

namespace archivestream::shared {

using u64 = std::uint64_t;

constexpr u64 kMagic = 0x31306d656d736100;  // of this layout: change it with anything below
constexpr u64 kPage = 512;                  // lru: what memory is handed out in
constexpr u64 kBytesPerBucket = 2048;       // of the limit
constexpr int kWriters = 16;                // so many may write members at the same time

// The smallest region that can hold anything.
constexpr u64 kSmallest = 64 << 10;

struct Key {
  u64 archive[2];
  u64 member;
};

// Where a member was found; or, of one to load, where its memory is.
struct Place {
  u64 at = 0;  // 0: not there
  u64 serial = 0, epoch = 0, size = 0, link = 0;
};

// An entry, before its bytes. While it is loaded, `newer` and `older` say which process does it.
struct Entry {
  std::atomic<u64> serial;  // of this entry alone; 0 before its memory is given out anew
  u64 next;                 // in its bucket, or among the holes
  Key key;
  u64 size;
  u64 link;  // lru: its second page; keep: the bytes that its piece has
  u64 newer, older;
  u64 loading;
};

struct Header {
  std::atomic<u64> magic;
  u64 limit, lru, name_space, buckets;
  u64 arena;  // where entries begin
  std::atomic<u64> changing;  // the table is being changed, or was when its changer died; tests know its place
  RobustMutex table, growing, writing[kWriters];
  std::atomic<u64> epoch;     // how often all was dropped
  std::atomic<u64> hits, misses;
  std::atomic<u64> end;  // up to where there is memory
  u64 top;               // up to where it was handed out
  u64 ceiling;           // the system has no memory beyond; 0: not known
  u64 wanted;            // what there was no memory for
  u64 used;              // bytes in use, tables among them
  u64 first_free;        // lru: a chain of free pages; keep: of pieces whose loading failed
  u64 free_pages, newest, oldest, members, evictions, serials;
};

constexpr u64 kTable = 4096;  // where the buckets begin
constexpr u64 kSmallestStep = 1 << 20;  // in which memory is taken from the system
constexpr u64 kLargestStep = 64 << 20;
constexpr u64 kFirstRoom = kPage - sizeof(Entry);    // bytes of a member in its first page
constexpr u64 kNextRoom = kPage - sizeof(u64);       // ... and in each further one, behind a link
static_assert(sizeof(Header) <= kTable, "the header has grown");

// Holds a lock as long as it lives.
class Holding {
 public:
  explicit Holding(RobustMutex &mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Holding() { mutex_.unlock(); }
  Holding(const Holding &) = delete;

 private:
  RobustMutex &mutex_;
};

}  // namespace archivestream::shared
