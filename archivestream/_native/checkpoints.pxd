from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from archivestream._native.codecs cimport Status, ZSTD_DDict
from archivestream._native.entropy cimport Entropy

cdef enum:
    AUX_VERSION = 1
    # Bytes that `decode_segment` writes before and behind the compressed data.
    SEGMENT_MARGIN_BEFORE = 16
    SEGMENT_MARGIN_AFTER = 16
    FEWEST_CONTENT = 8          # bytes of content of a dictionary, at least
    # Bytes that a block of an index decodes to, at most: a hostile one shall not ask for more.
    LARGEST_INDEXED = 1 << 30

cdef extern from *:
    """
    static const uint32_t kDictionaryMagic = 0xEC30A437u;
    """
    const uint32_t DICTIONARY_MAGIC "kDictionaryMagic"


cdef Status segment_extent(
    const uint8_t *aux, size_t aux_size, uint64_t upto, uint64_t *compressed_end, uint64_t *decoded_end
) noexcept nogil
cdef Status decode_segment(
    const uint8_t *aux, size_t aux_size, uint64_t before, uint64_t max_window,
    uint8_t *data, size_t data_size, uint64_t upto, uint8_t *target, size_t size, size_t *decoded, bint verify
) noexcept nogil
cdef Status restore_entropy(
    const uint8_t *aux, size_t aux_size, uint64_t before, uint64_t max_window, Entropy *entropy
) noexcept nogil


cdef class Dictionary:
    cdef ZSTD_DDict *handle
