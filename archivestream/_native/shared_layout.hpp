// What lies where in the memory that processes share for decoded members: see shared_region.hpp.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "robust_mutex.hpp"

namespace archivestream::shared {

using u64 = std::uint64_t;

constexpr u64 kMagic = 0x32306d656d736100;  // of this layout: change it with anything below
constexpr u64 kPage = 512;                  // lru: what memory is handed out in
constexpr u64 kBytesPerBucket = 2048;       // of the limit
constexpr unsigned kWriters = 16;           // so many may write members at the same time
constexpr int kPatience = 1;                // seconds, with a lock: it is held for milliseconds

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

// Entries, by time.
struct List {
  u64 newest, oldest;
};

enum Loading : u64 {
  kLoaded,
  kLoading,
  kDoubted,  // who waited for it has given up, and nobody else need wait
};

// An entry, before its bytes, in one of two lists: of those that are loaded, and of those that are not yet.
struct Entry {
  std::atomic<u64> serial;  // of this entry alone; 0 before its memory is given out anew
  u64 next;                 // in its bucket, or among the holes
  Key key;
  u64 size;
  u64 link;  // lru: its second page; keep: the bytes that its piece has
  u64 newer, older;
  u64 loading;
  Process owner;  // who loads it; none once he has given up
};

struct Header {
  std::atomic<u64> magic;
  u64 limit, lru, name_space, buckets;
  u64 arena;  // where entries begin
  // Tests know the places of these.
  std::atomic<u64> changing;  // the table is being changed, or was when its changer died
  RobustMutex table, growing, writing[kWriters];
  std::atomic<u64> epoch;     // how often all was dropped
  std::atomic<u64> hits, misses;
  std::atomic<u64> end;  // up to where there is memory
  u64 top;               // up to where it was handed out
  u64 ceiling;           // the system has no memory beyond; 0: not known
  u64 wanted;            // what there was no memory for
  u64 used;              // bytes in use, tables among them
  u64 first_free;        // lru: a chain of free pages; keep: of pieces whose loading failed
  u64 free_pages, members, evictions, serials;
  List loaded, loading;
};

constexpr u64 kTable = 4096;  // where the buckets begin
constexpr u64 kSmallestStep = 1 << 20;  // in which memory is taken from the system
constexpr u64 kLargestStep = 64 << 20;
constexpr u64 kFirstRoom = kPage - sizeof(Entry);    // bytes of a member in its first page
constexpr u64 kNextRoom = kPage - sizeof(u64);       // ... and in each further one, behind a link
static_assert(sizeof(Header) <= kTable, "the header has grown");

// Holds a lock as long as it lives, if it could get it.
//
// Who holds it may have been stopped. A process that has waited for such a lock in vain tries it without waiting until
// it gets it again, so that all goes on without the memory that it guards.
class Holding {
 public:
  Holding(RobustMutex &mutex, std::atomic<bool> &in_vain, bool wait = true) : mutex_(mutex) {
    const bool before = in_vain.load(std::memory_order_relaxed);
    wait = wait && !before;
    held_ = wait ? mutex.lock(kPatience) : mutex.try_lock();
    if (before == held_ && (before || wait)) in_vain.store(!held_, std::memory_order_relaxed);
  }
  ~Holding() {
    if (held_) mutex_.unlock();
  }
  Holding(const Holding &) = delete;
  explicit operator bool() const { return held_; }

 private:
  RobustMutex &mutex_;
  bool held_;
};

// Holds one of the locks under which members are written: a free one, if there is any.
class Writing {
 public:
  Writing(RobustMutex (&mutexes)[kWriters], unsigned first) {
    for (unsigned i = 0; i < kWriters && held_ == nullptr; ++i) {
      RobustMutex &mutex = mutexes[(first + i) % kWriters];
      if (mutex.try_lock()) held_ = &mutex;
    }
    if (held_ == nullptr && mutexes[first % kWriters].lock(kPatience)) held_ = &mutexes[first % kWriters];
  }
  ~Writing() {
    if (held_ != nullptr) held_->unlock();
  }
  Writing(const Writing &) = delete;
  explicit operator bool() const { return held_ != nullptr; }

 private:
  RobustMutex *held_ = nullptr;
};

// Holds all of them: nobody writes.
class NoWriting {
 public:
  NoWriting(RobustMutex (&mutexes)[kWriters], std::atomic<bool> &in_vain) : mutexes_(mutexes) {
    const bool wait = !in_vain.load(std::memory_order_relaxed);
    while (held_ < kWriters && (wait ? mutexes[held_].lock(kPatience) : mutexes[held_].try_lock())) ++held_;
    if (*this || wait) in_vain.store(!*this, std::memory_order_relaxed);
  }
  ~NoWriting() {
    while (held_) mutexes_[--held_].unlock();
  }
  NoWriting(const NoWriting &) = delete;
  explicit operator bool() const { return held_ == kWriters; }

 private:
  RobustMutex (&mutexes_)[kWriters];
  unsigned held_ = 0;
};

}  // namespace archivestream::shared
