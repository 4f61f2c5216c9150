# distutils: language = c++
"""zstd: decoding a segment, a run of blocks from the middle of a frame.

libzstd decodes it as a frame of its own, with a dictionary that stands for all that came before: entropy tables,
repeat offsets, and those bytes of the window that the segment's matches read (RFC 8878, 5). All of it comes
from `aux`, a column of the index, which may come from a saved index and is checked like any other input::

    u8      version
    u8      window descriptor (3.1.1.1.2)
    varint  number of stops, at least 1; the last is the end of the segment
            for each: varint bytes of compressed data and varint bytes of decoded data since the stop before,
            u32 CRC-32 of those decoded bytes
    the rest is missing where no dictionary is needed:
    varint  size of the dictionary's content
    varint  size of its state, which stands between its id and its content
    varint  size of what follows, decompressed
            one zstd frame: the state; varint number of ranges, for each varint gap and varint length; their bytes

The ranges cover the content from its beginning, that is, up to where the segment begins. A read that
needs only the beginning of a segment decodes up to the next stop, and is verified all the same.
"""

cimport cython
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from archivestream._native.buffers cimport Buffer
from archivestream._native.codecs cimport (
    BAD_CHECKSUM, BAD_DATA, BAD_INDEX, NO_MEMORY, OK, TRUNCATED, WINDOW_TOO_LARGE, ZSTD, crc32_of, decode,
    decode_with_dictionary,
    decode_with_raw_dictionary, free_dictionary, id_of_dictionary, is_possible, new_dictionary)
from archivestream._native.loads cimport u32
from archivestream._native.entropy cimport LONGEST_STATE, load_entropy, reset_entropy
from archivestream._native.zstdscan cimport (
    BLOCK_HEADER, RESERVED_BLOCK, is_last, span_of_block, type_of, window_of)

cdef extern from "memory.hpp":      # which the next one includes
    pass

cdef extern from "scratch.hpp":
    """
    #include <sys/mman.h>

    // A dictionary is as long as the window, and nearly all of it is gaps that no match reads: the kernel gives
    // a page when it is first written to. The content goes to the end, so that pages are used again.
    struct DictionaryRoom {
      std::uint8_t *data = nullptr;
      std::size_t capacity = 0;

      std::uint8_t *reserve_end(std::size_t size) {
        if (size > capacity) {
          release();
          size = (size + 0xFFFFF) & ~std::size_t{0xFFFFF};
          const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
          void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
          if (memory == MAP_FAILED) return nullptr;
          data = static_cast<std::uint8_t *>(memory);
          capacity = size;
        }
        return data + capacity;
      }
      void trim() {
        if (capacity > (std::size_t{16} << 20)) release();
      }
      void release() {
        if (data != nullptr) munmap(data, capacity);
        data = nullptr;
        capacity = 0;
      }
      ~DictionaryRoom() { release(); }
    };
    static thread_local archivestream::Scratch unpacked;
    static thread_local DictionaryRoom dictionary_room;
    """
    uint8_t *reserve_unpacked "unpacked.reserve"(size_t size) noexcept nogil
    void trim_unpacked "unpacked.trim"() noexcept nogil
    uint8_t *reserve_dictionary "dictionary_room.reserve_end"(size_t size) noexcept nogil
    void trim_dictionary "dictionary_room.trim"() noexcept nogil

cdef enum:
    FRAME_HEADER = 10               # magic, descriptor, window descriptor, content size of 4 bytes
    DICTIONARY_HEADER = 8           # magic, id
    LONGEST_COUNT = 10              # bytes of the number of ranges, and of a first gap of 0

cdef uint32_t FRAME_MAGIC = 0xFD2FB528U
# Past any real segment; sums of so few of them cannot wrap.
cdef uint64_t LARGEST_SEGMENT = 0xFFFFFFFFULL
cdef uint8_t LARGEST_WINDOW_BYTE = (31 - 10) << 3 | 7


# What stands in `aux`, with the stop that a read needs.
cdef struct Segment:
    uint8_t window_byte
    const uint8_t *stops
    uint64_t needed                 # stops up to the one that the read needs
    uint64_t compressed_end         # of it
    uint64_t decoded_end
    const uint8_t *dictionary       # NULL: none
    const uint8_t *end


