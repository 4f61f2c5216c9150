// Decoded members in memory that all processes of a machine share.
//
//   header | buckets of a chained hash table | entries and their bytes
//
// What is handed out grows from the front of the last part, whose memory is taken from the system in steps: a file that
// cannot grow is an error then, and no signal later. An entry lies before its bytes. Where nothing is dropped ("keep")
// they are in one piece, of their size; else ("lru") in a chain of small pages, so that any pages serve any member, and
// no fragmentation grows.
//
// Who may do what:
//  - `table` guards all but the bytes of members. It is held for the time of a look-up.
//  - To read, note under `table` where an entry lies, copy without a lock, and see whether its serial number and the
//    epoch are still the same (a seqlock: Boehm, Can Seqlocks Get Along with Programming Language Memory Models?,
//    MSPC 2012).
//  - To add a member, enter it under `table` as being loaded, with its memory; write its bytes under one of the
//    `writing` locks; publish it under `table`. What a dead process was loading is taken out by whoever waits for it.
//  - A process can die at any instruction. If it was changing the table then, `changing` says so, and all is dropped,
//    under all `writing` locks, so that nobody is writing to memory that is given out anew.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <fcntl.h>

#include "robust_mutex.hpp"
#include "shared_layout.hpp"

namespace archivestream::shared {

class SharedRegion {
 public:
  enum class Claim : int { kOurs, kTheirs, kFull, kGrow, kBroken };
  enum class Copied : int { kWell, kDiffers, kGone };

  struct Statistics {
    u64 hits, misses, bytes, evictions, members;
  };

  SharedRegion(std::uint8_t *base, int file) : base_(base), file_(file), header_(reinterpret_cast<Header *>(base)) {}

  // Make a region in a file of `limit` bytes, all of them zero; returns an errno.
  int initialise(u64 limit, bool lru, u64 name_space) {
    Header &h = *header_;
    u64 buckets = 64;
    while (buckets * 2 * kBytesPerBucket <= limit) buckets *= 2;
    h.limit = limit;
    h.lru = lru;
    h.name_space = name_space;
    h.buckets = buckets;
    h.arena = round_up(kTable + buckets * sizeof(u64), 4096);
    h.end = h.arena;
    int failed = allocate(0, h.arena);
    if (!failed) failed = h.table.initialise();
    if (!failed) failed = h.growing.initialise();
    for (RobustMutex &mutex : h.writing) {
      if (!failed) failed = mutex.initialise();
    }
    if (failed) return failed;
    h.epoch.store(1);
    h.serials = 1;
    h.top = h.arena;
    h.used = h.arena;
    h.magic.store(kMagic, std::memory_order_release);  // last: it is whole
    return 0;
  }

  bool is_whole() const { return header_->magic.load(std::memory_order_acquire) == kMagic; }
  u64 limit() const { return header_->limit; }
  bool lru() const { return header_->lru; }
  u64 name_space() const { return header_->name_space; }

  // Find members; those that are not there, or not yet, get the place 0. What is found counts as used now.
  void find(const Key *keys, std::size_t n, Place *places) {
    Table held(*this);
    for (std::size_t i = 0; i < n; ++i) {
      Entry *entry = held.broken() ? nullptr : find_entry(keys[i]);
      if (entry == nullptr || entry->loading) {
        places[i] = Place();
        continue;
      }
      if (header_->lru && offset(entry) != header_->newest) {
        Change change(*this);
        unlist(entry);
        list(entry);
      }
      places[i] = {offset(entry), entry->serial.load(std::memory_order_relaxed),
                   header_->epoch.load(std::memory_order_relaxed), entry->size, entry->link};
    }
  }

  // Copy a member that was found, less its first `skip` bytes, which must be those of `prefix`. What was written is of
  // no use unless all is well.
  Copied copy(const Place &place, std::uint8_t *to, const std::uint8_t *prefix, u64 skip) {
    bool differs = place.size < skip;
    const bool whole = each_piece(place, [&](const std::uint8_t *from, u64 at, u64 size) {
      if (at < skip) {
        const u64 head = std::min(skip - at, size);
        differs = differs || std::memcmp(from, prefix + at, head) != 0;
        from += head, at += head, size -= head;
      }
      if (size && !differs) std::memcpy(to + (at - skip), from, size);
    });
    std::atomic_thread_fence(std::memory_order_acquire);
    const Entry *entry = at(place.at);
    if (!whole || entry->serial.load(std::memory_order_relaxed) != place.serial ||
        header_->epoch.load(std::memory_order_relaxed) != place.epoch) {
      return Copied::kGone;
    }
    return differs ? Copied::kDiffers : Copied::kWell;
  }

