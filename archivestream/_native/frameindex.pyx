# distutils: language = c++
"""zstd: from a compressed file, fed in pieces, to its content and the blocks of its index, in one pass.

Every block of every frame is decoded with libzstd, which verifies the checksums of the frames. What the index needs to
know of them is noted beside it: see `segments`.
"""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from archivestream._native.buffers cimport Buffer
from archivestream._native.checkpoints cimport DICTIONARY_MAGIC, FEWEST_CONTENT
from archivestream._native.codecs cimport (
    BAD_DATA, BAD_INDEX, DICTIONARY_REQUIRED, LARGEST_WINDOW_LOG, NO_MEMORY, OK, OVER_LIMIT, TOO_FEW_BYTES,
    TOO_MANY_BYTES, TRAILING_BYTES, TRUNCATED, WINDOW_TOO_LARGE, Status, ZSTD_DCtx, ZSTD_DDict, begin_frame,
    decode_some, free_dictionary, free_stream, new_dictionary, new_stream)
from archivestream._native.loads cimport u32
from archivestream._native.segments cimport Bytes, Segmenter, copy_bytes
from archivestream._native.zstdscan cimport (
    BLOCK_HEADER, LARGEST_BLOCK, RESERVED_BLOCK, RLE_BLOCK, SKIPPABLE_HEADER, FrameHeader, block_size, is_frame,
    is_last, is_skippable, parse_frame_header, span_of_block, type_of)

cdef enum:
    PIECE = 1 << 20                 # bytes of content that come at a time, and at most a block more
    LARGEST_DICTIONARY = 32 << 20

cdef uint64_t UNKNOWN = 0xFFFFFFFFFFFFFFFFULL       # a content size; libzstd takes one of that value for none, too

# What comes next in the file.
cdef enum Place:
    A_FRAME = 0
    SKIPPED = 1         # the rest of a skippable frame
    A_BLOCK = 2
    A_CHECKSUM = 3


