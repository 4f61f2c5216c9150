// Decoded blocks, kept for the members that share them: least recently used out first, bounded in bytes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <new>
#include <unordered_map>

#include <unistd.h>

#include "memory.hpp"

namespace archivestream {

class BlockCache {
  struct State;

 public:
  // A block that somebody uses. Its bytes are there, and do not change, once it is ready.
  struct Entry {
    std::uint64_t key = 0;
    std::uint8_t *data = nullptr;
    std::size_t capacity = 0;
    std::size_t decoded = 0;  // bytes from its start on that are there
    std::size_t users = 0;
    bool ready = false;
    bool failed = false;
    bool listed = false;  // whoever asks for the key finds it
    std::size_t asked = 0;  // how much of it was wanted when it was made,
    bool open = false;      // and whether it is not yet known if more will be
    State *home = nullptr;
    std::list<Entry *>::iterator place;
  };

  struct Statistics {
    std::uint64_t hits, misses, bytes, blocks;
  };

  // Where the memory of blocks comes from, and goes to when the cache is dropped: the next one may take it over.
  using Take = void *(*)(std::size_t size, std::size_t *capacity);
  using Give = void (*)(void *memory, std::size_t capacity);

  BlockCache(std::size_t limit, Take take, Give give) : limit_(limit), take_(take), give_(give) {}

  ~BlockCache() {
    // No entry is in use: whoever uses one keeps the cache alive. One of the parent process is left alone.
    State *state = state_.load();
    if (state != nullptr && state->process == getpid()) {
      for (Entry *entry : state->order) {
        give_(entry->data, entry->capacity);
        delete entry;
      }
      delete state;
    }
  }

  // An entry of a block that holds `upto` bytes or more of it, ready; or one that is not, which the caller fills and
  // then publishes or abandons (the entry has room for `size` bytes). Waits where another thread is filling it. `more` is
  // set where the block was there, but not so much of it; and where something begins in the part that is wanted (it is
  // not only the end of what began before), and half of the blocks like it have been wanted further before they were
  // dropped. No memory: nullptr.
  Entry *acquire(std::uint64_t key, std::size_t upto, std::size_t size, bool begins, bool *more) noexcept try {
    State *state = here();
    if (state == nullptr) return nullptr;
    std::unique_lock<std::mutex> lock(state->mutex);
    for (;;) {
      auto found = state->entries.find(key);
      if (found == state->entries.end()) break;
      Entry *entry = found->second;
      ++entry->users;
      state->changed.wait(lock, [entry] { return entry->ready || entry->failed; });
      if (entry->ready && entry->decoded >= upto) {
        // Another who waited may have wanted more of it, and dropped it.
        if (entry->listed) state->order.splice(state->order.begin(), state->order, entry->place);
        ++state->hits;
        if (upto > entry->asked) settle(state, entry, true);
        return entry;
      }
      if (entry->ready) {
        *more = true;
        settle(state, entry, true);
        unlist(state, entry);
      }
      leave(state, entry);
    }
    Entry *entry = make(state, key, size);
    if (entry == nullptr) return nullptr;
    ++state->misses;
    entry->asked = upto;
    entry->open = begins && upto < size && !*more;
    if (entry->open) *more = 2 * state->further >= state->settled;
    return entry;
  } catch (const std::bad_alloc &) {
    return nullptr;
  }

  // An entry that is ready and holds so much, or nullptr.
  Entry *find(std::uint64_t key, std::size_t upto) noexcept {
    State *state = here();
    if (state == nullptr) return nullptr;
    std::lock_guard<std::mutex> lock(state->mutex);
    auto found = state->entries.find(key);
    if (found == state->entries.end() || !found->second->ready || found->second->decoded < upto) return nullptr;
    ++found->second->users;
    state->order.splice(state->order.begin(), state->order, found->second->place);
    ++state->hits;
    if (upto > found->second->asked) settle(state, found->second, true);
    return found->second;
  }

  void publish(Entry *entry, std::size_t decoded) noexcept {
    State *state = entry->home;
    std::lock_guard<std::mutex> lock(state->mutex);
    entry->decoded = decoded;
    entry->ready = true;
    state->changed.notify_all();
  }

  // It could not be filled: who waits for it tries it for himself.
  void abandon(Entry *entry) noexcept {
    State *state = entry->home;
    std::lock_guard<std::mutex> lock(state->mutex);
    entry->failed = true;
    entry->open = false;
    unlist(state, entry);
    leave(state, entry);
    state->changed.notify_all();
  }