cdef inline bint _varint(const uint8_t **at, const uint8_t *end, uint64_t *value) noexcept nogil:
    cdef int shift = 0
    cdef uint8_t byte
    value[0] = 0
    while at[0] < end and shift < 63:
        byte = at[0][0]
        at[0] += 1
        value[0] |= <uint64_t> (byte & 127) << shift
        if byte < 128:
            return True
        shift += 7
    return False


cdef inline void store_u32(uint8_t *at, uint32_t value) noexcept nogil:
    cdef int i
    for i in range(4):
        at[i] = <uint8_t> (value >> 8 * i)


cdef bint _next_stop(const uint8_t **at, const uint8_t *end, uint64_t *data, uint64_t *content) noexcept nogil:
    """Go past one stop, and add what it says to where the one before was."""
    cdef uint64_t more
    if not _varint(at, end, &more) or more > LARGEST_SEGMENT - data[0]:
        return False
    data[0] += more
    if not _varint(at, end, &more) or more > LARGEST_SEGMENT - content[0]:
        return False
    content[0] += more
    if end - at[0] < 4:
        return False
    at[0] += 4
    return True


cdef Status _parse(const uint8_t *aux, size_t aux_size, uint64_t upto, Segment *segment) noexcept nogil:
    cdef const uint8_t *at
    cdef uint64_t compressed = 0
    cdef uint64_t decoded = 0
    cdef uint64_t count, i
    segment.needed = 0
    if aux_size < 2 or aux[0] != AUX_VERSION or aux[1] > LARGEST_WINDOW_BYTE:
        return BAD_INDEX
    segment.end = aux + aux_size
    segment.window_byte = aux[1]
    at = aux + 2
    if not _varint(&at, segment.end, &count):
        return BAD_INDEX
    segment.stops = at
    for i in range(count):
        if not _next_stop(&at, segment.end, &compressed, &decoded):
            return BAD_INDEX
        if segment.needed == 0 and decoded >= upto:
            segment.needed = i + 1
            segment.compressed_end = compressed
            segment.decoded_end = decoded
    if segment.needed == 0:
        return BAD_INDEX
    segment.dictionary = at if at < segment.end else NULL
    return OK


cdef Status segment_extent(
    const uint8_t *aux, size_t aux_size, uint64_t upto, uint64_t *compressed_end, uint64_t *decoded_end
) noexcept nogil:
    """Tell how much of the compressed data a read needs that ends at `upto` in the segment, and what that yields."""
    cdef Segment segment
    cdef Status status = _parse(aux, aux_size, upto, &segment)
    if status == OK:
        compressed_end[0] = segment.compressed_end
        decoded_end[0] = segment.decoded_end
    return status


cdef Status _unpack(
    const Segment *segment, uint64_t before, uint64_t max_window,
    uint64_t *content_size, uint64_t *state_size, uint64_t *size, uint8_t **data
) noexcept nogil:
    """Decompress what the dictionary is made of to the memory of this thread."""
    cdef const uint8_t *at = segment.dictionary
    cdef Status status
    if not (_varint(&at, segment.end, content_size) and _varint(&at, segment.end, state_size)
            and _varint(&at, segment.end, size)):
        return BAD_INDEX
    # A window has at least 1 KiB.
    if content_size[0] > window_of(segment.window_byte) or content_size[0] < FEWEST_CONTENT:
        return BAD_INDEX
    if content_size[0] > max(before, <uint64_t> FEWEST_CONTENT):
        return BAD_INDEX
    if content_size[0] > max(max_window, <uint64_t> FEWEST_CONTENT):
        return WINDOW_TOO_LARGE
    if state_size[0] > LONGEST_STATE or state_size[0] > size[0]:
        return BAD_INDEX
    # No more than all bytes of the content, and as many again for the ranges: none is written in more than it covers.
    if size[0] - state_size[0] > 2 * content_size[0] + LONGEST_COUNT:
        return BAD_INDEX
    if not is_possible(ZSTD, segment.end - at, size[0]):
        return BAD_INDEX
    data[0] = reserve_unpacked(size[0])
    if data[0] == NULL:
        return NO_MEMORY
    status = decode(ZSTD, at, segment.end - at, data[0], size[0])
    return OK if status == OK else NO_MEMORY if status == NO_MEMORY else BAD_INDEX


