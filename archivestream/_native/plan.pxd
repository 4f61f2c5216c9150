from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from archivestream._native.cache cimport Blocks, Entry
from archivestream._native.codecs cimport Status, ZSTD_DDict
from archivestream._native.meter cimport MeterCounts

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
    LONGEST_NAME = 0xFFFF       # bytes of the name in a local header
    LONGEST_EXTRA = 0xFFFF      # … and of its extra field
    NO_MEMBER = 0xFFFFFFFF      # `Task.block` of a range that is no member


# How members lie in blocks that they share, and segments in their member: see `archivestream.index`.
cdef struct BlockTable:
    uint64_t n
    const uint64_t *start
    const uint64_t *size
    const uint64_t *offset
    const uint64_t *compressed_size
    const uint16_t *codec
    const uint16_t *flags
    const uint32_t *crc32
    const uint64_t *aux_offset
    const uint8_t *aux
    const uint64_t *first       # of each source, and the end of the last
    uint64_t n_segmented
    const uint32_t *segment_member
    const uint64_t *segment_first


# A place to read from. A source with neither a descriptor nor memory is read by the caller, who hands the bytes
# over with each task.
cdef struct Source:
    int fd                      # -1: not a file
    const uint8_t *memory       # NULL: not in memory
    uint64_t size
    uint64_t data_end           # blocks end here or before
    uint64_t stream_size        # of what its blocks decode to
    uint16_t layout             # `Layout`
    const ZSTD_DDict *dictionary    # of zstd, or NULL


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
    const uint64_t *first_member    # of each source, and the end of the last
    const Source *sources
    uint32_t *spans             # how far the data of a block lie behind its local header; 0: not read yet
    uint64_t largest            # limit on the size of a member
    uint64_t max_window         # … and of what a segment of zstd may need of that before it
    BlockTable blocks
    bint strict                 # compressed bytes after the end of a stream are an error
    bint allow_overlap


# One member, and where its bytes go.
cdef struct Task:
    uint64_t begin              # of the range to read: of the source, or, IN_PIECES, of the logical stream
    uint64_t end
    const uint8_t *input        # the range, where the caller has fetched it
    uint8_t *target             # NULL: decoded and checked, not kept
    uint32_t block
    uint32_t source
    uint32_t position           # in the caller's order
    uint32_t crc32              # of the pieces so far
    int32_t error               # errno, with READ_FAILED
    Status status


# The part of a member that lies in one block.
cdef struct Piece:
    uint64_t block
    uint64_t begin              # in the decoded block
    uint64_t size
    uint64_t place              # in the member
    uint32_t task
    uint32_t crc32              # of a segment, decoded
    int32_t error
    Status status


# A block that pieces lie in: decoded once for all of them.
cdef struct BlockTask:
    uint64_t block
    uint64_t upto               # bytes from its start on that are needed
    size_t first                # piece
    size_t last
    const uint8_t *input        # the compressed block, where the caller has fetched it
    Entry *entry                # where the caller has found it in the cache
    int32_t error
    Status status


# Takes a member that was read and checked, on the thread that did it: instead of a copy to a target.
ctypedef void (*Consume)(void *consumer, uint32_t position, const uint8_t *data, uint64_t size) noexcept nogil


# Says where a part of a member goes, which the consumer has not seen yet, if it is like others: so many bytes, from
# `begin` of the member on, or none. They are read straight to `target`, and `Consume` gets memory that it may write
# to, with a hole where they ought to be. The consumer finds out whether it was right, and fills the hole if not.
ctypedef uint64_t (*Foresee)(
    void *consumer, uint32_t position, uint64_t size, uint64_t *begin, uint8_t **target) noexcept nogil


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
    Piece *pieces               # in the order of their blocks
    size_t n_pieces
    BlockTask *block_tasks
    size_t n_block_tasks
    size_t done_blocks          # of them, the first ones: see `Work.start`
    Blocks *cache               # NULL: nothing is kept
    size_t cache_limit          # bytes
    MeterCounts *meter          # NULL: nothing is counted
    Consume consume             # NULL: members go to their targets
    Foresee foresee             # NULL: consumers get members whole
    void *consumer
    bint whole                  # decode blocks to their ends
    bint verify                 # check the CRC-32
    bint raw                    # keep the compressed bytes: nothing is decoded or checked
    size_t skip                 # leave out so many bytes at the start of each member …
    const uint8_t *prefix       # … which must be these
    uint8_t *room               # targets above this have room for the skipped bytes in front of them


cdef Status admit(const Columns *columns, uint64_t block) noexcept nogil
cdef void locate(const Columns *columns, Task *task, bint whole) noexcept nogil
cdef Status make_groups(Plan *plan, size_t threads) noexcept nogil
cdef bint is_foreseeable(const Plan *plan, const Task *task) noexcept nogil
cdef uint64_t length_of_data(const Columns *columns, uint64_t block) noexcept nogil
cdef bint is_direct(const Plan *plan, const Task *task) noexcept nogil
cdef const uint8_t *name_of(const Columns *columns, uint32_t block, size_t *size) noexcept nogil
cdef uint32_t source_of(const Columns *columns, uint32_t block) noexcept nogil
cdef uint64_t end_of_room(const Columns *columns, const Task *task) noexcept nogil
