# distutils: language = c++
"""An index and its sources, as native code sees them: pointers into arrays that are kept alive."""

cimport cython
from libc.stdlib cimport calloc, free

from archivestream._native.plan cimport BlockTable, Source


@cython.final
@cython.no_gc_clear    # finalizers may use it as long as it is there
cdef class IndexView:
    """The columns of an index, with the sources that they speak of.

    Parameters
    ----------
    columns : dict of str to array
        The columns of `archivestream.index.Index`.
    first_member, first_block : array of uint64, shape (len(sources) + 1,)
        The first member and the first block of each source, and the number of all.
    sources : sequence of (int, buffer or None, int, int, int, int)
        Of each source: its descriptor or -1, its bytes where they are in memory, its size, where the part that
        holds data ends, its `Layout`, and the bytes that its blocks decode to.
    owner : object
        Kept alive, too: whatever closes the descriptors.
    largest : int
        Members above this size are refused.
    max_window : int
        So are segments of zstd that need more bytes of what comes before them.
    strict : bool
        Refuse a block with bytes after the end of its compressed stream.
    allow_overlap : bool
        Read members that run into others, too.
    """

    def __cinit__(
        self, dict columns, const uint64_t[::1] first_member, const uint64_t[::1] first_block, sources,
        object owner, *, uint64_t largest, uint64_t max_window, bint strict, bint allow_overlap,
    ):
        cdef Columns *c = &self.columns
        cdef Source *source
        cdef uint64_t n = columns["size"].shape[0]
        self.owners = (owner, columns, first_member, first_block)
        self.views = []
        c.n = n
        c.offset = self._u64(columns["offset"], n)
        c.compressed_size = self._u64(columns["compressed_size"], n)
        c.size = self._u64(columns["size"], n)
        c.codec = self._u16(columns["codec"], n)
        c.flags = self._u16(columns["flags"], n)
        c.crc32 = self._u32(columns["crc32"], n)
        c.name_offset = self._u64(columns["name_offset"], n + 1)
        c.names = self._u8(columns["names"])
        if "raw_member" in columns:
            c.n_raw = columns["raw_member"].shape[0]
            c.raw_member = self._u32(columns["raw_member"], c.n_raw)
            c.raw_offset = self._u64(columns["raw_offset"], c.n_raw + 1)
            c.raw_names = self._u8(columns["raw_names"])
        if "successor" in columns:
            c.successor = self._u32(columns["successor"], n)
        c.n_sources = len(sources)
        c.first_member = self._u64(first_member, c.n_sources + 1)
        self._view_blocks(columns, first_block)
        c.sources = source = <Source *> calloc(c.n_sources + 1, sizeof(Source))
        # Zero pages until something is read.
        c.spans = <uint32_t *> calloc(n + 1, sizeof(uint32_t))
        if c.sources == NULL or c.spans == NULL:
            raise MemoryError("no memory for a reader")
        for fd, data, size, data_end, layout, stream_size in sources:
            source.fd = fd
            source.size = size
            source.data_end = min(data_end, size)
            source.layout = layout
            source.stream_size = stream_size
            if data is not None:
                source.memory = self._u8(data)
            source += 1
        c.largest = largest
        c.max_window = max_window
        c.strict = strict
        c.allow_overlap = allow_overlap

    def __dealloc__(self):
        free(<void *> self.columns.sources)
        free(self.columns.spans)

    cdef int _view_blocks(self, dict columns, const uint64_t[::1] first_block) except -1:
        cdef BlockTable *blocks = &self.columns.blocks
        blocks.first = self._u64(first_block, self.columns.n_sources + 1)
        if "block_start" not in columns:
            return 0
        blocks.n = columns["block_start"].shape[0]
        blocks.start = self._u64(columns["block_start"], blocks.n)
        blocks.size = self._u64(columns["block_size"], blocks.n)
        blocks.offset = self._u64(columns["block_offset"], blocks.n)
        blocks.compressed_size = self._u64(columns["block_compressed_size"], blocks.n)
        blocks.codec = self._u16(columns["block_codec"], blocks.n)
        blocks.flags = self._u16(columns["block_flags"], blocks.n)
        blocks.crc32 = self._u32(columns["block_crc32"], blocks.n)
        blocks.aux_offset = self._u64(columns["aux_offset"], blocks.n + 1)
        blocks.aux = self._u8(columns["aux"])
        if "segment_member" in columns:
            blocks.n_segmented = columns["segment_member"].shape[0]
            blocks.segment_member = self._u32(columns["segment_member"], blocks.n_segmented)
            blocks.segment_first = self._u64(columns["segment_first"], blocks.n_segmented + 1)
        return 0

    cdef const uint8_t *_u8(self, column) except? NULL:
        cdef const uint8_t[::1] view = column
        self.views.append(view)
        return &view[0] if view.shape[0] else <const uint8_t *> b""

    cdef const uint16_t *_u16(self, column, uint64_t n) except? NULL:
        cdef const uint16_t[::1] view = column
        self._hold(view, n)
        return &view[0] if n else NULL

    cdef const uint32_t *_u32(self, column, uint64_t n) except? NULL:
        cdef const uint32_t[::1] view = column
        self._hold(view, n)
        return &view[0] if n else NULL

    cdef const uint64_t *_u64(self, column, uint64_t n) except? NULL:
        cdef const uint64_t[::1] view = column
        self._hold(view, n)
        return &view[0] if n else NULL

    cdef int _hold(self, view, uint64_t n) except -1:
        if <uint64_t> view.shape[0] != n:
            raise ValueError(f"a column has {view.shape[0]} rows instead of {n}")
        self.views.append(view)
        return 0
