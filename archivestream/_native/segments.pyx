# distutils: language = c++
"""zstd: the blocks of an index, made while the file is decoded block by block.

A frame that decodes to no more than the spacing is one block of the index. A larger one is cut into segments at the
boundaries of its own blocks, and each segment gets what it takes to begin decoding there: see `checkpoints`.

That is a few percent of the file, for the budget of which the spacing grows a little. But where a file says the same
over and over, each segment may need all of a window that has cost the file next to nothing; so there is a bound, too,
in bytes of the file that have been read, for which segments grow as far as one can still be decoded to read from it.
"""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from archivestream._native.checkpoints cimport AUX_VERSION, FEWEST_CONTENT, LARGEST_INDEXED, restore_entropy
from archivestream._native.codecs cimport (
    BAD_DATA, BAD_INDEX, NO_MEMORY, OK, OVER_LIMIT, UNSUPPORTED_METHOD, ZSTD, ZSTD_SEGMENT, crc32_of, zstd_bound,
    zstd_compress)
from archivestream._native.columns cimport CHECKED_BIT
from archivestream._native.entropy cimport is_expressible, reset_entropy, save_entropy
from archivestream._native.sequences cimport Sections, follow_sequences, parse_sections, take_tables
from archivestream._native.zstdscan cimport BLOCK_HEADER, COMPRESSED_BLOCK, block_size, type_of, window_of

cdef enum:
    STOP_SPACING = 512 << 10        # bytes of content between the stops of a segment
    WIDE_WINDOW = 8 << 20           # from here on, twice the spacing: each checkpoint holds more of the window
    LARGEST_FACTOR = 2              # how much the spacing grows at most, for either reason
    LARGEST_STRETCH = 1 << 10       # and to keep the bound: more than it takes from any spacing
    # How many times the spacing a segment may have where its end cannot be a checkpoint.
    LONGEST_WAIT = 4
    LONGEST_SEGMENT = 256 << 20     # bytes of content that one has at most, to keep the bound


cdef struct Range:
    uint64_t begin
    uint64_t end