@cython.final
cdef class FrameIndexer:
    """Decodes a file of zstd frames, and makes the blocks of its index.

    Parameters
    ----------
    spacing : int
        Bytes of content from checkpoint to checkpoint; twice as many where the window is 8 MiB or more.
    max_window : int
        The largest window that is accepted, in bytes.
    budget : float
        The size that the index may have, as a fraction of the file's. The spacing grows, up to 4 times, while
        they have more.
    spare : int
        Bytes that checkpoints may have besides half of those of the file: so far, the spacing grows as it must.
    resume : mapping of str to buffer, optional
        What `snapshot` returned: the file is decoded from its beginning all the same, but checkpoints are made from the
        last block on only.

    Attributes
    ----------
    status : int
        `Status.OK`, or what is wrong with the file: no more pieces come then.
    offset : int
        How far the file has been read; with a fault, where the faulty part begins.
    detail : int
        With WINDOW_TOO_LARGE the window in bytes; with DICTIONARY_REQUIRED, and with OVER_LIMIT (there is no place to
        begin decoding that does not cost too much) where it is for a dictionary, the id of that.
    size : int
        Bytes of content so far.

    Notes
    -----
    ``feed`` it with the next bytes of the file, call ``next`` until it returns None, and begin again; ``finish`` at the
    end. Memory: the window, the longest segment, and a bitmap of an eighth of the window, as data really come.

    Not thread-safe: one thread feeds it.
    """

    cdef uint64_t max_window
    cdef Segmenter segments
    # ---- input and output
    cdef const unsigned char[::1] fed
    cdef size_t fed_at
    cdef Bytes carry                # the beginning of a part that the bytes fed so far end in
    cdef Buffer output
    cdef size_t written
    cdef readonly Status status
    cdef readonly uint64_t offset, detail, size
    # ---- frames
    cdef Place place
    cdef uint64_t skip
    cdef FrameHeader header
    cdef uint64_t frame_start       # in the content of the file
    cdef uint64_t declared          # the size of the frame, by its header
    cdef ZSTD_DCtx *stream
    cdef ZSTD_DDict *dictionary
    cdef Bytes dictionary_data

    def __cinit__(
        self, *, uint64_t spacing=4 << 20, uint64_t max_window=128 << 20, double budget=0.05,
        uint64_t spare=256 << 20, resume=None
    ):
        self.segments = Segmenter(spacing=spacing, budget=budget, spare=spare)
        if resume is not None:
            self.segments.load(resume)
        self.max_window = min(max_window, <uint64_t> 1 << LARGEST_WINDOW_LOG)
        self.fed = b""
        self.stream = new_stream()
        if self.stream == NULL:
            raise MemoryError("cannot allocate a zstd decoder")

    def __dealloc__(self):
        free_stream(self.stream)
        free_dictionary(self.dictionary)

    def feed(self, const unsigned char[::1] data not None):
        """Take the next bytes of the file; ``next`` reads them, so they must not change meanwhile."""
        if self.fed_at < <size_t> self.fed.shape[0] and self.status == OK:
            raise ValueError("the bytes before these have not been read: call next() until it returns None")
        self.fed = data
        self.fed_at = 0

    def next(self):
        """Return the next piece of the content, up to about 1 MiB; None where more bytes must be fed."""
        if self.status != OK:
            return None
        if self.output is None:
            self.output = Buffer(PIECE + LARGEST_BLOCK)
        self.written = 0
        with nogil:
            while self.written < PIECE and self.status == OK and self._advance():
                pass
        if self.written == 0:
            return None
        piece = self.output
        piece.size = self.written
        self.output = None
        return piece

    def finish(self):
        """Return the columns of all blocks, or None where the file is faulty: see `status`."""
        if self.status == OK:
            if self.place != A_FRAME or self.offset == 0:
                self.status = TRUNCATED
            elif self.carry.size:
                self.status = TRUNCATED if self._may_be_frame() else TRAILING_BYTES
            elif self.segments.replaying:
                self.status = BAD_INDEX
        return self.snapshot() if self.status == OK else None

    def count(self, uint64_t others):
        """Say how many bytes the index has so far that are not checkpoints: they count for the budget."""
        self.segments.others = others

    def snapshot(self):
        """Return the columns of the blocks that are complete.

        Returns
        -------
        dict of str to Buffer
            ``block_start``, ``block_size``, ``block_offset``, ``block_compressed_size``, ``aux_offset`` (uint64; one
            row more than there are blocks), ``block_codec``, ``block_flags`` (uint16), ``block_crc32`` (uint32),
            ``aux`` (bytes) and, where frames need the dictionary that the file carries, ``dictionary`` (bytes).
        """
        columns = self.segments.columns()
        if self.dictionary != NULL:
            columns["dictionary"] = copy_bytes(&self.dictionary_data)
        return columns

    # ---- input --------------------------------------------------------------------------------------------------

    cdef const uint8_t *_take(self, size_t count) noexcept nogil:
        """Look at the next bytes, as they were fed or put together; NULL where more must be fed."""
        cdef size_t left = self.fed.shape[0] - self.fed_at
        cdef size_t more
        if self.carry.size == 0 and left >= count:
            return &self.fed[self.fed_at]
        if self.carry.size < count:
            more = min(count - self.carry.size, left)
            if more and not self.carry.append(&self.fed[self.fed_at], more):
                self.status = NO_MEMORY
                return NULL
            self.fed_at += more
        return self.carry.data if self.carry.size >= count else NULL

    cdef void _done(self, size_t count) noexcept nogil:
        """Go past the bytes that `_take` returned."""
        if self.carry.size:
            self.carry.clear()
        else:
            self.fed_at += count
        self.offset += count

    cdef bint _fault(self, Status status, uint64_t detail=0) noexcept nogil:
        self.status = status
        self.detail = detail
        return False

    cdef bint _check(self, Status status) noexcept nogil:
        return True if status == OK else self._fault(status, self.header.dictionary_id if status == OVER_LIMIT else 0)

    cdef bint _may_be_frame(self) noexcept nogil:
        """Whether the bytes left over at the end can be the beginning of a frame."""
        cdef uint8_t[4] magic
        cdef size_t given = min(<size_t> 4, self.carry.size)
        magic[0], magic[1], magic[2], magic[3] = 0x28, 0xB5, 0x2F, 0xFD
        memcpy(magic, self.carry.data, given)
        if is_frame(magic):
            return True
        magic[1], magic[2], magic[3] = 0x2A, 0x4D, 0x18
        memcpy(magic, self.carry.data, given)
        return is_skippable(magic)

    cdef bint _advance(self) noexcept nogil:
        """Read the next part of the file; False where more bytes must be fed, or there is a fault."""
        cdef size_t more
        if self.place == A_BLOCK:
            return self._block()
        if self.place == A_FRAME:
            return self._begin()
        if self.place == A_CHECKSUM:
            return self._checksum()
        more = min(self.skip, <uint64_t> self.fed.shape[0] - self.fed_at)
        self.fed_at += more
        self.offset += more
        self.skip -= more
        if self.skip == 0:
            self.place = A_FRAME
        return self.skip == 0

    # ---- frames -------------------------------------------------------------------------------------------------

    cdef bint _begin(self) noexcept nogil:
        cdef const uint8_t *data = self._take(4)
        cdef size_t written
        cdef bint ended
        cdef Status status
        if data == NULL:
            return False
        if is_skippable(data):
            return self._skippable()
        if not is_frame(data):
            return self._fault(TRAILING_BYTES if self.offset else BAD_DATA)
        data = self._take(5)
        if data == NULL:
            return False
        status = parse_frame_header(data, 5, &self.header)
        if status == TRUNCATED:
            data = self._take(self.header.size)
            if data == NULL:
                return False
            status = parse_frame_header(data, self.header.size, &self.header)
        if status != OK:
            return self._fault(status)
        if self.header.window > self.max_window:
            return self._fault(WINDOW_TOO_LARGE, self.header.window)
        if self.header.dictionary_id and not self._find_dictionary():
            return False
        begin_frame(self.stream, self.dictionary if self.header.dictionary_id else NULL)
        status = decode_some(self.stream, data, self.header.size, self.output.data, 0, &written, &ended)
        if status != OK:
            return self._fault(status)
        self._done(self.header.size)
        self.place = A_BLOCK
        self.frame_start = self.size
        self.declared = self.header.content_size if self.header.has_content_size else UNKNOWN
        if not self.header.has_content_size:
            self._bound_content()
        return self._check(self.segments.begin_frame(&self.header, self.offset, self.size))

    cdef void _bound_content(self) noexcept nogil:
        """Take the most that the frame can decode to for its size, where all of it is there: a small one is not cut."""
        cdef size_t n = self.fed.shape[0]
        cdef size_t at = self.fed_at
        cdef uint64_t most = 0
        cdef const uint8_t *block
        while n - at >= BLOCK_HEADER:
            block = &self.fed[at]
            most += LARGEST_BLOCK
            if span_of_block(block) > n - at:
                return
            at += span_of_block(block)
            if is_last(block):
                self.header.has_content_size = True
                self.header.content_size = most
                return

    cdef bint _skippable(self) noexcept nogil:
        """Go past a skippable frame (3.1.2), unless it holds a dictionary that no frame was in need of before."""
        cdef const uint8_t *data = self._take(SKIPPABLE_HEADER)
        cdef uint32_t size
        if data == NULL:
            return False
        size = u32(data + 4)
        if self.dictionary == NULL and FEWEST_CONTENT <= size <= LARGEST_DICTIONARY:
            data = self._take(SKIPPABLE_HEADER + 4)
            if data == NULL:
                return False
            if u32(data + SKIPPABLE_HEADER) == DICTIONARY_MAGIC:
                data = self._take(SKIPPABLE_HEADER + <size_t> size)
                if data == NULL:
                    return False
                self.dictionary_data.clear()
                if not self.dictionary_data.append(data + SKIPPABLE_HEADER, size):
                    return self._fault(NO_MEMORY)
                self._done(SKIPPABLE_HEADER + <size_t> size)
                return True
        self.skip = SKIPPABLE_HEADER + <uint64_t> size
        if self.carry.size:
            # What has been put together counts as passed.
            self.skip -= self.carry.size
            self._done(self.carry.size)
        self.place = SKIPPED
        return True

    cdef bint _find_dictionary(self) noexcept nogil:
        """Make ready the dictionary that the frame names."""
        if self.dictionary_data.size == 0 or u32(self.dictionary_data.data + 4) != self.header.dictionary_id:
            return self._fault(DICTIONARY_REQUIRED, self.header.dictionary_id)
        if self.dictionary == NULL:
            self.dictionary = new_dictionary(self.dictionary_data.data, self.dictionary_data.size)
        if self.dictionary == NULL:
            return self._fault(BAD_DATA)
        return True

    cdef bint _block(self) noexcept nogil:
        cdef const uint8_t *data = self._take(BLOCK_HEADER)
        cdef size_t span
        cdef size_t written = 0
        cdef uint8_t *content = self.output.data + self.written
        cdef uint8_t[BLOCK_HEADER] empty
        cdef bint ended = False
        cdef bint last
        cdef Status status
        if data == NULL:
            return False
        if type_of(data) == RESERVED_BLOCK or block_size(data) > LARGEST_BLOCK:
            return self._fault(BAD_DATA)
        span = span_of_block(data)
        data = self._take(span)
        if data == NULL:
            return False
        last = is_last(data) != 0
        if not self._check(self.segments.before_block(data, self.offset)):
            return False
        if type_of(data) == RLE_BLOCK and block_size(data) == 0:
            # libzstd counts the byte that is repeated against the size of the frame, which may be 0 as well.
            empty[0], empty[1], empty[2] = last, 0, 0
            status = decode_some(self.stream, empty, BLOCK_HEADER, content, LARGEST_BLOCK, &written, &ended)
        else:
            status = decode_some(self.stream, data, span, content, LARGEST_BLOCK, &written, &ended)
        if status != OK:
            return self._fault(status)
        if ended != (last and not self.header.has_checksum):
            return self._fault(BAD_DATA)
        self.size += written
        self.written += written
        self._done(span)
        if not self._check(self.segments.after_block(content, written, self.offset, last)):
            return False
        if not last:
            return True
        if self.header.has_checksum:
            self.place = A_CHECKSUM
            return True
        return self._end()

    cdef bint _checksum(self) noexcept nogil:
        cdef const uint8_t *data = self._take(4)
        cdef size_t written
        cdef bint ended
        cdef Status status
        if data == NULL:
            return False
        status = decode_some(self.stream, data, 4, self.output.data, 0, &written, &ended)
        if status != OK or not ended:
            return self._fault(status if status != OK else BAD_DATA)
        self._done(4)
        return self._end()

    cdef bint _end(self) noexcept nogil:
        cdef uint64_t found = self.size - self.frame_start
        # Where the last block is empty, libzstd does not compare them.
        if self.declared != UNKNOWN and found != self.declared:
            return self._fault(TOO_FEW_BYTES if found < self.declared else TOO_MANY_BYTES)
        self.place = A_FRAME
        return self._check(self.segments.end_frame(self.offset))
