# distutils: language = c++
"""``tf.train.Example``: from a batch of messages to arrays, in threads; `examplewalk` goes through each message."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memset

from archivestream._native.examplewalk cimport examine_some, foresee, store_some, take_message
from archivestream._native.protobuf cimport MISSING, SOUND
from archivestream._native.work cimport run_items

cdef enum:
    WORK = 128 << 10            # bytes of messages that a thread takes at a time, at least
    LEAST_FORESEEN = 16 << 10   # bytes of values that are worth a read to their place


@cython.final
cdef class Schema:
    """What a parser wants.

    Parameters
    ----------
    features : sequence of (bytes, int, int, int, bool, bool)
        Of each: its name; the field of ``Feature`` that has its values; how many it has, or -1 where that differs; the
        bytes of one, or 0 where each is a bytes object of its own; whether one bytes value holds all; and whether there
        is a default.
    """

    def __cinit__(self, features):
        cdef Wanted wanted
        self.names = []
        for name, kind, count, item, raw, has_default in features:
            self.names.append(name)     # whose bytes stay where they are
            wanted.name = <const uint8_t *> PyBytes_AS_STRING(name)
            wanted.name_size = <size_t> PyBytes_GET_SIZE(name)
            wanted.kind = kind
            wanted.ragged = count < 0
            wanted.count = 0 if count < 0 else count
            wanted.item = item
            wanted.raw = raw
            wanted.has_default = has_default
            self.wanted.push_back(wanted)


@cython.final
cdef class Examples:
    """A batch of messages that were checked, or are about to come.

    Parameters
    ----------
    schema : Schema
        What is wanted of them.
    records : sequence of bytes-like, bytes-like or int
        The messages; or all of them, one behind the other; or how many will come: see `await_all`.
    offsets : buffer of int64, optional
        Where each of those begins, and where the last one ends.
    threads : int
        That take part.
    """

    def __cinit__(self, Schema schema not None, records, const int64_t[::1] offsets=None, *, size_t threads=1):
        cdef const uint8_t[::1] view
        cdef const uint8_t *base
        cdef Py_ssize_t i
        self.schema = schema
        self.owners = []
        if isinstance(records, int):
            self.begins.resize(records, NULL)
            self.ends.resize(records, NULL)
        elif offsets is None:
            for record in records:
                self.add(record)
        else:
            view = records
            self.owners.append(view)
            base = &view[0] if view.shape[0] else <const uint8_t *> b""
            for i in range(offsets.shape[0] - 1):
                if not 0 <= offsets[i] <= offsets[i + 1] <= view.shape[0]:
                    raise ValueError("the offsets do not lead through the buffer")
                self.begins.push_back(base + offsets[i])
                self.ends.push_back(base + offsets[i + 1])
        self.found.resize(self.begins.size() * schema.wanted.size())
        self.failures.resize(self.begins.size())
        self.describe()
        if not isinstance(records, int):
            self.each(examine_some, threads)

    def __len__(self):
        return self.begins.size()

    cdef int add(self, record) except -1:
        cdef const uint8_t[::1] view
        cdef const uint8_t *begin
        cdef size_t size
        if PyBytes_CheckExact(record):
            self.owners.append(record)
            begin = <const uint8_t *> PyBytes_AS_STRING(record)
            size = <size_t> PyBytes_GET_SIZE(record)
        else:
            view = record
            self.owners.append(view)
            size = view.shape[0]
            begin = &view[0] if size else <const uint8_t *> b""
        self.begins.push_back(begin)
        self.ends.push_back(begin + size)
        return 0

    cdef int each(self, void (*work)(void *, size_t) noexcept nogil, size_t threads) except -1:
        """Do something with each message, in threads where that is worth it."""
        cdef size_t n = self.begins.size()
        cdef size_t total = 0
        cdef size_t i
        for i in range(n):
            total += self.ends[i] - self.begins[i]
        self.messages.per_item = n * WORK // (total + 1) + 1
        return run_items(work, &self.messages, (n + self.messages.per_item - 1) // self.messages.per_item, threads)

    cdef void describe(self) noexcept:
        """Say where all is, once the vectors stay as long as they are."""
        self.messages.n = self.begins.size()
        self.messages.features = self.schema.wanted.size()
        self.messages.wanted = self.schema.wanted.data()
        self.messages.begins, self.messages.ends = self.begins.data(), self.ends.data()
        self.messages.found, self.messages.failures = self.found.data(), self.failures.data()

    def failed(self):
        """List (record, `ExampleFault`, offset in it, feature, its kind, values and bytes) of what is wrong."""
        cdef size_t n = self.schema.wanted.size()
        cdef size_t i
        cdef Failure failure
        cdef Found found
        cdef list failed = []
        for i in range(self.failures.size()):
            failure = self.failures[i]
            if failure.fault == SOUND:
                continue
            memset(&found, 0, sizeof(found))
            if failure.fault >= MISSING:
                found = self.found[i * n + failure.wanted]
            failed.append((
                i, <int> failure.fault, failure.offset, failure.wanted, found.kind, found.count, found.size))
        return failed

    def splits(self, size_t feature, int64_t[::1] out not None):
        """Fill in where the values of each message begin among all of a ragged feature, and where the last end."""
        cdef size_t n = self.schema.wanted.size()
        cdef const Wanted *wanted = &self.schema.wanted[feature]
        cdef const Found *found
        cdef size_t i
        if feature >= n or <size_t> out.shape[0] != self.begins.size() + 1:
            raise ValueError("out must have a row more than the batch")
        out[0] = 0
        for i in range(self.begins.size()):
            found = &self.found[i * n + feature]
            out[i + 1] = out[i] + <int64_t> (found.size // wanted.item if wanted.raw else found.count)

    def place(self, outputs):
        """Say where values go.

        Parameters
        ----------
        outputs : sequence of (buffer or int, buffer or None, buffer or None)
            For each feature: the memory of its values, or how many there are, where they become bytes objects; the
            `splits` of a ragged one; what stands for a missing one, where it has a default.
        """
        cdef Target target
        cdef size_t n = self.begins.size()
        cdef const Wanted *wanted
        cdef uint8_t[::1] to
        cdef const int64_t[::1] splits
        cdef const uint8_t[::1] filler
        cdef uint64_t room, values
        cdef size_t i
        cdef list owners = []
        if len(outputs) != <Py_ssize_t> self.schema.wanted.size() or self.targets.size():
            raise ValueError("a place for each feature, and once")
        self.spans.resize(len(outputs))
        for i, (memory, bounds, default) in enumerate(outputs):
            wanted = &self.schema.wanted[i]
            memset(&target, 0, sizeof(target))
            values = n * wanted.count
            if wanted.ragged:
                splits = bounds
                target.splits = &splits[0]
                values = splits[n]
                owners.append(splits)
            if wanted.item:
                to = memory
                target.to = &to[0] if to.shape[0] else NULL
                room = to.shape[0]
                owners.append(to)
                if room != values * wanted.item:
                    raise ValueError("the memory of a feature does not fit its values")
            else:
                self.spans[i].resize(2 * values, NULL)
                target.spans = self.spans[i].data()
            if default is not None:
                filler = default
                if <uint64_t> filler.shape[0] != wanted.count * wanted.item:
                    raise ValueError("a default does not fit its feature")
                target.filler = &filler[0] if filler.shape[0] else NULL
                owners.append(filler)
            self.targets.push_back(target)
        self.places = owners
        self.messages.targets = self.targets.data()

    def fill(self, *, size_t threads):
        """Put all values to their places; none of the messages has failed.

        Returns
        -------
        list of (list or None)
            The bytes objects of each feature that has some; None stands for each value of a missing one.
        """
        cdef list objects = []
        cdef size_t i
        if self.targets.size() != self.schema.wanted.size() or self.failed():
            raise ValueError("a place for each feature, of messages that are sound")
        self.each(store_some, threads)
        if self.failed():
            raise ValueError("the messages were changed while they were parsed")
        for i in range(self.spans.size()):
            objects.append(None if self.schema.wanted[i].item else to_objects(self.spans[i]))
        return objects

    def await_all(self):
        """Be ready to be fed: each message is checked and put to its places when it comes.

        For features that all examples have in one shape, and whose values are no bytes objects: a message does not
        stay where it is once it was taken.
        """
        cdef uint64_t size, largest = 0
        cdef const Wanted *wanted
        cdef size_t i
        for i in range(self.schema.wanted.size()):
            wanted = &self.schema.wanted[i]
            if wanted.ragged or not wanted.item:
                raise ValueError("a feature needs all messages at once")
            size = wanted.count * wanted.item
            if wanted.raw and size > largest:
                largest, self.messages.large = size, i
        if self.targets.size() != self.schema.wanted.size():
            raise ValueError("a place for each feature")
        if largest >= LEAST_FORESEEN:
            self.holes.resize(self.begins.size())
            self.messages.holes = self.holes.data()
            self.messages.seen = &self.schema.seen
            self.foresee = foresee
        self.context = &self.messages
        self.function = take_message
        self.count = self.begins.size()


cdef list to_objects(const vector[const uint8_t *] &spans):
    cdef list objects = []
    cdef size_t i
    for i in range(0, spans.size(), 2):
        if spans[i] == NULL:
            objects.append(None)
        else:
            objects.append(PyBytes_FromStringAndSize(<const char *> spans[i], spans[i + 1] - spans[i]))
    return objects


def pack_varints(const int64_t[::1] values not None):
    """Encode integers one behind the other, seven bits a byte, as packed fields have them."""
    cdef vector[uint8_t] packed
    cdef uint64_t rest
    cdef Py_ssize_t i
    for i in range(values.shape[0]):
        rest = <uint64_t> values[i]
        while rest >= 0x80:
            packed.push_back(<uint8_t> (rest | 0x80))
            rest >>= 7
        packed.push_back(<uint8_t> rest)
    return PyBytes_FromStringAndSize(<const char *> packed.data(), packed.size())