cdef Status _make_dictionary(
    const Segment *segment, uint64_t before, uint64_t max_window,
    const uint8_t **dictionary, size_t *dictionary_size
) noexcept nogil:
    """Put a dictionary together in the memory of this thread."""
    cdef uint8_t *unpacked
    cdef uint8_t *content
    cdef uint8_t *first
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef const uint8_t *ranges
    cdef uint64_t content_size, state_size, size, count, gap, length, _i
    cdef uint64_t covered = 0
    cdef uint64_t stored = 0
    cdef Status status = _unpack(segment, before, max_window, &content_size, &state_size, &size, &unpacked)
    if status != OK:
        return status
    at = unpacked + state_size
    end = unpacked + size
    if not _varint(&at, end, &count):
        return BAD_INDEX
    ranges = at
    for _i in range(count):
        if not (_varint(&at, end, &gap) and _varint(&at, end, &length)):
            return BAD_INDEX
        if gap > content_size - covered or length > content_size - covered - gap:
            return BAD_INDEX
        covered += gap + length
        stored += length
    if stored != <uint64_t> (end - at):
        return BAD_INDEX
    dictionary_size[0] = DICTIONARY_HEADER + state_size + content_size
    content = reserve_dictionary(dictionary_size[0])
    if content == NULL:
        return NO_MEMORY
    content -= content_size
    first = content - state_size - DICTIONARY_HEADER
    store_u32(first, DICTIONARY_MAGIC)
    store_u32(first + 4, 1)     # any id but 0
    memcpy(first + DICTIONARY_HEADER, unpacked, state_size)
    for _i in range(count):
        _varint(&ranges, end, &gap)
        _varint(&ranges, end, &length)
        content += gap
        memcpy(content, at, length)
        content += length
        at += length
    dictionary[0] = first
    return OK


cdef Status _make_frame(const Segment *segment, uint8_t *data) noexcept nogil:
    """Write a header before the blocks that a read needs, and an empty last block behind them."""
    cdef uint64_t at = 0
    cdef uint64_t left
    cdef uint32_t size
    cdef uint8_t *header = data - FRAME_HEADER
    while at < segment.compressed_end:
        left = segment.compressed_end - at
        if left < BLOCK_HEADER or type_of(data + at) == RESERVED_BLOCK:
            return BAD_DATA
        size = span_of_block(data + at)
        if size > left or (is_last(data + at) and size < left):
            return BAD_DATA
        data[at] &= 0xFE
        at += size
    data[at], data[at + 1], data[at + 2] = 1, 0, 0
    store_u32(header, FRAME_MAGIC)
    header[4] = 0x80        # content size of 4 bytes, no checksum, no dictionary id
    header[5] = segment.window_byte
    store_u32(header + 6, <uint32_t> segment.decoded_end)
    return OK


cdef Status decode_segment(
    const uint8_t *aux, size_t aux_size, uint64_t before, uint64_t max_window,
    uint8_t *data, size_t data_size, uint64_t upto, uint8_t *target, size_t size, size_t *decoded, bint verify
) noexcept nogil:
    """Decode a segment from its beginning to the first stop at or behind `upto`.

    Parameters
    ----------
    aux, aux_size
        The row of the index.
    before
        Bytes of content that come before the segment: no dictionary has more of them.
    max_window
        Nor may it have more than these.
    data, data_size
        The compressed segment, or as much of it as `segment_extent` asks for. It is changed, and so are
        `SEGMENT_MARGIN_BEFORE` bytes before it and `SEGMENT_MARGIN_AFTER` behind it.
    target, size
        Where to decode to, and the room there.
    decoded
        How many bytes were.
    verify
        Compare the CRC-32 of each stop.

    Returns
    -------
    Status
        OK, BAD_INDEX (`aux` contradicts itself or the room), WINDOW_TOO_LARGE, TRUNCATED (too little data),
        BAD_DATA, BAD_CHECKSUM or NO_MEMORY.
    """
    cdef Segment segment
    cdef const uint8_t *dictionary = NULL
    cdef size_t dictionary_size = 0
    cdef Status status = _parse(aux, aux_size, upto, &segment)
    decoded[0] = 0
    if status != OK:
        return status
    if segment.decoded_end > size:
        return BAD_INDEX
    if segment.compressed_end > data_size:
        return TRUNCATED
    status = _make_frame(&segment, data)
    if status == OK and segment.dictionary != NULL:
        status = _make_dictionary(&segment, before, max_window, &dictionary, &dictionary_size)
    if status == OK:
        status = decode_with_raw_dictionary(
            data - FRAME_HEADER, FRAME_HEADER + segment.compressed_end + BLOCK_HEADER,
            target, segment.decoded_end, dictionary, dictionary_size)
        if status != OK and status != NO_MEMORY:
            status = BAD_DATA
    trim_unpacked()
    trim_dictionary()
    if status == OK and verify and not _stops_match(&segment, target):
        status = BAD_CHECKSUM
    if status == OK:
        decoded[0] = segment.decoded_end
    return status