  void release(Entry *entry) noexcept {
    State *state = entry->home;
    if (state->process != getpid()) return;  // of the parent process, whose locks are not ours
    std::lock_guard<std::mutex> lock(state->mutex);
    leave(state, entry);
    while (state->bytes > limit_ && drop_oldest(state, 0, nullptr, nullptr)) {
    }
  }

  Statistics statistics() noexcept {
    State *state = here();
    if (state == nullptr) return {};
    std::lock_guard<std::mutex> lock(state->mutex);
    return {state->hits, state->misses, state->bytes, state->entries.size()};
  }

 private:
  struct State {
    pid_t process = 0;
    std::mutex mutex;
    std::condition_variable changed;
    std::unordered_map<std::uint64_t, Entry *> entries;
    std::list<Entry *> order;  // the most recently used first
    std::uint64_t bytes = 0, hits = 0, misses = 0;
    std::uint64_t settled = 1, further = 1;  // of the last blocks of which a part was wanted, how many were wanted further
  };

  // What this process keeps. A forked child begins with nothing: a thread that is not here may hold the lock, or
  // have been filling an entry.
  State *here() noexcept {
    State *state = state_.load(std::memory_order_acquire);
    while (state == nullptr || state->process != getpid()) {
      State *fresh = new (std::nothrow) State;
      if (fresh == nullptr) return nullptr;
      fresh->process = getpid();
      if (state_.compare_exchange_strong(state, fresh)) return fresh;
      delete fresh;
    }
    return state;
  }

  static void destroy(Entry *entry) {
    archivestream::release(entry->data, entry->capacity);
    delete entry;
  }

  // It is known now whether more of a block was wanted than at first.
  static void settle(State *state, Entry *entry, bool further) {
    if (!entry->open) return;
    entry->open = false;
    ++state->settled;
    if (further) ++state->further;
    if (state->settled == kRemembered) {
      state->settled /= 2;
      state->further /= 2;
    }
  }

  static void unlist(State *state, Entry *entry) {
    if (!entry->listed) return;
    settle(state, entry, false);
    state->entries.erase(entry->key);
    state->order.erase(entry->place);
    entry->listed = false;
  }

  static void leave(State *state, Entry *entry) {
    if (--entry->users == 0 && !entry->listed) {
      state->bytes -= entry->capacity;
      destroy(entry);
    }
  }

  // Drop the entry that nobody uses and nobody has used for longest; false where all are in use. Its memory is handed
  // over where it fits `wanted` bytes with not too much to spare: new pages cost more than the decoding of some blocks.
  static bool drop_oldest(State *state, std::size_t wanted, std::uint8_t **data, std::size_t *capacity) {
    for (auto at = state->order.rbegin(); at != state->order.rend(); ++at) {
      Entry *entry = *at;
      if (entry->users != 0) continue;
      unlist(state, entry);
      state->bytes -= entry->capacity;
      if (data != nullptr && entry->capacity >= wanted && entry->capacity / 2 <= wanted) {
        *data = entry->data;
        *capacity = entry->capacity;
        entry->data = nullptr;
      }
      destroy(entry);
      return true;
    }
    return false;
  }

  Entry *make(State *state, std::uint64_t key, std::size_t size) {
    // A size class, so that the memory of one block serves another.
    std::size_t capacity = kExact ? size : (size + 65535) & ~std::size_t{65535};
    std::uint8_t *data = nullptr;
    while (data == nullptr && state->bytes + capacity > limit_ && drop_oldest(state, capacity, &data, &capacity)) {
    }
    auto *entry = new (std::nothrow) Entry;
    if (data == nullptr) data = static_cast<std::uint8_t *>(take_(capacity, &capacity));
    if (entry == nullptr || data == nullptr) {
      archivestream::release(data, capacity);
      delete entry;
      return nullptr;
    }
    entry->key = key;
    entry->data = data;
    entry->capacity = capacity;
    entry->users = 1;
    entry->home = state;
    try {
      state->order.push_front(entry);
      entry->place = state->order.begin();
      state->entries.emplace(key, entry);
    } catch (const std::bad_alloc &) {
      if (!state->order.empty() && state->order.front() == entry) state->order.pop_front();
      destroy(entry);
      throw;
    }
    entry->listed = true;
    state->bytes += capacity;
    return entry;
  }

  static constexpr std::uint64_t kRemembered = 64;

  const std::size_t limit_;
  const Take take_;
  const Give give_;
  std::atomic<State *> state_{nullptr};
};

}  // namespace archivestream
