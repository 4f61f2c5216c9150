# distutils: language = c++
"""``tf.train.Example`` (tensorflow/core/example/example.proto and feature.proto): what messages hold.

::

    Example    1: Features      Features   1: map of string to Feature, each entry a message of 1: key and 2: value
    Feature    one of 1: BytesList, 2: FloatList, 3: Int64List; each with 1: repeated values

Every message is walked twice: once to check it, to find which entries count and how many values they have, and once,
when the arrays are there, to put the values to their places. Of what comes several times counts what protobuf says:
messages are merged, lists go on, the last entry of a key replaces those before, the last kind of a feature the others.
An entry of the map with fields beside key and value is none: so the runtime of Python takes it.
"""

from libc.string cimport memcmp, memcpy, memset

from archivestream._native.protobuf cimport (
    BAD_KEY, BAD_PACKED, CHANGED, DELIMITED, FIXED32, MISSING, SOUND, VARINT, WRONG_COUNT, WRONG_KIND, WRONG_SIZE,
    Cursor, ExampleFault, enter, leave, more, pass_over, read_length, read_tag, read_varint, skip_field)
from archivestream._native.text cimport is_utf8

cdef extern from *:
    """
    #include <atomic>
    #include <cstdint>

    static inline std::uint64_t load_place(const std::uint64_t *at) {
      return reinterpret_cast<const std::atomic<std::uint64_t> *>(at)->load(std::memory_order_relaxed);
    }
    static inline void store_place(std::uint64_t *at, std::uint64_t place) {
      reinterpret_cast<std::atomic<std::uint64_t> *>(at)->store(place, std::memory_order_relaxed);
    }
    """
    uint64_t load_place(const uint64_t *at) noexcept nogil
    void store_place(uint64_t *at, uint64_t place) noexcept nogil

cdef enum Kind:
    BYTES = 1
    FLOATS = 2
    INTS = 3

cdef enum:
    MESSAGE = 1 << 3 | DELIMITED    # the only field of `Example`, of `Features` and of lists; the key of an entry
    VALUE = 2 << 3 | DELIMITED      # of an entry
    ONE_FLOAT = 1 << 3 | FIXED32
    ONE_INT = 1 << 3 | VARINT


cdef void walk_list(Cursor *cursor, Found *found, Sink *sink) noexcept nogil:
    """Count the values of a list; with a sink, put them there."""
    cdef const uint8_t *outer
    cdef const uint8_t *data
    cdef uint64_t value
    cdef uint32_t tag
    cdef size_t size
    while more(cursor):
        tag = read_tag(cursor)
        if tag == MESSAGE and found.kind == INTS:
            outer = enter(cursor)
            while more(cursor):
                value = read_varint(cursor, 10)
                found.count += 1
                if sink != NULL:
                    put(cursor, sink, <const uint8_t *> &value, sizeof(value))
            leave(cursor, outer)
        elif tag == ONE_INT and found.kind == INTS:
            value = read_varint(cursor, 10)
            found.count += 1
            if sink != NULL:
                put(cursor, sink, <const uint8_t *> &value, sizeof(value))
        elif (tag == MESSAGE and found.kind != INTS) or (tag == ONE_FLOAT and found.kind == FLOATS):
            size = read_length(cursor) if tag == MESSAGE else sizeof(float)
            if found.kind == BYTES:
                found.count += 1
                found.size += size
                found.data = cursor.at
            elif size % sizeof(float):
                cursor.fault = BAD_PACKED
            else:
                found.count += size // sizeof(float)
            data = cursor.at
            if cursor.fault == SOUND:
                pass_over(cursor, size)
            if sink != NULL:
                put(cursor, sink, data, size)
        else:
            skip_field(cursor, tag)


cdef inline void put(Cursor *cursor, Sink *sink, const uint8_t *data, size_t size) noexcept nogil:
    """Put a value that is sound to its place, or say where it lies."""
    cdef uint64_t needs = 1 if sink.spans != NULL else size
    if cursor.fault != SOUND:
        return
    if needs > sink.room:       # whoever has the memory has changed it since the first walk
        cursor.fault = CHANGED
        return
    sink.room -= needs
    if sink.spans != NULL:
        sink.spans[0] = data
        sink.spans[1] = data + size
        sink.spans += 2
    elif size:                  # else there may be no memory at all
        memcpy(sink.to, data, size)
        sink.to += size


