from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from archivestream._native.protobuf cimport ExampleFault


# What a parser wants of a feature.
cdef struct Wanted:
    const uint8_t *name
    size_t name_size
    uint32_t kind       # the field of `Feature` that has the values
    bint ragged         # else every example has `count` values
    bint has_default
    uint64_t count
    uint64_t item       # bytes of one value; 0: each is bytes of its own
    bint raw            # one bytes value holds all


# What an example has of it.
cdef struct Found:
    const uint8_t *entry        # of the map; NULL: none
    const uint8_t *end
    uint32_t kind               # 0: none
    uint32_t run                # the lists before this one are of another kind, so they do not count
    uint64_t count              # values
    uint64_t size               # bytes of all of them, where they are bytes
    const uint8_t *data         # … and the last of them


# Where values go.
cdef struct Sink:
    uint32_t kind
    uint32_t run
    uint8_t *to
    const uint8_t **spans       # begin and end of each, where values are objects of their own
    uint64_t room               # for so many bytes, or objects, as the first walk has counted


cdef struct Failure:
    ExampleFault fault
    uint32_t wanted
    uint64_t offset


# Where the values of a feature go.
cdef struct Target:
    uint8_t *to
    const int64_t *splits       # of a ragged one, in values
    const uint8_t *filler       # for a message that has none
    const uint8_t **spans


# The values of a message that are at their place already, and not in the message.
cdef struct Hole:
    uint64_t begin              # in the message
    uint64_t size               # 0: there is none
    uint8_t *target


cdef struct Messages:
    size_t n
    size_t features
    size_t per_item             # messages that a thread takes at a time
    const Wanted *wanted        # of each feature
    const uint8_t **begins      # of each message, once it is there
    const uint8_t **ends
    Found *found                # of message i, feature k: [i * features + k]
    Failure *failures           # of each message
    const Target *targets       # of each feature
    Hole *holes                 # of each message
    size_t large                # the feature that is foreseen
    uint64_t *seen              # 1 + where in a message its values lay; 0: not known yet. Any thread writes it.


cdef uint64_t foresee(
    void *context, uint32_t position, uint64_t size, uint64_t *begin, uint8_t **target) noexcept nogil
cdef void take_message(void *context, uint32_t position, const uint8_t *data, uint64_t size) noexcept nogil
cdef void examine_some(void *context, size_t item) noexcept nogil
cdef void store_some(void *context, size_t item) noexcept nogil
