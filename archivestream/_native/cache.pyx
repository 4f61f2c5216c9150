# distutils: language = c++
"""The cache of decoded blocks: members that share a block decode it once."""

cimport cython
from libc.string cimport memcpy

from archivestream._native.buffers cimport give_memory, take_memory


@cython.final
cdef class BlockCache:
    """Keeps decoded blocks, the least recently used out first.

    Parameters
    ----------
    limit : int
        Most bytes to keep. Blocks in use are beyond it: at most one for each thread at work.

    A block that several threads want is decoded by one of them, and the others wait for it. Safe for any number of
    threads; a forked process begins with an empty cache.
    """

    def __cinit__(self, size_t limit):
        self.limit = limit
        self.blocks = new Blocks(limit, take_memory, give_memory)

    def __dealloc__(self):
        del self.blocks

    def put(self, uint64_t block, size_t size, pieces):
        """Keep a block that somebody has decoded already.

        Parameters
        ----------
        block : int
            Its row in the table of blocks.
        size : int
            Of the whole block.
        pieces : iterable of buffers
            Its bytes, one after the other.
        """
        cdef const uint8_t[::1] piece
        cdef cpp_bool more = False
        cdef size_t filled = 0
        cdef Entry *entry = self.blocks.acquire(block, size, size, True, &more)
        if entry == NULL:
            return      # no memory for it
        try:
            for piece in pieces if not entry.ready else ():
                if piece.shape[0] == 0:
                    continue
                if <size_t> piece.shape[0] > size - filled:
                    raise ValueError("the pieces are longer than the block")
                memcpy(entry.data + filled, &piece[0], piece.shape[0])
                filled += piece.shape[0]
            if not entry.ready and filled < size:
                raise ValueError("the pieces are shorter than the block")
        except BaseException:
            self.blocks.abandon(entry)
            raise
        if not entry.ready:
            self.blocks.publish(entry, size)
        self.blocks.release(entry)

    def statistics(self):
        """Return (hits, misses, bytes, blocks): how often a block was there, and what is."""
        found = self.blocks.statistics()
        return found.hits, found.misses, found.bytes, found.blocks