  void count(u64 hits, u64 misses) {
    header_->hits.fetch_add(hits, std::memory_order_relaxed);
    header_->misses.fetch_add(misses, std::memory_order_relaxed);
  }

  // Whether a member of a size would be kept.
  bool admits(u64 size) {
    Table held(*this);
    const u64 need = bytes_of(size);
    if (need == 0 || need > header_->limit - header_->arena) return false;
    return header_->lru || held.broken() || need <= ceiling() - header_->top || find_hole(need) != nullptr;
  }

  // Enter a member that the caller is going to load: kOurs, with its place. kTheirs: it is there, or being loaded.
  // kFull: there is no room for it. kGrow, kBroken: call `grow` or `repair` first, holding nothing, and try again.
  Claim claim(const Key &key, u64 size, const Process &self, Place *place) {
    Table held(*this);
    if (held.broken()) return Claim::kBroken;
    if (find_entry(key) != nullptr) return Claim::kTheirs;
    const u64 need = bytes_of(size);
    if (need == 0 || need > header_->limit - header_->arena) return Claim::kFull;
    Change change(*this);
    u64 found = 0, link = 0;
    const Claim outcome = header_->lru ? take_pages(need / kPage, &found, &link) : take_piece(need, &found, &link);
    if (outcome != Claim::kOurs) return outcome;
    Entry *entry = at(found);
    entry->key = key;
    entry->size = size;
    entry->link = link;
    entry->loading = 1;
    entry->newer = self.number;
    entry->older = self.started;
    u64 &bucket = *bucket_of(key);
    entry->next = bucket;
    entry->serial.store(next_serial(), std::memory_order_relaxed);
    bucket = found;
    *place = {found, entry->serial.load(std::memory_order_relaxed), header_->epoch.load(std::memory_order_relaxed),
              size, link};
    return Claim::kOurs;
  }

  // Take more memory from the system; returns an errno, and there is no more from then on.
  int grow() {
    Holding held(header_->growing);
    u64 end, wanted;
    {
      Table table(*this);
      end = header_->end;
      wanted = header_->wanted;
      if (end >= ceiling() || end - header_->top >= wanted) return 0;  // another has been quicker
    }
    const u64 step = std::min(std::max(header_->limit / 64, kSmallestStep), kLargestStep);
    const u64 more = std::min(round_up(std::max(step, wanted), 4096), header_->limit - end);
    const int failed = allocate(end, more);
    Table table(*this);
    if (failed) {
      header_->ceiling = end;
    } else {
      header_->end = end + more;
    }
    return failed;
  }

  // Write the bytes of members that the caller has claimed, and publish them.
  template <class Source>
  void publish(const Place *places, std::size_t n, unsigned writer, Source source) {
    Holding writing(header_->writing[writer % kWriters]);
    for (std::size_t i = 0; i < n; ++i) {
      if (!is_current(places[i])) continue;
      each_piece(places[i], [&](const std::uint8_t *to, u64 at, u64 size) {
        source(i, const_cast<std::uint8_t *>(to), at, size);
      });
    }
    Table held(*this);
    for (std::size_t i = 0; i < n; ++i) {
      if (held.broken() || !is_current(places[i])) continue;
      Entry *entry = at(places[i].at);
      Change change(*this);
      entry->loading = 0;
      entry->newer = entry->older = 0;
      list(entry);
      ++header_->members;
    }
  }

  // Take out what the caller has claimed and not published.
  void abandon(const Place *places, std::size_t n) {
    Table held(*this);
    for (std::size_t i = 0; i < n; ++i) {
      if (!held.broken() && is_current(places[i]) && at(places[i].at)->loading) remove(at(places[i].at));
    }
  }