cdef void walk_feature(Cursor *cursor, Found *found, Sink *sink) noexcept nogil:
    cdef const uint8_t *outer
    cdef uint32_t tag, kind
    while more(cursor):
        tag = read_tag(cursor)
        kind = tag >> 3
        if tag & 7 != DELIMITED or kind < BYTES or kind > INTS:
            skip_field(cursor, tag)
            continue
        if kind != found.kind:
            found.kind = kind
            found.run += 1
            found.count = found.size = 0
        outer = enter(cursor)
        if sink != NULL and sink.kind == kind and sink.run == found.run:
            walk_list(cursor, found, sink)
        else:
            walk_list(cursor, found, NULL)
        leave(cursor, outer)


cdef bint walk_entry(Cursor *cursor, const uint8_t **key, size_t *key_size, Found *found, Sink *sink) noexcept nogil:
    """Go through an entry of the map; return whether it is one."""
    cdef const uint8_t *outer
    cdef uint32_t tag
    cdef bint is_entry = True
    memset(found, 0, sizeof(found[0]))
    found.entry, found.end = cursor.at, cursor.end
    key[0], key_size[0] = cursor.at, 0
    while more(cursor):
        tag = read_tag(cursor)
        if tag == MESSAGE:
            key_size[0] = read_length(cursor)
            key[0] = cursor.at
            if cursor.fault == SOUND and not is_utf8(cursor.at, key_size[0]):
                cursor.fault = BAD_KEY
            if cursor.fault == SOUND:
                cursor.at += key_size[0]
        elif tag == VALUE:
            outer = enter(cursor)
            walk_feature(cursor, found, sink)
            leave(cursor, outer)
        else:
            skip_field(cursor, tag)
            is_entry = False
    return is_entry


cdef void walk_features(Cursor *cursor, const Messages *messages, Found *row) noexcept nogil:
    cdef const uint8_t *outer
    cdef const uint8_t *key = NULL
    cdef size_t key_size, _
    cdef size_t n = messages.features
    cdef size_t guess = 0       # most examples have their features in one order
    cdef const Wanted *wanted
    cdef Found found
    cdef uint32_t tag
    while more(cursor):
        tag = read_tag(cursor)
        if tag != MESSAGE:
            skip_field(cursor, tag)
            continue
        outer = enter(cursor)
        if walk_entry(cursor, &key, &key_size, &found, NULL) and cursor.fault == SOUND:
            for _ in range(n):
                wanted = &messages.wanted[guess]
                if wanted.name_size == key_size and memcmp(wanted.name, key, key_size) == 0:
                    row[guess] = found
                    break
                guess = guess + 1 if guess + 1 < n else 0
        leave(cursor, outer)


cdef ExampleFault compare(const Wanted *wanted, const Found *found) noexcept nogil:
    """Whether an example has of a feature what a parser wants."""
    if found.kind == 0:
        return SOUND if wanted.ragged or wanted.has_default else MISSING
    if found.kind != wanted.kind:
        return WRONG_KIND
    if wanted.raw:
        if found.count != 1 and not (wanted.ragged and found.count == 0):
            return WRONG_COUNT
        if wanted.ragged:
            return WRONG_SIZE if found.size % wanted.item else SOUND
        return SOUND if found.size == wanted.count * wanted.item else WRONG_SIZE
    return SOUND if wanted.ragged or found.count == wanted.count else WRONG_COUNT


cdef void examine(const Messages *messages, size_t record) noexcept nogil:
    """Check a message, and find what it has."""
    cdef size_t n = messages.features
    cdef Found *row = messages.found + record * n
    cdef Failure *failure = &messages.failures[record]
    cdef Cursor cursor
    cdef const uint8_t *outer
    cdef uint32_t tag
    cdef size_t i
    if n:       # without features, `found` is NULL, which C forbids here
        memset(row, 0, n * sizeof(Found))
    memset(failure, 0, sizeof(Failure))
    cursor.at, cursor.end, cursor.fault = messages.begins[record], messages.ends[record], SOUND
    while more(&cursor):
        tag = read_tag(&cursor)
        if tag == MESSAGE:
            outer = enter(&cursor)
            walk_features(&cursor, messages, row)
            leave(&cursor, outer)
        else:
            skip_field(&cursor, tag)
    failure.fault = cursor.fault
    failure.offset = cursor.at - messages.begins[record]
    for i in range(n):
        if failure.fault == SOUND:
            failure.fault = compare(&messages.wanted[i], &row[i])
            failure.wanted = <uint32_t> i
            failure.offset = row[i].entry - messages.begins[record] if row[i].entry != NULL else 0