cdef bint _stops_match(const Segment *segment, const uint8_t *content) noexcept nogil:
    cdef const uint8_t *at = segment.stops
    cdef uint64_t compressed = 0
    cdef uint64_t begin = 0
    cdef uint64_t end = 0
    cdef uint64_t _i
    for _i in range(segment.needed):
        _next_stop(&at, segment.end, &compressed, &end)
        if crc32_of(0, content + begin, end - begin) != u32(at - 4):
            return False
        begin = end
    return True


cdef Status restore_entropy(
    const uint8_t *aux, size_t aux_size, uint64_t before, uint64_t max_window, Entropy *entropy
) noexcept nogil:
    """Read the entropy tables and the repeat offsets that a segment begins with: see `decode_segment`."""
    cdef Segment segment
    cdef uint8_t *unpacked
    cdef uint64_t content_size, state_size, size
    cdef Status status = _parse(aux, aux_size, 0, &segment)
    reset_entropy(entropy)
    if status == OK and segment.dictionary != NULL:
        status = _unpack(&segment, before, max_window, &content_size, &state_size, &size, &unpacked)
        if status == OK and not load_entropy(entropy, unpacked, state_size):
            status = BAD_INDEX
        trim_unpacked()
    return status


@cython.final
cdef class Dictionary:
    """A dictionary that a file carries for its frames.

    Parameters
    ----------
    data : buffer
        The dictionary, as the `dictionary` column of an index has it.

    Raises
    ------
    ValueError
        If it is not one.

    Immutable, so safe for any number of threads.
    """

    def __cinit__(self, const unsigned char[::1] data not None):
        if data.shape[0] >= DICTIONARY_HEADER and u32(&data[0]) == DICTIONARY_MAGIC:
            self.handle = new_dictionary(&data[0], data.shape[0])
        if self.handle == NULL:
            raise ValueError("not a zstd dictionary")

    def __dealloc__(self):
        free_dictionary(self.handle)

    @property
    def id(self):
        """The number by which frames name it."""
        return id_of_dictionary(self.handle)

    def decode(self, const unsigned char[::1] data not None, size_t size):
        """Decode frames that need the dictionary, `size` bytes: (`Status`, Buffer)."""
        cdef Buffer target = Buffer(size)
        cdef size_t data_size = data.shape[0]
        cdef const uint8_t *start = &data[0] if data_size else NULL
        cdef Status status
        with nogil:
            status = decode_with_dictionary(self.handle, start, data_size, target.data, size)
        return status, target


def extent_of_segment(const unsigned char[::1] aux not None, uint64_t upto):
    """Return (`Status`, bytes of compressed data, bytes of decoded data): see `segment_extent`."""
    cdef uint64_t compressed_end = 0
    cdef uint64_t decoded_end = 0
    cdef size_t aux_size = aux.shape[0]
    cdef const uint8_t *start = &aux[0] if aux_size else NULL
    cdef Status status = segment_extent(start, aux_size, upto, &compressed_end, &decoded_end)
    return status, compressed_end, decoded_end


def restore_segment(
    const unsigned char[::1] aux not None, const unsigned char[::1] data not None, uint64_t upto, size_t size,
    bint verify=True, *, uint64_t before=128 << 20, uint64_t max_window=128 << 20
):
    """Decode a segment of `size` bytes up to the stop behind `upto`: (`Status`, Buffer). See `decode_segment`."""
    cdef size_t aux_size = aux.shape[0]
    cdef size_t data_size = data.shape[0]
    cdef const uint8_t *aux_start = &aux[0] if aux_size else NULL
    cdef Buffer scratch = Buffer(SEGMENT_MARGIN_BEFORE + data_size + SEGMENT_MARGIN_AFTER)
    cdef Buffer target = Buffer(size)
    cdef size_t decoded
    cdef Status status
    if data_size:
        memcpy(scratch.data + SEGMENT_MARGIN_BEFORE, &data[0], data_size)
    with nogil:
        status = decode_segment(
            aux_start, aux_size, before, max_window, scratch.data + SEGMENT_MARGIN_BEFORE, data_size, upto, target.data,
            size, &decoded, verify)
    target.size = decoded
    return status, target
