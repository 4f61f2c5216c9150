"""File descriptors with an owner."""

cimport cython

cdef extern from *:
    """
    #include <unistd.h>
    """
    int cpp_close "close"(int number) nogil


@cython.final
cdef class Descriptor:
    """Closes a file descriptor once nobody refers to it any more.

    Not by a finalizer: the collector of reference cycles calls those while native threads may still read.

    Parameters
    ----------
    number : int
        An open descriptor; it belongs to this object from now on.
    """

    cdef readonly int number

    def __cinit__(self, int number):
        self.number = number

    def __dealloc__(self):
        if self.number >= 0:
            cpp_close(self.number)
