from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


# Codecs carry the numbers that ZIP gives to its compression methods (APPNOTE 4.4.5); other containers use
# the same numbers for the same codecs.
cpdef enum Codec:
    STORED = 0
    DEFLATE = 8
    BZIP2 = 12
    LZMA = 14
    LZ4 = 30                    # not of APPNOTE: a block, as DareBlopy writes it
    ZSTD = 93
    XZ = 95
    # Pieces of a stream, which ZIP has no number for.
    DEFLATE_SEGMENT = 0xF008    # ends with an empty stored block (a full flush)
    ZSTD_SEGMENT = 0xF05D       # blocks from the middle of a frame, decoded with the dictionary in `aux`


# What can be wrong with one block. Native code returns these; `archivestream.reader` has the table that turns
# them into exceptions.
cpdef enum Status:
    OK = 0
    # The bytes of the archive contradict the format.
    BAD_DATA = 1              # the compressed stream is invalid
    TOO_FEW_BYTES = 2         # the stream holds fewer bytes than declared
    TOO_MANY_BYTES = 3        # the stream holds more bytes than declared
    TRAILING_BYTES = 4        # compressed bytes are left after the end of the stream
    BAD_CHECKSUM = 5
    BAD_LOCAL_SIGNATURE = 6
    NAME_DIFFERS = 7
    TRUNCATED = 8             # the archive ends within the block
    OVERLAP = 9               # the block runs into the next one
    OUT_OF_BOUNDS = 10        # the block lies outside the part of the archive that holds data
    IMPOSSIBLE_SIZE = 11      # no stream of this length can hold so much
    BAD_NAME = 12             # the name is not valid in its encoding
    BROKEN_LINK = 13          # a hard link to a member that is not there
    BAD_INDEX = 14            # a saved index does not fit the archive
    # Well-formed, but refused.
    ENCRYPTED = 20
    PATCHED = 21
    UNSUPPORTED_METHOD = 22
    UNSUPPORTED_VERSION = 23
    OTHER_DISK = 24
    DICTIONARY_REQUIRED = 25
    OVER_LIMIT = 26
    WINDOW_TOO_LARGE = 27
    PACKAGE_MISSING = 28      # an optional package that would decode it
    # The machine.
    READ_FAILED = 40
    NO_MEMORY = 41
    # For the engine's callers, never shown.
    PREFIX_DIFFERS = 60       # the member does not begin with the bytes that it should
    NOT_NATIVE = 61           # decoded in Python
    NOT_RUN = 62
    IN_PIECES = 63            # a range of blocks
    NOT_FETCHED = 64          # the caller could not read its block


cdef Status decode(
    uint16_t codec, const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size
) noexcept nogil
cdef bint is_native(uint16_t codec) noexcept nogil
cdef bint is_possible(uint16_t codec, uint64_t compressed_size, uint64_t size) noexcept nogil
cdef uint64_t readable(uint16_t codec, uint64_t compressed_size, uint64_t size) noexcept nogil
cdef uint32_t crc32_of(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil
cdef uint32_t crc32_combine(uint32_t first, uint32_t second, uint64_t size) noexcept nogil

# The types of libzstd, opaque here: its header is not on the path of the other extensions.
cdef extern from *:
    """
    typedef struct ZSTD_DCtx_s ZSTD_DCtx;
    typedef struct ZSTD_DDict_s ZSTD_DDict;
    """
    ctypedef struct ZSTD_DCtx:
        pass
    ctypedef struct ZSTD_DDict:
        pass

cdef enum:
    LARGEST_WINDOW_LOG = 31     # what libzstd decodes: windows of up to 2 GiB


cdef Status decode_with_raw_dictionary(
    const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size,
    const uint8_t *dictionary, size_t dictionary_size
) noexcept nogil
cdef Status decode_with_dictionary(
    const ZSTD_DDict *dictionary, const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size
) noexcept nogil
cdef ZSTD_DDict *new_dictionary(const uint8_t *data, size_t size) noexcept nogil
cdef uint32_t id_of_dictionary(const ZSTD_DDict *dictionary) noexcept nogil
cdef void free_dictionary(ZSTD_DDict *dictionary) noexcept nogil
cdef ZSTD_DCtx *new_stream() noexcept nogil
cdef void free_stream(ZSTD_DCtx *stream) noexcept nogil
cdef void begin_frame(ZSTD_DCtx *stream, const ZSTD_DDict *dictionary) noexcept nogil
cdef Status decode_some(
    ZSTD_DCtx *stream, const uint8_t *source, size_t source_size, uint8_t *target, size_t capacity,
    size_t *written, bint *ended
) noexcept nogil
cdef size_t zstd_bound(size_t size) noexcept nogil
cdef size_t zstd_compress(uint8_t *target, size_t capacity, const uint8_t *source, size_t size) noexcept nogil
cdef size_t deflate_bound(int level, size_t size) noexcept nogil
cdef size_t deflate_into(
    int level, const uint8_t *source, size_t size, uint8_t *target, size_t capacity
) noexcept nogil
