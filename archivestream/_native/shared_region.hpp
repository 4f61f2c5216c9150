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
//    `writing` locks; publish it under `table`. What a dead process was loading is taken out by whoever waits for it,
//    or for its memory.
//  - Memory of an entry that another may be loading is given out anew only under all `writing` locks, so that nobody is
//    writing to it: that a process is dead may be a mistake.
//  - A process can die at any instruction. If it was changing the table then, `changing` says so, and all is dropped.
//  - It can be stopped at any instruction, too. No lock is waited for without end; who does not get one does without
//    the memory that it guards, and members are then missing, and not kept.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
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
    const u64 arena = round_up(kTable + buckets * sizeof(u64), 4096);
    int failed = allocate(0, arena);  // before the first store: that would be a signal where there is no memory
    if (failed) return failed;
    h.limit = limit;
    h.lru = lru;
    h.name_space = name_space;
    h.buckets = buckets;
    h.arena = arena;
    h.end = arena;
    failed = h.table.initialise();
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

  // Find members; those that are not there, or not yet, get the place 0. What is found counts as used now. False, and
  // all places are 0, if it would have to wait, and must not, or has waited in vain.
  bool find(const Key *keys, std::size_t n, Place *places, bool wait) {
    Table held(*this, wait);
    for (std::size_t i = 0; i < n; ++i) {
      Entry *entry = held.usable() ? find_entry(keys[i]) : nullptr;
      if (entry == nullptr || entry->loading) {
        places[i] = Place();
        continue;
      }
      if (header_->lru && offset(entry) != header_->loaded.newest) {
        Change change(*this);
        unlist(header_->loaded, entry);
        list(header_->loaded, entry);
      }
      places[i] = {offset(entry), entry->serial.load(std::memory_order_relaxed),
                   header_->epoch.load(std::memory_order_relaxed), entry->size, entry->link};
    }
    return static_cast<bool>(held);
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
    if (!held || need == 0 || need > header_->limit - header_->arena) return false;
    return header_->lru || held.broken() || need <= ceiling() - header_->top || find_hole(need) != nullptr;
  }

  // Enter a member that the caller is going to load: kOurs, with its place. kTheirs: it is there, or being loaded.
  // kFull: there is no room for it. kGrow, kBroken: call `grow` or `repair` first, holding nothing, and try again.
  Claim claim(const Key &key, u64 size, const Process &self, Place *place) {
    Table held(*this);
    if (!held) return Claim::kFull;
    if (held.broken()) return Claim::kBroken;
    if (const Entry *entry = find_entry(key)) return entry->loading == kDoubted ? Claim::kFull : Claim::kTheirs;
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
    entry->loading = kLoading;
    entry->owner = self;
    list(header_->loading, entry);
    u64 &bucket = *bucket_of(key);
    entry->next = bucket;
    entry->serial.store(next_serial(), std::memory_order_relaxed);
    bucket = found;
    *place = {found, entry->serial.load(std::memory_order_relaxed), header_->epoch.load(std::memory_order_relaxed),
              size, link};
    return Claim::kOurs;
  }

  // Take more memory from the system; returns an errno. There is no more from then on, but after ETIMEDOUT.
  int grow() {
    Holding held(header_->growing, growing_in_vain_);
    if (!held) return ETIMEDOUT;
    u64 end, wanted;
    {
      Table table(*this);
      if (!table) return ETIMEDOUT;
      end = header_->end;
      wanted = header_->wanted;
      if (end >= ceiling() || end - header_->top >= wanted) return 0;  // another has been quicker
    }
    const u64 step = std::min(std::max(header_->limit / 64, kSmallestStep), kLargestStep);
    const u64 more = std::min(round_up(std::max(step, wanted), 4096), header_->limit - end);
    const int failed = allocate(end, more);
    Table table(*this);
    if (!table) return ETIMEDOUT;
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
    Writing writing(header_->writing, writer);
    if (!writing) return;
    for (std::size_t i = 0; i < n; ++i) {
      if (!is_current(places[i])) continue;
      each_piece(places[i], [&](const std::uint8_t *to, u64 at, u64 size) {
        source(i, const_cast<std::uint8_t *>(to), at, size);
      });
    }
    Table held(*this);
    for (std::size_t i = 0; i < n; ++i) {
      if (!held.usable() || !is_current(places[i])) continue;
      Entry *entry = at(places[i].at);
      Change change(*this);
      unlist(header_->loading, entry);
      entry->loading = kLoaded;
      list(header_->loaded, entry);
      ++header_->members;
    }
  }

  // Take out what the caller has claimed and not published.
  void abandon(const Place *places, std::size_t n, unsigned writer) {
    {
      Table held(*this);
      for (std::size_t i = 0; i < n; ++i) {
        if (held.usable() && is_current(places[i]) && at(places[i].at)->loading) remove(at(places[i].at));
      }
      if (held) return;
    }
    // Others take it out when they can, as if this process were dead: under a `writing` lock they have not done so yet.
    Writing writing(header_->writing, writer);
    for (std::size_t i = 0; i < n; ++i) {
      if (writing && is_current(places[i])) __atomic_store_n(&at(places[i].at)->owner.number, 0, __ATOMIC_RELAXED);
    }
  }

  // How many of some members are being loaded; -1: not known.
  std::ptrdiff_t loading(const Key *keys, std::size_t n) {
    Table held(*this);
    if (!held) return -1;
    std::ptrdiff_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const Entry *entry = held.broken() ? nullptr : find_entry(keys[i]);
      count += entry != nullptr && entry->loading == kLoading;
    }
    return count;
  }

  // Have nobody wait any more for members that take too long.
  void doubt(const Key *keys, std::size_t n) {
    Table held(*this);
    for (std::size_t i = 0; i < n; ++i) {
      Entry *entry = held.usable() ? find_entry(keys[i]) : nullptr;
      if (entry != nullptr && entry->loading) entry->loading = kDoubted;
    }
  }

  // Take out what dead processes were loading, unless that was looked for less than some seconds ago; whether there
  // was anything.
  bool sweep(double seconds) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    auto before = swept_.load(std::memory_order_relaxed);
    if (now - before < seconds * std::chrono::steady_clock::period::den / std::chrono::steady_clock::period::num ||
        !swept_.compare_exchange_strong(before, now, std::memory_order_relaxed)) {
      return false;
    }
    Process owners[kMostOwners];
    std::size_t n = 0;
    {
      // Those of the dead are, or come to be, the oldest.
      Table held(*this);
      u64 place = held.usable() ? header_->loading.oldest : 0;
      for (std::size_t looked = 0; place != 0 && looked < kMostLooked && n < kMostOwners; ++looked) {
        const Process owner = owner_of(at(place));
        if (std::find(owners, owners + n, owner) == owners + n) owners[n++] = owner;
        place = at(place)->newer;
      }
    }
    n = static_cast<std::size_t>(
        std::remove_if(owners, owners + n, [](const Process &owner) { return owner.is_alive(); }) - owners);
    if (n == 0) return false;
    NoWriting nobody(header_->writing, writing_in_vain_);
    if (!nobody) return false;
    Table held(*this);
    bool found = false;
    for (u64 place = held.usable() ? header_->loading.oldest : 0; place != 0;) {
      Entry *entry = at(place);
      place = entry->newer;
      if (std::find(owners, owners + n, owner_of(entry)) != owners + n) {
        remove(entry);
        found = true;
      }
    }
    return found;
  }

  // Drop all: because of `force`, or because a process died in the middle of a change. False if others are in the way.
  bool repair(bool force) {
    NoWriting nobody(header_->writing, writing_in_vain_);
    if (!nobody) return false;
    Table held(*this);
    if (held && (force || held.broken())) {
      Change change(*this);
      Header &h = *header_;
      h.epoch.fetch_add(1);
      std::atomic_thread_fence(std::memory_order_release);
      std::memset(base_ + kTable, 0, h.buckets * sizeof(u64));
      h.top = h.used = h.arena;
      h.members = h.free_pages = h.first_free = 0;
      h.loaded = h.loading = List();
    }
    return static_cast<bool>(held);
  }

  Statistics statistics() {
    Table held(*this);
    return {header_->hits, header_->misses, header_->used, header_->evictions, header_->members};
  }

 private:
  static constexpr std::size_t kMostOwners = 256, kMostLooked = 4096;  // at a time

  // The lock of the table. Broken: a process died while it changed the table, which must not be followed then.
  class Table : public Holding {
   public:
    explicit Table(SharedRegion &region, bool wait = true)
        : Holding(region.header_->table, region.table_in_vain_, wait), header_(*region.header_) {}
    bool broken() const { return header_.changing.load(std::memory_order_relaxed) != 0; }
    bool usable() const { return *this && !broken(); }

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

  Process owner_of(const Entry *entry) const {
    return {__atomic_load_n(&entry->owner.number, __ATOMIC_RELAXED), entry->owner.started};
  }

  void list(List &list, Entry *entry) {
    entry->newer = 0;
    entry->older = list.newest;
    (list.newest ? at(list.newest)->newer : list.oldest) = offset(entry);
    list.newest = offset(entry);
  }

  void unlist(List &list, Entry *entry) {
    (entry->newer ? at(entry->newer)->older : list.newest) = entry->older;
    (entry->older ? at(entry->older)->newer : list.oldest) = entry->newer;
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
    unlist(entry->loading ? header_->loading : header_->loaded, entry);
    header_->members -= !entry->loading;
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
      if (h.loaded.oldest == 0) return Claim::kFull;
      drop(at(h.loaded.oldest));
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
  // Of this process.
  std::atomic<bool> table_in_vain_{false}, growing_in_vain_{false}, writing_in_vain_{false};
  std::atomic<std::chrono::steady_clock::rep> swept_{0};
};

}  // namespace archivestream::shared