  // How many of some members are being loaded. With `check`, those of dead processes are taken out first.
  std::size_t loading(const Key *keys, std::size_t n, bool check) {
    std::size_t count = 0;
    Process alive;
    for (std::size_t i = 0; i < n; ++i) {
      Process owner;
      u64 serial = 0;
      {
        Table held(*this);
        const Entry *entry = held.broken() ? nullptr : find_entry(keys[i]);
        if (entry == nullptr || !entry->loading) continue;
        owner = {entry->newer, entry->older};
        serial = entry->serial.load(std::memory_order_relaxed);
      }
      ++count;
      if (!check || owner == alive) continue;
      if (owner.is_alive()) {
        alive = owner;
        continue;
      }
      Table held(*this);
      Entry *entry = held.broken() ? nullptr : find_entry(keys[i]);
      if (entry != nullptr && entry->loading && entry->serial.load(std::memory_order_relaxed) == serial) remove(entry);
      --count;
    }
    return count;
  }

  // Drop all: because of `force`, or because a process died in the middle of a change.
  void repair(bool force) {
    for (RobustMutex &mutex : header_->writing) mutex.lock();
    {
      Table held(*this);
      if (force || held.broken()) {
        Change change(*this);
        Header &h = *header_;
        h.epoch.fetch_add(1);
        std::atomic_thread_fence(std::memory_order_release);
        std::memset(base_ + kTable, 0, h.buckets * sizeof(u64));
        h.top = h.used = h.arena;
        h.newest = h.oldest = h.members = h.free_pages = h.first_free = 0;
      }
    }
    for (RobustMutex &mutex : header_->writing) mutex.unlock();
  }

  Statistics statistics() {
    Table held(*this);
    return {header_->hits, header_->misses, header_->used, header_->evictions, header_->members};
  }

 private:
  // The lock of the table. Broken: a process died while it changed the table, which must not be followed then.
  class Table : Holding {
   public:
    explicit Table(SharedRegion &region) : Holding(region.header_->table), header_(*region.header_) {}
    bool broken() const { return header_.changing.load(std::memory_order_relaxed) != 0; }

   private:
    Header &header_;
  };

  // A change of the table. A signal fence is enough: the kernel, which hands on the lock of the dead, does the rest.
  class Change {
   public:
    explicit Change(SharedRegion &region) : changing_(region.header_->changing) {
      changing_.store(1, std::memory_order_relaxed);
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    ~Change() {
      std::atomic_signal_fence(std::memory_order_seq_cst);
      changing_.store(0, std::memory_order_release);
    }

   private:
    std::atomic<u64> &changing_;
  };

  static u64 round_up(u64 size, u64 to) { return (size + to - 1) / to * to; }

  int allocate(u64 begin, u64 size) {
#ifdef __APPLE__
    return ENOTSUP;
#else
    int failed;
    do {
      failed = posix_fallocate(file_, static_cast<off_t>(begin), static_cast<off_t>(size));
    } while (failed == EINTR);
    return failed;
#endif
  }

  Entry *at(u64 place) const { return reinterpret_cast<Entry *>(base_ + place); }
  u64 offset(const Entry *entry) const {
    return static_cast<u64>(reinterpret_cast<const std::uint8_t *>(entry) - base_);
  }
  u64 &link_at(u64 page) const { return *reinterpret_cast<u64 *>(base_ + page); }
  u64 ceiling() const { return header_->ceiling ? header_->ceiling : header_->limit; }

  // What a member of a size takes; 0: too much for any region.
  u64 bytes_of(u64 size) const {
    if (size > header_->limit) return 0;
    if (!header_->lru) return round_up(sizeof(Entry) + size, 16);
    return size <= kFirstRoom ? kPage : kPage + (size - kFirstRoom + kNextRoom - 1) / kNextRoom * kPage;
  }

  u64 *bucket_of(const Key &key) const {
    u64 hash = (key.archive[0] ^ key.member) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 32;
    return reinterpret_cast<u64 *>(base_ + kTable) + (hash & (header_->buckets - 1));
  }

  Entry *find_entry(const Key &key) const {
    for (u64 place = *bucket_of(key); place != 0; place = at(place)->next) {
      const Key &found = at(place)->key;
      if (found.member == key.member && found.archive[0] == key.archive[0] && found.archive[1] == key.archive[1]) {
        return at(place);
      }
    }
    return nullptr;
  }

  // Visit the pieces of a member. Those of one that is being dropped may lead anywhere in the region, but not beyond.
  template <class Visit>
  bool each_piece(const Place &place, Visit visit) const {
    const std::uint8_t *bytes = base_ + place.at + sizeof(Entry);
    u64 room = header_->lru ? kFirstRoom : place.size;
    u64 page = place.link, done = 0;
    for (;;) {
      const u64 size = std::min(place.size - done, room);
      visit(bytes, done, size);
      done += size;
      if (done == place.size) return true;
      if (page < header_->arena || page % kPage || page > header_->end.load(std::memory_order_relaxed) - kPage) {
        return false;
      }
      bytes = base_ + page + sizeof(u64);
      room = kNextRoom;
      page = __atomic_load_n(&link_at(page), __ATOMIC_RELAXED);
    }
  }