@cython.final
cdef class Segmenter:
    """Cuts frames into blocks of an index. `FrameIndexer` tells it of each block that it decodes."""

    def __cinit__(self, *, uint64_t spacing, double budget, uint64_t spare):
        if spacing == 0:
            raise ValueError("the spacing of checkpoints is at least 1")
        self.spacing = spacing
        self.budget = budget
        self.spare = spare
        self.factor = self.stretch = 1

    cdef dict columns(self):
        """Return the columns of the blocks that are complete."""
        cdef size_t count = self.rows.size // sizeof(Row)
        cdef const Row *rows = <const Row *> self.rows.data
        cdef Buffer start = Buffer(8 * count)
        cdef Buffer size = Buffer(8 * count)
        cdef Buffer offset = Buffer(8 * count)
        cdef Buffer compressed_size = Buffer(8 * count)
        cdef Buffer codec = Buffer(2 * count)
        cdef Buffer flags = Buffer(2 * count)
        cdef Buffer crc32 = Buffer(4 * count)
        cdef Buffer aux_offset = Buffer(8 * (count + 1))
        cdef size_t i
        (<uint64_t *> aux_offset.data)[0] = 0
        for i in range(count):
            (<uint64_t *> start.data)[i] = rows[i].start
            (<uint64_t *> size.data)[i] = rows[i].size
            (<uint64_t *> offset.data)[i] = rows[i].offset
            (<uint64_t *> compressed_size.data)[i] = rows[i].compressed_size
            (<uint16_t *> codec.data)[i] = rows[i].codec
            (<uint16_t *> flags.data)[i] = CHECKED_BIT
            (<uint32_t *> crc32.data)[i] = rows[i].crc32
            (<uint64_t *> aux_offset.data)[i + 1] = rows[i].aux_end
        return {
            "block_start": start,
            "block_size": size,
            "block_offset": offset,
            "block_compressed_size": compressed_size,
            "block_codec": codec,
            "block_flags": flags,
            "block_crc32": crc32,
            "aux_offset": aux_offset,
            "aux": copy_bytes(&self.aux),
        }

    cdef void load(self, columns) except *:
        """Take the rows of an interrupted pass, but for the last block, with which work begins again."""
        cdef const unsigned char[::1] aux = columns["aux"]
        cdef Row row
        cdef uint64_t begin = 0
        cdef const uint8_t *data
        cdef bint stored
        names = ("block_start", "block_size", "block_offset", "block_compressed_size", "block_codec", "block_crc32")
        kinds = ("Q", "Q", "Q", "Q", "H", "I")
        lists = [memoryview(columns[name]).cast("B").cast(kind) for name, kind in zip(names, kinds)]
        ends = memoryview(columns["aux_offset"]).cast("B").cast("Q")
        count = len(lists[0])
        if any(len(values) != count for values in lists) or len(ends) != count + 1:
            raise ValueError("the columns of the blocks differ in length")
        for i in range(count):
            row.start, row.size, row.offset, row.compressed_size, row.codec, row.crc32 = [
                values[i] for values in lists]
            row.aux_end = ends[i + 1]
            if row.aux_end < begin or row.aux_end > <uint64_t> aux.shape[0]:
                raise ValueError("the column of checkpoints ends too early")
            data = &aux[0] + begin if row.aux_end > begin else NULL
            if i == count - 1:
                self.resume_row = row
                self.replaying = True
                stored = self.resume_aux.append(data, row.aux_end - begin)
            else:
                stored = self.rows.append(&row, sizeof(Row)) and self.aux.append(data, row.aux_end - begin)
            if not stored:
                raise MemoryError("cannot allocate the blocks of an index")
            begin = row.aux_end

    # ---- frames and blocks --------------------------------------------------------------------------------------

    cdef Status begin_frame(self, const FrameHeader *header, uint64_t offset, uint64_t start) noexcept nogil:
        """Begin a frame, whose header ends at an offset of the file, and its content at a place of the whole."""
        self.header = header[0]
        self.frame_offset = offset - header.size
        self.frame_start = start
        self.at = 0
        if self.replaying and self.frame_offset == self.resume_row.offset:
            # The block is a whole frame.
            self.replaying = False
            if start != self.resume_row.start or self.resume_row.codec != ZSTD:
                return BAD_INDEX
        # The matches of a frame with a dictionary reach into that, so it stays in one piece.
        self.cuttable = not header.dictionary_id and not (
            header.has_content_size and header.content_size <= self._spacing())
        self.history.clear()
        reset_entropy(&self.entropy)
        return self._open(offset)

    cdef Status before_block(self, const uint8_t *block, uint64_t offset) noexcept nogil:
        """Cut before a block of the frame where it is time, and note what the block changes and reads."""
        cdef Sections sections
        cdef Status status = OK
        if self.replaying and offset == self.resume_row.offset:
            status = self._resume(offset)
        if status != OK or self.replaying or not self.cuttable:
            return status
        sections.count = 0
        if type_of(block) == COMPRESSED_BLOCK:
            status = parse_sections(block + BLOCK_HEADER, block_size(block), &sections)
            if status != OK:
                return status
        elif block_size(block) == 0:
            return OK
        if self.at >= self.target:
            if self.aux.size > offset // 2 + self.spare:
                # What the last segment of a frame needs comes on top of that, and is no more than a window.
                status = OVER_LIMIT if self.at - self.segment_at >= LONGEST_SEGMENT else OK
            elif is_expressible(&self.entropy, sections.count, sections.modes):
                status = self._cut(offset)
            elif self.at - self.segment_at >= min(LONGEST_WAIT * self._spacing(), 2 * <uint64_t> LONGEST_SEGMENT):
                status = self._cut(offset)
                self.forced = True
        if status != OK or type_of(block) != COMPRESSED_BLOCK:
            return status
        if self.forced and sections.count:
            if not is_expressible(&self.entropy, sections.count, sections.modes):
                return UNSUPPORTED_METHOD       # no encoder repeats a table of one symbol
            self.forced = False
        status = take_tables(&self.entropy, &sections)
        if status != OK or sections.count == 0:
            return status
        memcpy(self.bits + BITS_MARGIN, sections.bits, sections.bits_size)
        self.window.at = self.at - self.segment_at
        # Behind the window's length, no match reaches back to before the segment.
        self.window.bitmap = <uint64_t *> self.bitmap.data if self.window.at < self.header.window else NULL
        return follow_sequences(&self.entropy, &sections, self.bits + BITS_MARGIN, &self.window)

    cdef Status after_block(
        self, const uint8_t *content, size_t size, uint64_t offset, bint last
    ) noexcept nogil:
        """Take the content of a block, which ends at an offset of the file."""
        cdef uint64_t reach, limit
        if self.cuttable:
            reach = self.header.window
            if self.segment_at and not self.content:
                # What comes from here on reaches back to the segment at most, which may become much longer.
                if self.at - self.segment_at >= self.header.window and not self._pack():
                    return NO_MEMORY
                reach += 0 if self.content else self.at - self.segment_at
            limit = self.header.window + self._spacing() + 2 * LARGEST_BLOCK
            if not self.history.append(content, size, reach, limit):
                return NO_MEMORY
        self.at += size
        if self.replaying:
            return OK
        if self.at - self.segment_at > LARGEST_INDEXED:
            return OVER_LIMIT       # a frame that needs a dictionary, as others are cut
        self.segment_crc = crc32_of(self.segment_crc, content, size)
        if self.cuttable:
            self.stop_crc = crc32_of(self.stop_crc, content, size)
            # The last stop stands before the checksum of the frame.
            if (last or self.at - self.stop_at >= STOP_SPACING) and not self._stop(offset):
                return NO_MEMORY
        return OK

    cdef Status end_frame(self, uint64_t offset) noexcept nogil:
        """End the frame at an offset of the file."""
        return self._close(offset, True)

    # ---- segments -----------------------------------------------------------------------------------------------

    cdef uint64_t _spacing(self) noexcept nogil:
        cdef uint64_t factor = self.factor * (2 if self.header.window >= WIDE_WINDOW else 1)
        cdef uint64_t spacing = self.spacing * min(factor, <uint64_t> LARGEST_FACTOR)
        return max(spacing, min(spacing * self.stretch, <uint64_t> LONGEST_SEGMENT))

    cdef Status _resume(self, uint64_t offset) noexcept nogil:
        """End the replay of an interrupted pass: from here on, all is noted again."""
        cdef Status status = restore_entropy(
            self.resume_aux.data, self.resume_aux.size, self.at, self.header.window, &self.entropy)
        self.replaying = False
        if status != OK or self.resume_row.codec != ZSTD_SEGMENT:
            return BAD_INDEX
        if self.frame_start + self.at != self.resume_row.start or not self.cuttable:
            return BAD_INDEX
        return self._open(offset)

    cdef Status _cut(self, uint64_t offset) noexcept nogil:
        cdef Status status = self._close(offset, False)
        return self._open(offset) if status == OK else status

    cdef Status _open(self, uint64_t offset) noexcept nogil:
        """Begin a segment here."""
        cdef uint64_t spacing = self._spacing()
        self.segment_offset = self.stop_offset = offset
        self.segment_at = self.stop_at = self.at
        self.segment_crc = self.stop_crc = 0
        self.stop_count = 0
        self.stops.clear()
        self.forced = False
        self.content = 0
        if not self.cuttable:
            return OK
        self.target = (self.at // spacing + 1) * spacing
        self.state_size = save_entropy(&self.entropy, self.state)
        self.farthest = max(self.entropy.repeats[0], max(self.entropy.repeats[1], self.entropy.repeats[2]))
        if self.farthest > window_of(self.header.window_byte):
            return BAD_DATA
        self.window.available = min(self.at, self.header.window)
        self.window.size = (self.window.available + 63) & ~<uint64_t> 63
        if not self.bitmap.reserve(self.window.size // 8 + 8):
            return NO_MEMORY
        memset(self.bitmap.data, 0, self.window.size // 8 + 8)
        return OK

    cdef bint _stop(self, uint64_t offset) noexcept nogil:
        """Note that a read of the segment may end here."""
        if self.stop_at == self.at:
            return True
        if not (self.stops.append_varint(offset - self.stop_offset)
                and self.stops.append_varint(self.at - self.stop_at) and self.stops.append(&self.stop_crc, 4)):
            return False
        self.stop_count += 1
        self.stop_offset = offset
        self.stop_at = self.at
        self.stop_crc = 0
        return True

    cdef Status _close(self, uint64_t offset, bint frame_ends) noexcept nogil:
        """End the segment here, and note its row."""
        cdef Row row
        cdef size_t before = self.aux.size
        cdef double share, own_share
        row.size = self.at - self.segment_at
        if self.replaying or row.size == 0:
            return OK
        row.start = self.frame_start + self.segment_at
        row.crc32 = self.segment_crc
        if frame_ends and self.segment_at == 0:
            row.codec = ZSTD
            row.offset = self.frame_offset
        else:
            row.codec = ZSTD_SEGMENT
            row.offset = self.segment_offset
            if not self._describe(offset):
                return NO_MEMORY
        row.compressed_size = offset - row.offset
        if row.codec == ZSTD_SEGMENT and frame_ends and self.header.has_checksum:
            row.compressed_size -= 4
        row.aux_end = self.aux.size
        if not self.rows.append(&row, sizeof(Row)):
            return NO_MEMORY
        # A checkpoint is about as large whatever the spacing: half of it costs about twice the share of the file.
        share = <double> (self.aux.size + self.others) / <double> offset
        own_share = <double> (self.aux.size - before) / <double> row.compressed_size
        if share > self.budget:
            if own_share > self.budget:
                self.factor = min(2 * self.factor, <uint64_t> LARGEST_FACTOR)
        elif own_share < self.budget / 2 and self.factor > 1:
            self.factor //= 2
        # Long before the bound is met, as it takes longer and longer segments to stay below it.
        if self.aux.size > offset // 2 + self.spare // 16 and own_share > 0.5:
            self.stretch = min(2 * self.stretch, <uint64_t> LARGEST_STRETCH)
        elif own_share < 0.25 and self.stretch > 1:
            self.stretch //= 2
        return OK

    cdef bint _describe(self, uint64_t offset) noexcept nogil:
        """Write the row of `aux`: see `checkpoints`."""
        cdef uint8_t version = AUX_VERSION
        cdef uint64_t packed
        if not (self._stop(offset) and self.aux.append(&version, 1) and self.aux.append(&self.header.window_byte, 1)
                and self.aux.append_varint(self.stop_count) and self.aux.append(self.stops.data, self.stops.size)):
            return False
        if self.segment_at == 0:
            return True
        if not (self.content or self._pack()):
            return False
        packed = zstd_bound(self.packed.size)
        if not (self.aux.append_varint(self.content) and self.aux.append_varint(self.state_size)
                and self.aux.append_varint(self.packed.size) and self.aux.reserve(self.aux.size + packed)):
            return False
        packed = zstd_compress(self.aux.data + self.aux.size, packed, self.packed.data, self.packed.size)
        self.aux.size += packed
        return packed > 0

    cdef bint _pack(self) noexcept nogil:
        """Put together what stands for the frame before the segment; False without memory."""
        cdef const uint64_t *bitmap = <const uint64_t *> self.bitmap.data
        cdef uint64_t size = self.window.size
        cdef uint64_t content = max(<uint64_t> self.farthest, <uint64_t> FEWEST_CONTENT)
        cdef uint64_t before, i, count
        cdef Range found
        cdef Range *ranges
        self.ranges.clear()
        self.packed.clear()
        found.begin = find_bit(bitmap, size, 0, False)
        while found.begin < size:
            found.end = find_bit(bitmap, size, found.begin, True)
            if not self.ranges.append(&found, sizeof(Range)):
                return False
            found.begin = find_bit(bitmap, size, found.end, False)
        ranges = <Range *> self.ranges.data
        count = self.ranges.size // sizeof(Range)
        # Every repeat offset lies in the content, whether or not the segment uses it.
        if count:
            content = max(content, size - ranges[0].begin)
        if not (self.packed.append(self.state, self.state_size) and self.packed.append_varint(count)):
            return False
        before = content
        for i in range(count):
            if not (self.packed.append_varint(before - (size - ranges[i].begin))
                    and self.packed.append_varint(ranges[i].end - ranges[i].begin)):
                return False
            before = size - ranges[i].end
        for i in range(count):
            before = ranges[i].end - ranges[i].begin
            if not self.packed.reserve(self.packed.size + before):
                return False
            self.history.copy(
                self.packed.data + self.packed.size, self.at - self.segment_at + size - ranges[i].begin, before)
            self.packed.size += before
        self.content = content
        return True


cdef Buffer copy_bytes(const Bytes *source):
    """Copy to memory that Python can own."""
    cdef Buffer copy = Buffer(source.size)
    if source.size:
        memcpy(copy.data, source.data, source.size)
    return copy
