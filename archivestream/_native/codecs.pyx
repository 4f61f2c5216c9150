"""Decoders of one block, checksums, and the compressors of `archivestream.deflate`.

This extension is the only one that links libdeflate and libzstd; the others reach them through `decode`.
Each thread makes one decompressor of each kind, once.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize

cdef extern from "libdeflate.h" nogil:
    cdef struct libdeflate_compressor:
        pass
    cdef struct libdeflate_decompressor:
        pass
    cdef enum libdeflate_result:
        LIBDEFLATE_SUCCESS
        LIBDEFLATE_BAD_DATA
        LIBDEFLATE_SHORT_OUTPUT
        LIBDEFLATE_INSUFFICIENT_SPACE
    libdeflate_compressor *libdeflate_alloc_compressor(int level)
    void libdeflate_free_compressor(libdeflate_compressor *)
    size_t libdeflate_deflate_compress(libdeflate_compressor *, const void *, size_t, void *, size_t)
    size_t libdeflate_zlib_compress(libdeflate_compressor *, const void *, size_t, void *, size_t)
    size_t libdeflate_gzip_compress(libdeflate_compressor *, const void *, size_t, void *, size_t)
    size_t libdeflate_deflate_compress_bound(libdeflate_compressor *, size_t)
    size_t libdeflate_zlib_compress_bound(libdeflate_compressor *, size_t)
    size_t libdeflate_gzip_compress_bound(libdeflate_compressor *, size_t)
    libdeflate_result libdeflate_deflate_decompress_ex(
        libdeflate_decompressor *, const void *, size_t, void *, size_t, size_t *, size_t *)
    libdeflate_result libdeflate_zlib_decompress_ex(
        libdeflate_decompressor *, const void *, size_t, void *, size_t, size_t *, size_t *)
    libdeflate_result libdeflate_gzip_decompress_ex(
        libdeflate_decompressor *, const void *, size_t, void *, size_t, size_t *, size_t *)
    uint32_t libdeflate_crc32(uint32_t crc, const void *data, size_t size)
    uint32_t libdeflate_adler32(uint32_t adler, const void *data, size_t size)

cdef extern from "zstd.h" nogil:
    size_t ZSTD_decompressDCtx(ZSTD_DCtx *, void *, size_t, const void *, size_t)
    size_t ZSTD_decompress_usingDict(
        ZSTD_DCtx *, void *, size_t, const void *, size_t, const void *dictionary, size_t)
    size_t ZSTD_decompress_usingDDict(ZSTD_DCtx *, void *, size_t, const void *, size_t, const ZSTD_DDict *)
    size_t ZSTD_findFrameCompressedSize(const void *, size_t)
    unsigned ZSTD_isError(size_t code)

    ctypedef struct ZSTD_inBuffer:
        const void *src
        size_t size
        size_t pos
    ctypedef struct ZSTD_outBuffer:
        void *dst
        size_t size
        size_t pos
    ctypedef enum ZSTD_dParameter:
        ZSTD_d_windowLogMax
    ctypedef enum ZSTD_ResetDirective:
        ZSTD_reset_session_only
    ZSTD_DCtx *ZSTD_createDCtx()
    size_t ZSTD_freeDCtx(ZSTD_DCtx *)
    size_t ZSTD_DCtx_setParameter(ZSTD_DCtx *, ZSTD_dParameter, int value)
    size_t ZSTD_DCtx_reset(ZSTD_DCtx *, ZSTD_ResetDirective)
    size_t ZSTD_DCtx_refDDict(ZSTD_DCtx *, const ZSTD_DDict *)
    size_t ZSTD_decompressStream(ZSTD_DCtx *, ZSTD_outBuffer *, ZSTD_inBuffer *)

    ZSTD_DDict *ZSTD_createDDict(const void *dictionary, size_t)
    size_t ZSTD_freeDDict(ZSTD_DDict *)
    unsigned ZSTD_getDictID_fromDDict(const ZSTD_DDict *)

    size_t ZSTD_compressBound(size_t)
    size_t ZSTD_compress(void *, size_t, const void *, size_t, int level)

cdef extern from "zstd_errors.h" nogil:
    ctypedef enum ZSTD_ErrorCode:
        ZSTD_error_dstSize_tooSmall
        ZSTD_error_prefix_unknown
        ZSTD_error_srcSize_wrong
        ZSTD_error_checksum_wrong
        ZSTD_error_dictionary_wrong
        ZSTD_error_memory_allocation
    ZSTD_ErrorCode ZSTD_getErrorCode(size_t code)

cdef extern from *:
    """
    struct ThreadDecoders {
      libdeflate_decompressor *deflate = nullptr;
      ZSTD_DCtx *zstd = nullptr;

      libdeflate_decompressor *for_deflate() {
        if (!deflate) deflate = libdeflate_alloc_decompressor();
        return deflate;
      }
      ZSTD_DCtx *for_zstd() {
        if (!zstd) zstd = ZSTD_createDCtx();
        return zstd;
      }
      ~ThreadDecoders() {
        libdeflate_free_decompressor(deflate);
        ZSTD_freeDCtx(zstd);
      }
    };
    static thread_local ThreadDecoders thread_decoders;

    struct ThreadCompressors {
      libdeflate_compressor *levels[13] = {};

      libdeflate_compressor *of_level(int level) {
        if (!levels[level]) levels[level] = libdeflate_alloc_compressor(level);
        return levels[level];
      }
      ~ThreadCompressors() {
        for (libdeflate_compressor *compressor : levels) libdeflate_free_compressor(compressor);
      }
    };
    static thread_local ThreadCompressors thread_compressors;
    """
    libdeflate_decompressor *cpp_deflate_decoder "thread_decoders.for_deflate"() noexcept nogil
    libdeflate_compressor *cpp_compressor "thread_compressors.of_level"(int level) noexcept nogil
    ZSTD_DCtx *cpp_zstd_decoder "thread_decoders.for_zstd"() noexcept nogil


ctypedef size_t (*Compress)(libdeflate_compressor *, const void *, size_t, void *, size_t) noexcept nogil
ctypedef size_t (*Bound)(libdeflate_compressor *, size_t) noexcept nogil
ctypedef libdeflate_result (*Decompress)(
    libdeflate_decompressor *, const void *, size_t, void *, size_t, size_t *, size_t *) noexcept nogil


# A block of DEFLATE yields at most 258 bytes for 2 bits (RFC 1951, 3.2.5: the longest match, codes of one bit).
cpdef enum:
    DEFLATE_EXPANSION = 1032

cdef enum:
    # A block of zstd yields at most 128 KiB, and takes 3 bytes of header and 1 of content (RFC 8878, 3.1.1.2).
    ZSTD_EXPANSION = 32768
    # bzip2 expands most: a block holds up to 900 kB of runs of 255 in 5 bytes, and takes 39 bytes.
    BZIP2_EXPANSION = 1 << 21
    # A match of LZMA has at most 273 bytes, and the range coder spends more than 1/4 of a bit on it.
    LZMA_EXPANSION = 1 << 14
    # A byte of LZ4 adds at most 255 to the length of a match (LZ4 Block Format); what else a match takes yields less.
    LZ4_EXPANSION = 255
    # Beyond twice the size of the contents; as much as a thread keeps as scratch memory.
    LONGEST_OVERHEAD = 16 << 20


cdef bint is_native(uint16_t codec) noexcept nogil:
    """Whether `decode` handles the codec."""
    return codec == STORED or codec == DEFLATE or codec == ZSTD


cdef bint is_possible(uint16_t codec, uint64_t compressed_size, uint64_t size) noexcept nogil:
    """Whether a stream of this length can hold so much: asked before memory is taken."""
    if codec == STORED:
        return compressed_size == size
    if codec == DEFLATE:
        return size // DEFLATE_EXPANSION <= compressed_size
    if codec == ZSTD:
        return size // ZSTD_EXPANSION <= compressed_size
    if codec == BZIP2:
        return size // BZIP2_EXPANSION <= compressed_size
    if codec == LZ4:
        return size // LZ4_EXPANSION <= compressed_size
    return size // LZMA_EXPANSION <= compressed_size


cdef uint64_t readable(uint16_t codec, uint64_t compressed_size, uint64_t size) noexcept nogil:
    """How many bytes of a stream are read, for which memory is taken: all that are in proportion to what it holds.

    A stream may be followed by bytes that are none of it, and a file may have holes that take no room on a disk. What
    compressors write is never much longer than what they are given, not even where they flush after each few bytes.
    """
    if codec == STORED or size >= compressed_size // 2:
        return compressed_size
    return min(compressed_size, 2 * size + LONGEST_OVERHEAD)


cdef uint32_t crc32_of(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil:
    """Continue a CRC-32 (the one of ZIP and gzip)."""
    return libdeflate_crc32(crc, data, size) if size else crc


cdef uint32_t crc32_combine(uint32_t first, uint32_t second, uint64_t size) noexcept nogil:
    """The CRC-32 of two texts, one after the other, from the CRC-32 of each and the size of the second.

    Appending a zero bit multiplies a CRC by x modulo the polynomial, so the first is multiplied by x**(8 * size), and
    that by squaring (Mark Adler's method, in zlib).
    """
    cdef uint32_t power = 0x00800000     # x**8, the highest power in the lowest bit
    cdef uint32_t factor = 0x80000000U   # x**0
    while size:
        if size & 1:
            factor = multiply(factor, power)
        power = multiply(power, power)
        size >>= 1
    return multiply(factor, first) ^ second


cdef uint32_t multiply(uint32_t a, uint32_t b) noexcept nogil:
    """The product of two polynomials modulo that of CRC-32 (reflected)."""
    cdef uint32_t product = 0
    while a:
        if a >> 31:
            product ^= b
        a <<= 1
        b = (b >> 1) ^ 0xEDB88320U if b & 1 else b >> 1
    return product


cdef Status decode(
    uint16_t codec, const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size
) noexcept nogil:
    """Decode one block of a native codec; both sizes must come out exactly."""
    cdef uint8_t nothing = 0
    if target == NULL:
        target = &nothing   # the libraries want a valid pointer for an empty block, too
    if codec == DEFLATE:
        return _inflate(source, source_size, target, target_size)
    if codec == ZSTD:
        return _unzstd(source, source_size, target, target_size)
    return UNSUPPORTED_METHOD


cdef Status _inflate(
    const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size
) noexcept nogil:
    cdef libdeflate_decompressor *decoder = cpp_deflate_decoder()
    cdef size_t consumed = 0
    cdef libdeflate_result result
    if decoder == NULL:
        return NO_MEMORY
    result = libdeflate_deflate_decompress_ex(
        decoder, source, source_size, target, target_size, &consumed, NULL)
    if result == LIBDEFLATE_SUCCESS:
        return OK if consumed == source_size else TRAILING_BYTES
    if result == LIBDEFLATE_SHORT_OUTPUT:
        return TOO_FEW_BYTES
    return TOO_MANY_BYTES if result == LIBDEFLATE_INSUFFICIENT_SPACE else BAD_DATA


cdef Status _unzstd(
    const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size
) noexcept nogil:
    cdef ZSTD_DCtx *decoder = cpp_zstd_decoder()
    cdef size_t result, frames
    cdef ZSTD_ErrorCode error
    if decoder == NULL:
        return NO_MEMORY
    # All frames of the block, one after the other.
    result = ZSTD_decompressDCtx(decoder, target, target_size, source, source_size)
    if not ZSTD_isError(result):
        return OK if result == target_size else TOO_FEW_BYTES
    error = ZSTD_getErrorCode(result)
    if error == ZSTD_error_prefix_unknown or error == ZSTD_error_srcSize_wrong:
        # The library refuses bytes after the last frame; what stands in front of them may be whole.
        frames = size_of_frames(source, source_size)
        if 0 < frames < source_size:
            result = ZSTD_decompressDCtx(decoder, target, target_size, source, frames)
            if not ZSTD_isError(result) and result == target_size:
                return TRAILING_BYTES
    return _status_of(error)


cdef Status _status_of(ZSTD_ErrorCode error) noexcept nogil:
    if error == ZSTD_error_dstSize_tooSmall:
        return TOO_MANY_BYTES
    if error == ZSTD_error_checksum_wrong:
        return BAD_CHECKSUM
    if error == ZSTD_error_dictionary_wrong:
        return DICTIONARY_REQUIRED
    return NO_MEMORY if error == ZSTD_error_memory_allocation else BAD_DATA


cdef size_t size_of_frames(const uint8_t *source, size_t size) noexcept nogil:
    """How many bytes the zstd frames take that stand at the beginning."""
    cdef size_t at = 0
    cdef size_t frame
    while at < size:
        frame = ZSTD_findFrameCompressedSize(source + at, size - at)
        if ZSTD_isError(frame):
            break
        at += frame
    return at


# ---- zstd: dictionaries, streams, and the compressor of what an index stores ------------------------------------

cdef Status decode_with_raw_dictionary(
    const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size,
    const uint8_t *dictionary, size_t dictionary_size
) noexcept nogil:
    """Decode one frame with a dictionary that is used but once, and not copied."""
    cdef ZSTD_DCtx *decoder = cpp_zstd_decoder()
    cdef uint8_t nothing = 0
    if decoder == NULL:
        return NO_MEMORY
    return _exactly(target_size, ZSTD_decompress_usingDict(
        decoder, target if target != NULL else &nothing, target_size, source, source_size,
        dictionary, dictionary_size))


cdef Status decode_with_dictionary(
    const ZSTD_DDict *dictionary, const uint8_t *source, size_t source_size, uint8_t *target, size_t target_size
) noexcept nogil:
    """Decode one block of zstd whose frames name a dictionary; both sizes must come out exactly."""
    cdef ZSTD_DCtx *decoder = cpp_zstd_decoder()
    cdef uint8_t nothing = 0
    if decoder == NULL:
        return NO_MEMORY
    return _exactly(target_size, ZSTD_decompress_usingDDict(
        decoder, target if target != NULL else &nothing, target_size, source, source_size, dictionary))


cdef Status _exactly(size_t expected, size_t result) noexcept nogil:
    if ZSTD_isError(result):
        return _status_of(ZSTD_getErrorCode(result))
    return OK if result == expected else TOO_FEW_BYTES


cdef ZSTD_DDict *new_dictionary(const uint8_t *data, size_t size) noexcept nogil:
    """Digest a copy of a dictionary; NULL where it is invalid or there is no memory."""
    return ZSTD_createDDict(data, size)


cdef uint32_t id_of_dictionary(const ZSTD_DDict *dictionary) noexcept nogil:
    """Return the number that frames name; 0 of raw content that is no dictionary."""
    return ZSTD_getDictID_fromDDict(dictionary)


cdef void free_dictionary(ZSTD_DDict *dictionary) noexcept nogil:
    ZSTD_freeDDict(dictionary)


cdef ZSTD_DCtx *new_stream() noexcept nogil:
    """Make a decoder for streams of any window; the caller has checked the window. NULL: no memory."""
    cdef ZSTD_DCtx *stream = ZSTD_createDCtx()
    if stream != NULL:
        ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, LARGEST_WINDOW_LOG)
    return stream


cdef void free_stream(ZSTD_DCtx *stream) noexcept nogil:
    ZSTD_freeDCtx(stream)


cdef void begin_frame(ZSTD_DCtx *stream, const ZSTD_DDict *dictionary) noexcept nogil:
    """Make a stream ready for the header of a frame; the dictionary may be NULL."""
    ZSTD_DCtx_reset(stream, ZSTD_reset_session_only)
    ZSTD_DCtx_refDDict(stream, dictionary)


cdef Status decode_some(
    ZSTD_DCtx *stream, const uint8_t *source, size_t source_size, uint8_t *target, size_t capacity,
    size_t *written, bint *ended
) noexcept nogil:
    """Decode the next part of a frame: its header, one block, or its checksum; all of it, or it is bad data."""
    cdef ZSTD_inBuffer input
    cdef ZSTD_outBuffer output
    cdef size_t result
    input.src, input.size, input.pos = source, source_size, 0
    output.dst, output.size, output.pos = target, capacity, 0
    result = ZSTD_decompressStream(stream, &output, &input)
    written[0] = output.pos
    ended[0] = result == 0
    if ZSTD_isError(result):
        return _status_of(ZSTD_getErrorCode(result))
    return OK if input.pos == input.size else BAD_DATA


cdef size_t zstd_bound(size_t size) noexcept nogil:
    """Return the most that `zstd_compress` writes."""
    return ZSTD_compressBound(size)


cdef size_t zstd_compress(uint8_t *target, size_t capacity, const uint8_t *source, size_t size) noexcept nogil:
    """Compress at level 3 to one frame, and return its size; 0 where there is no memory."""
    cdef size_t written = ZSTD_compress(target, capacity, source, size, 3)
    return 0 if ZSTD_isError(written) else written


# ---- deflate ----------------------------------------------------------------------------------------------------

cdef size_t deflate_bound(int level, size_t size) noexcept nogil:
    """How many bytes `deflate_into` writes at most; the level is one from 0 to 12."""
    return libdeflate_deflate_compress_bound(cpp_compressor(level), size)


cdef size_t deflate_into(
    int level, const uint8_t *source, size_t size, uint8_t *target, size_t capacity
) noexcept nogil:
    """Compress to a DEFLATE stream, with a compressor that the thread keeps; 0 where there is no memory for one."""
    cdef libdeflate_compressor *compressor = cpp_compressor(level)
    return 0 if compressor == NULL else libdeflate_deflate_compress(compressor, source, size, target, capacity)


# ---- the functions behind archivestream.deflate ---------------------------------------------------------------

cdef enum Wrapper:
    RAW = 0
    ZLIB = 1
    GZIP = 2


def crc32(const unsigned char[::1] data not None, uint32_t initial=0):
    """Continue a CRC-32 over a contiguous buffer."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t *start = &data[0] if size else NULL
    with nogil:
        initial = crc32_of(initial, start, size)
    return initial


def adler32(const unsigned char[::1] data not None, uint32_t initial=1):
    """Continue an Adler-32 over a contiguous buffer."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t *start = &data[0] if size else NULL
    if size:
        with nogil:
            initial = libdeflate_adler32(initial, start, size)
    return initial


def compress(const unsigned char[::1] data not None, int level, int wrapper):
    """Compress to a bytearray; None where libdeflate has no memory."""
    cdef size_t size = data.shape[0]
    cdef uint8_t nothing = 0
    cdef const uint8_t *start = &data[0] if size else &nothing
    cdef Compress run = libdeflate_deflate_compress
    cdef Bound bound_of = libdeflate_deflate_compress_bound
    cdef libdeflate_compressor *compressor
    cdef size_t written
    if wrapper == ZLIB:
        run = libdeflate_zlib_compress
        bound_of = libdeflate_zlib_compress_bound
    elif wrapper == GZIP:
        run = libdeflate_gzip_compress
        bound_of = libdeflate_gzip_compress_bound
    compressor = libdeflate_alloc_compressor(level)
    if compressor == NULL:
        return None
    try:
        bound = bound_of(compressor, size)
        output = PyByteArray_FromStringAndSize(NULL, bound)
        target = PyByteArray_AS_STRING(output)
        with nogil:
            written = run(compressor, start, size, target, bound)
    finally:
        libdeflate_free_compressor(compressor)
    if written == 0:
        return None
    PyByteArray_Resize(output, written)
    return output


def decompress(const unsigned char[::1] data not None, Py_ssize_t capacity, int wrapper):
    """Decompress the first stream: (bytearray, bytes consumed), or (`Status`, 0)."""
    cdef size_t size = data.shape[0]
    cdef uint8_t nothing = 0
    cdef const uint8_t *start = &data[0] if size else &nothing
    cdef Decompress run = libdeflate_deflate_decompress_ex
    cdef libdeflate_decompressor *decoder = cpp_deflate_decoder()
    cdef libdeflate_result result
    cdef size_t consumed = 0
    cdef size_t written = 0
    if wrapper == ZLIB:
        run = libdeflate_zlib_decompress_ex
    elif wrapper == GZIP:
        run = libdeflate_gzip_decompress_ex
    if decoder == NULL:
        return NO_MEMORY, 0
    output = PyByteArray_FromStringAndSize(NULL, capacity)
    target = PyByteArray_AS_STRING(output)
    with nogil:
        result = run(decoder, start, size, target, capacity, &consumed, &written)
    if result != LIBDEFLATE_SUCCESS:
        return TOO_MANY_BYTES if result == LIBDEFLATE_INSUFFICIENT_SPACE else BAD_DATA, 0
    PyByteArray_Resize(output, written)
    return output, consumed