  bool is_current(const Place &place) const {
    return place.at && header_->epoch.load(std::memory_order_relaxed) == place.epoch &&
           at(place.at)->serial.load(std::memory_order_relaxed) == place.serial;
  }

  // Odd, and so never a link. The first bytes of a page hold one or the other, never bytes of a member.
  u64 next_serial() { return header_->serials += 2; }

  void list(Entry *entry) {
    entry->newer = 0;
    entry->older = header_->newest;
    (header_->newest ? at(header_->newest)->newer : header_->oldest) = offset(entry);
    header_->newest = offset(entry);
  }

  void unlist(Entry *entry) {
    (entry->newer ? at(entry->newer)->older : header_->newest) = entry->older;
    (entry->older ? at(entry->older)->newer : header_->oldest) = entry->newer;
  }

  // Take an entry out of the table and give back its memory.
  void remove(Entry *entry) {
    Change change(*this);
    drop(entry);
  }

  void drop(Entry *entry) {
    u64 *place = bucket_of(entry->key);
    while (*place != offset(entry)) place = &at(*place)->next;
    *place = entry->next;
    if (!entry->loading) {
      unlist(entry);
      --header_->members;
    }
    entry->serial.store(0, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    const u64 need = bytes_of(entry->size);
    if (!header_->lru) {
      header_->used -= entry->link;
      entry->next = header_->first_free;
      header_->first_free = offset(entry);
      return;
    }
    header_->used -= need;
    header_->free_pages += need / kPage;
    u64 next = entry->link;
    free_page(offset(entry));
    for (u64 left = need / kPage; left > 1; --left) {
      const u64 page = next;
      next = link_at(page);
      free_page(page);
    }
  }

  void free_page(u64 page) {
    __atomic_store_n(&link_at(page), header_->first_free, __ATOMIC_RELAXED);
    header_->first_free = page;
  }

  // "lru": make a chain of pages, from those that are free, those never used, and those of what is dropped.
  Claim take_pages(u64 n, u64 *first, u64 *second) {
    Header &h = *header_;
    const u64 end = h.end.load(std::memory_order_relaxed);
    while (h.free_pages + (end - h.top) / kPage < n) {
      if (end < ceiling()) {
        h.wanted = n * kPage;
        return Claim::kGrow;
      }
      if (h.oldest == 0) return Claim::kFull;
      drop(at(h.oldest));
      ++h.evictions;
    }
    u64 chain = 0;
    *second = 0;
    for (u64 left = n; left != 0; --left) {
      u64 page = h.first_free;
      if (page != 0) {
        h.first_free = link_at(page);
        --h.free_pages;
      } else {
        page = h.top;
        h.top += kPage;
      }
      __atomic_store_n(&link_at(page), chain, __ATOMIC_RELAXED);
      *second = chain;
      chain = page;
    }
    *first = chain;
    h.used += n * kPage;
    return Claim::kOurs;
  }

  // "keep": cut a piece off, or take one over whose loading failed.
  Claim take_piece(u64 need, u64 *found, u64 *capacity) {
    Header &h = *header_;
    if (u64 *hole = find_hole(need)) {
      *found = *hole;
      *capacity = at(*hole)->link;
      *hole = at(*hole)->next;
      h.used += *capacity;
      return Claim::kOurs;
    }
    if (need > ceiling() - h.top) return Claim::kFull;
    if (need > h.end.load(std::memory_order_relaxed) - h.top) {
      h.wanted = need;
      return Claim::kGrow;
    }
    *found = h.top;
    *capacity = need;
    h.top += need;
    h.used += need;
    return Claim::kOurs;
  }

  // The link to a piece of about that size, or nullptr.
  u64 *find_hole(u64 need) const {
    for (u64 *hole = &header_->first_free; *hole != 0; hole = &at(*hole)->next) {
      const u64 capacity = at(*hole)->link;
      if (capacity >= need && capacity - need <= capacity / 4) return hole;
    }
    return nullptr;
  }

  std::uint8_t *const base_;
  const int file_;
  Header *const header_;
};

}  // namespace archivestream::shared
