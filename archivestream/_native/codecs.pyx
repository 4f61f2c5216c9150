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
    ctypedef struct ZSTD_DCtx:
        pass
    size_t ZSTD_decompressDCtx(ZSTD_DCtx *, void *, size_t, const void *, size_t)
    size_t ZSTD_findFrameCompressedSize(const void *, size_t)
    unsigned ZSTD_isError(size_t code)

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
    """
    libdeflate_decompressor *cpp_deflate_decoder "thread_decoders.for_deflate"() noexcept nogil
    ZSTD_DCtx *cpp_zstd_decoder "thread_decoders.for_zstd"() noexcept nogil


ctypedef size_t (*Compress)(libdeflate_compressor *, const void *, size_t, void *, size_t) noexcept nogil
ctypedef size_t (*Bound)(libdeflate_compressor *, size_t) noexcept nogil
ctypedef libdeflate_result (*Decompress)(
    libdeflate_decompressor *, const void *, size_t, void *, size_t, size_t *, size_t *) noexcept nogil


# A block of DEFLATE yields at most 258 bytes for 2 bits (RFC 1951, 3.2.5: the longest match, codes of one bit).
cdef enum:
    DEFLATE_EXPANSION = 1032
    # A block of zstd yields at most 128 KiB, and takes 3 bytes of header and 1 of content (RFC 8878, 3.1.1.2).
    ZSTD_EXPANSION = 32768
    # bzip2 expands most: a block holds up to 900 kB of runs of 255 in 5 bytes, and takes 39 bytes.
    BZIP2_EXPANSION = 1 << 21
    # A match of LZMA has at most 273 bytes, and the range coder spends more than 1/4 of a bit on it.
    LZMA_EXPANSION = 1 << 14


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
    return size // LZMA_EXPANSION <= compressed_size


cdef uint32_t crc32_of(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil:
    """Continue a CRC-32 (the one of ZIP and gzip)."""
    return libdeflate_crc32(crc, data, size) if size else crc


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
