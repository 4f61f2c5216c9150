"""Memory with an owner: aligned, exported through the buffer protocol, and recycled between batches.

A large block that malloc gets from the kernel costs a page fault for each 4 KiB on first touch, which for
a batch of samples is a good part of the time that decoding takes. Freed batch buffers are therefore kept,
a few of them and up to `RECYCLED_BYTES` in all, and the next batch of about that size takes one over. While buffers are
in use, as many bytes as they have are kept, too: a loader has several batches under way, and each follows one that was
freed.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memset

cdef extern from "memory.hpp":
    """
    #include <atomic>
    #include <cstdint>
    #include <cstdlib>

    namespace archivestream {

    // Below this, malloc does not ask the kernel.
    constexpr std::size_t kSmallestRecycled = kExact ? SIZE_MAX : 256 << 10;
    constexpr std::size_t kRecycledBytes = std::size_t{64} << 20;
    constexpr int kRecycledBlocks = 16;

    // Freed blocks, oldest first. The lock is only ever tried: a thread that finds it taken (also for good,
    // in a child forked while another thread held it) goes without.
    struct Recycler {
      std::atomic_flag busy = ATOMIC_FLAG_INIT;
      struct Block {
        void *memory;
        std::size_t capacity;
      } blocks[kRecycledBlocks];
      int count = 0;
      std::size_t bytes = 0;
      std::atomic<std::size_t> in_use{0};  // bytes of buffers that somebody has

      void *take(std::size_t size, std::size_t *capacity) {
        void *found = nullptr;
        if (size >= kSmallestRecycled && !busy.test_and_set(std::memory_order_acquire)) {
          for (int i = count - 1; i >= 0 && !found; --i) {
            // At most a quarter of a block goes unused.
            if (blocks[i].capacity >= size && blocks[i].capacity - size <= blocks[i].capacity / 4) {
              found = blocks[i].memory;
              *capacity = blocks[i].capacity;
              remove(i);
            }
          }
          busy.clear(std::memory_order_release);
        }
        if (!found) {
          *capacity = size ? size : 1;
          found = allocate(*capacity);
        }
        return found;
      }

      void give(void *memory, std::size_t capacity) {
        decltype(blocks) dropped;
        int drops = 0;
        bool kept = false;
        const std::size_t used = in_use.load(std::memory_order_relaxed);
        const std::size_t limit = used > kRecycledBytes ? used : kRecycledBytes;
        if (capacity >= kSmallestRecycled && capacity <= limit && !busy.test_and_set(std::memory_order_acquire)) {
          while (count == kRecycledBlocks || bytes + capacity > limit) {
            dropped[drops++] = blocks[0];
            remove(0);
          }
          blocks[count].memory = memory;
          blocks[count].capacity = capacity;
          ++count;
          bytes += capacity;
          kept = true;
          busy.clear(std::memory_order_release);
        }
        for (int i = 0; i < drops; ++i) release(dropped[i].memory, dropped[i].capacity);
        if (!kept) release(memory, capacity);
      }

     private:
      void remove(int at) {
        bytes -= blocks[at].capacity;
        for (--count; at < count; ++at) blocks[at] = blocks[at + 1];
      }
    };

    static Recycler recycler;

    // glibc gives the top of the heap back to the kernel whenever more than 128 KiB of it are free, and a batch
    // of `bytes` objects then pays the page faults of all its memory each time. It raises that threshold by
    // itself once a program has freed a large block (mallopt(3), M_MMAP_THRESHOLD): free one.
    inline void settle_malloc() {
    #ifdef __GLIBC__
      static const bool settled = [] {
        // Just under the 32 MiB up to which it does so; never touched. Volatile, or the compiler drops the pair.
        void *volatile block = std::malloc(std::size_t{31} << 20);
        std::free(block);
        return true;
      }();
      (void)settled;
    #endif
    }

    }  // namespace archivestream
    """
    size_t count_use "archivestream::recycler.in_use.fetch_add"(size_t size) noexcept nogil
    size_t uncount_use "archivestream::recycler.in_use.fetch_sub"(size_t size) noexcept nogil
    void *cpp_take "archivestream::recycler.take"(size_t size, size_t *capacity) noexcept nogil
    void cpp_give "archivestream::recycler.give"(void *memory, size_t capacity) noexcept nogil
    void cpp_settle_malloc "archivestream::settle_malloc"() noexcept nogil
    size_t cpp_recycled_bytes "archivestream::kRecycledBytes"
    size_t cpp_alignment "archivestream::kAlignment"

RECYCLED_BYTES = cpp_recycled_bytes
ALIGNMENT = cpp_alignment


cdef void settle_malloc() noexcept nogil:
    """Keep the memory of a batch of `bytes` objects for the next one."""
    cpp_settle_malloc()


cdef void *take_memory(size_t size, size_t *capacity) noexcept nogil:
    """Get memory, recycled where there is some of about that size; NULL where there is none."""
    return cpp_take(size, capacity)


cdef void give_memory(void *memory, size_t capacity) noexcept nogil:
    """Give such memory back, to be recycled."""
    cpp_give(memory, capacity)


@cython.final
cdef class Buffer:
    """Writable bytes, not initialised, aligned to `ALIGNMENT` where they were allocated here (not adopted).

    Parameters
    ----------
    size : int
        Number of bytes.

    Raises
    ------
    MemoryError
        If there is not so much memory.
    """

    def __cinit__(self, size_t size=0):
        self.size = size
        self.data = <uint8_t *> cpp_take(size, &self.capacity)
        if self.data == NULL:
            raise MemoryError(f"cannot allocate {size} bytes")
        count_use(self.capacity)

    def __dealloc__(self):
        if self.adopted:
            free(self.data)
        elif self.data != NULL:
            uncount_use(self.capacity)
            cpp_give(self.data, self.capacity)

    @staticmethod
    cdef Buffer adopt(void *memory, size_t size):
        """Own a block of malloc; NULL is an empty buffer."""
        cdef Buffer self = Buffer(0)
        if memory == NULL:
            return self
        uncount_use(self.capacity)
        cpp_give(self.data, self.capacity)
        self.data = <uint8_t *> memory
        self.size = size
        self.capacity = size
        self.adopted = True
        return self

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, <Py_ssize_t> self.size, 0, flags)


def clear_tails(uint8_t[:, ::1] rows not None, const int64_t[::1] lengths not None):
    """Set what lies behind the first `lengths[i]` bytes of each row to zero."""
    cdef Py_ssize_t width = rows.shape[1]
    cdef Py_ssize_t i
    if lengths.shape[0] != rows.shape[0]:
        raise ValueError("a length for each row")
    with nogil:
        for i in range(rows.shape[0]):
            if 0 <= lengths[i] < width:
                memset(&rows[i, lengths[i]], 0, width - lengths[i])