cdef void store(const Messages *messages, size_t record) noexcept nogil:
    """Put the values of a message to their places."""
    cdef size_t n = messages.features
    cdef const uint8_t *key
    cdef size_t key_size, i
    cdef const Wanted *wanted
    cdef const Found *found
    cdef const Target *target
    cdef uint64_t first
    cdef Found again
    cdef Cursor cursor
    cdef Sink sink
    for i in range(n):
        wanted = &messages.wanted[i]
        found = &messages.found[record * n + i]
        target = &messages.targets[i]
        if messages.holes != NULL and messages.holes[record].size and i == messages.large:
            continue    # they are there
        first = target.splits[record] if wanted.ragged else record * wanted.count
        sink.kind, sink.run = found.kind, found.run
        sink.to = NULL
        sink.spans = NULL
        if wanted.item:
            sink.to = target.to + first * wanted.item
        else:
            sink.spans = target.spans + 2 * first
        if found.kind:
            cursor.at, cursor.end, cursor.fault = found.entry, found.end, SOUND
            if wanted.item == 0:
                sink.room = found.count
            else:
                sink.room = found.size if wanted.raw else found.count * wanted.item
            walk_entry(&cursor, &key, &key_size, &again, &sink)
            if cursor.fault != SOUND or sink.room:
                messages.failures[record].fault = CHANGED
        elif not wanted.ragged and wanted.item and wanted.count:    # else there may be no memory at all
            memcpy(sink.to, target.filler, wanted.count * wanted.item)


cdef void examine_some(void *context, size_t item) noexcept nogil:
    """Check some messages: the work function of a job."""
    cdef const Messages *messages = <const Messages *> context
    cdef size_t i
    for i in range(item * messages.per_item, min((item + 1) * messages.per_item, messages.n)):
        examine(messages, i)


cdef void store_some(void *context, size_t item) noexcept nogil:
    """Put the values of some messages to their places: the work function of a job."""
    cdef const Messages *messages = <const Messages *> context
    cdef size_t i
    for i in range(item * messages.per_item, min((item + 1) * messages.per_item, messages.n)):
        store(messages, i)


cdef uint64_t foresee(
    void *context, uint32_t position, uint64_t size, uint64_t *begin, uint8_t **target
) noexcept nogil:
    """Take it that the large values of a message lie where those of another one lay."""
    cdef const Messages *messages = <const Messages *> context
    cdef const Wanted *wanted = &messages.wanted[messages.large]
    cdef uint64_t place = load_place(messages.seen)
    cdef uint64_t length = wanted.count * wanted.item
    cdef Hole *hole = &messages.holes[position]
    hole.size = 0
    if place == 0 or place - 1 > size or size - (place - 1) < length:
        return 0
    hole.begin, hole.size = place - 1, length
    hole.target = messages.targets[messages.large].to + position * length
    begin[0], target[0] = hole.begin, hole.target
    return length


cdef void take_message(void *context, uint32_t position, const uint8_t *data, uint64_t size) noexcept nogil:
    """Check a message that was just read, and put its values to their places: what a consumer does.

    A message is gone through from its begin to its end. So where that finds the values in the hole, and skips them,
    nothing that it has looked at lay there; else the hole is filled, and the message gone through again.
    """
    cdef const Messages *messages = <const Messages *> context
    cdef const Found *found = NULL
    cdef Hole *hole = NULL
    messages.begins[position] = data
    messages.ends[position] = data + size
    examine(messages, position)
    if messages.holes != NULL:
        hole = &messages.holes[position]
        found = &messages.found[position * messages.features + messages.large]
        if hole.size and (messages.failures[position].fault != SOUND or found.data != data + hole.begin):
            memcpy(<uint8_t *> data + hole.begin, hole.target, hole.size)
            hole.size = 0
            examine(messages, position)
    if messages.failures[position].fault == SOUND:
        if hole != NULL and hole.size == 0 and found.data != NULL:
            store_place(messages.seen, 1 + <uint64_t> (found.data - data))
        store(messages, position)
    if hole != NULL:
        hole.size = 0   # whoever reads a message to this position next has not foreseen anything
