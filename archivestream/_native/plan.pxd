from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from archivestream._native.codecs cimport Status

cdef extern from *:
    """
    #include <atomic>
    #include <cstdint>

    // Spans are learned by whichever thread comes first; all would write the same value.
    static inline std::uint32_t load_span(const std::uint32_t *at) {
      return reinterpret_cast<const std::atomic<std::uint32_t> *>(at)->load(std::memory_order_relaxed);
    }
    static inline void store_span(std::uint32_t *at, std::uint32_t span) {
      reinterpret_cast<std::atomic<std::uint32_t> *>(at)->store(span, std::memory_order_relaxed);
    }
    """
    uint32_t load_span(const uint32_t *at) noexcept nogil
    void store_span(uint32_t *at, uint32_t span) noexcept nogil


cdef enum:
    LARGEST_PREFIX = 4096       # bytes that `Plan.skip` may leave out
    LONGEST_EXTRA = 0xFFFF      # bytes of a local extra field


# A place to read from. A source with neither a descriptor nor memory is read by the caller, who hands the bytes
# over with each task.
cdef struct Source:
    int fd                      # -1: not a file
    const uint8_t *memory       # NULL: not in memory
    uint64_t size
    uint64_t data_end           # blocks end here or before


# The columns of an index, as native code sees them, and what was learned while reading.
cdef struct Columns:
    uint64_t n
    const uint64_t *offset
    const uint64_t *compressed_size
    const uint64_t *size
    const uint16_t *codec
    const uint16_t *flags
    const uint32_t *crc32
    const uint64_t *name_offset
    const uint8_t *names
    uint64_t n_raw
    const uint32_t *raw_member
    const uint64_t *raw_offset
    const uint8_t *raw_names
    const uint32_t *successor   # NULL: the blocks lie in the file in the order of the index
    uint32_t n_sources
    const uint64_t *first_block     # of each source, and the end of the last
    const Source *sources
    uint32_t *spans             # how far the data of a block lie behind its local header; 0: not read yet
    uint64_t largest            # limit on the size of a member
    bint strict                 # compressed bytes after the end of a stream are an error
    bint allow_overlap


# One block, and where its bytes go.
cdef struct Task:
    uint64_t begin              # of the range of the source to read
    uint64_t end
    const uint8_t *input        # the range, where the caller has fetched it
    uint8_t *target             # NULL: decoded and checked, not kept
    uint32_t block
    uint32_t source
    uint32_t position           # in the caller's order
    int32_t error               # errno, with READ_FAILED
    Status status


# Tasks whose ranges lie together, read at once.
cdef struct Group:
    size_t begin
    size_t end


cdef struct Plan:
    const Columns *columns
    Task *tasks
    size_t n
    Group *groups
    size_t n_groups
    bint verify                 # check the CRC-32
    bint raw                    # keep the compressed bytes: nothing is decoded or checked
    size_t skip                 # leave out so many bytes at the start of each member …
    const uint8_t *prefix       # … which must be these
    uint8_t *room               # targets above this have room for the skipped bytes in front of them


cdef Status admit(const Columns *columns, uint64_t block) noexcept nogil
cdef void locate(const Columns *columns, Task *task, bint whole) noexcept nogil
cdef Status make_groups(Plan *plan, size_t threads) noexcept nogil
cdef bint is_direct(const Plan *plan, const Task *task) noexcept nogil
cdef const uint8_t *name_of(const Columns *columns, uint32_t block, size_t *size) noexcept nogil
cdef uint32_t source_of(const Columns *columns, uint32_t block) noexcept nogil
cdef uint64_t end_of_room(const Columns *columns, const Task *task) noexcept nogil
