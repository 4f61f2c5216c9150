# distutils: language = c++
"""The engine: batches of members, from the index to memory that the caller owns, in native threads.

Every call has one shape: coerce the arguments, make the plan, drop the GIL, run it, take the GIL, hand back
what failed. Nothing is raised for a bad block: the callers turn failures, which are tuples of
``(position in the batch, block, Status, errno)``, into exceptions.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memset

from archivestream._native.blocks cimport find_data, run_single
from archivestream._native.buffers cimport settle_malloc
from archivestream._native.cache cimport BlockCache
from archivestream._native.codecs cimport (
    IN_PIECES, NOT_NATIVE, NOT_RUN, NO_MEMORY, OK, OUT_OF_BOUNDS, TRUNCATED, Status)
from archivestream._native.checkpoints cimport Dictionary
from archivestream._native.columns cimport BLOCKS
from archivestream._native.meter cimport Meter, MeterCounts
from archivestream._native.plan cimport (
    LARGEST_PREFIX, NO_MEMBER, Columns, Plan, Source, Task, admit, length_of_data, locate)
from archivestream._native.view cimport IndexView
from archivestream._native.work cimport Consumer, PendingRead, Work, drop_left_works, is_long


@cython.final
@cython.no_gc_clear    # finalizers may use it as long as it is there
cdef class Reader:
    """Reads the members of an index from their sources.

    Parameters
    ----------
    index : IndexView
        Where they are.
    cache : BlockCache
        Keeps blocks that members share.
    threads : int
        How many threads work on one batch, the caller's among them.
    verify : bool
        Check the checksum of every member or block that is read; `check` always does.
    dictionaries : sequence of (int, Dictionary)
        The zstd dictionaries of sources that have one.
    meter : Meter, optional
        Counts what reading costs.

    Where native code cannot read a source, the caller fetches: ``fetched`` has the bytes of each member (see
    `ranges`), and ``fetch(source, begin, end)`` is called, on the caller's thread, for each block that members share;
    it returns the bytes, or a number that comes back as the errno of `Status.NOT_FETCHED`.

    Safe for any number of threads, and in forked processes.
    """

    cdef IndexView index
    cdef const Columns *columns
    cdef BlockCache cache
    cdef size_t threads
    cdef bint verify
    cdef object dictionaries
    cdef Meter meter
    cdef MeterCounts *counts    # NULL: nothing is counted

    def __cinit__(
        self, IndexView index not None, BlockCache cache not None, *, size_t threads, bint verify, dictionaries=(),
        Meter meter=None,
    ):
        cdef Source *source
        cdef Dictionary dictionary
        self.index = index
        self.columns = &index.columns
        self.cache = cache
        self.verify = verify
        self.threads = threads
        self.meter = meter
        if meter is not None:
            self.counts = meter.counts
        self.dictionaries = list(dictionaries)
        for place, dictionary in self.dictionaries:
            source = <Source *> &index.columns.sources[<uint32_t> place]
            source.dictionary = dictionary.handle

    cdef Status _prepare(self, Task *task, uint64_t block, size_t position, bint whole) noexcept nogil:
        """Fill in a task from the index, or its status where the index forbids it."""
        memset(task, 0, sizeof(Task))
        task.block = <uint32_t> block
        task.position = <uint32_t> position
        task.status = OUT_OF_BOUNDS if block >= self.columns.n else admit(self.columns, block)
        if task.status == OK:
            task.status = NOT_RUN
            locate(self.columns, task, whole)
        return task.status

    def read(self, uint64_t block, fetch=None):
        """Return the bytes of one member, or (status, errno).

        Decoded on this thread, unless it lies in many blocks, or takes so long that Ctrl-C is to be answered meanwhile.
        """
        cdef Plan plan
        cdef Task task
        self._prepare(&task, block, 0, False)
        if task.status == IN_PIECES or (task.status == NOT_RUN and is_long(self.columns, &task)):
            one = memoryview(bytearray(8)).cast("q")
            one[0] = block
            (data,), failures = self.read_many(one, None, fetch)
            return failures[0][2:] if failures else data
        if task.status != NOT_RUN:
            return <int> task.status, task.error
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> self.columns.size[block])
        memset(&plan, 0, sizeof(plan))
        plan.columns = self.columns
        plan.meter = self.counts
        plan.verify = self.verify
        task.target = <uint8_t *> PyBytes_AS_STRING(data)
        with nogil:
            run_single(&plan, &task)
        return data if task.status == OK else (<int> task.status, task.error)

    def payload(self, uint64_t block, const uint8_t[::1] fetched=None):
        """Return the compressed bytes of a block, whatever its codec, or (status, errno).

        Of a stream that is out of proportion to what it holds, only the beginning: see `readable`.
        """
        cdef Plan plan
        cdef Task task
        cdef Status status = self._prepare(&task, block, 0, fetched is not None)
        if status == NOT_NATIVE:
            task.status = NOT_RUN
            locate(self.columns, &task, fetched is not None)
        if task.status != NOT_RUN:
            return <int> task.status, task.error
        memset(&plan, 0, sizeof(plan))
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> length_of_data(self.columns, block))
        plan.columns = self.columns
        plan.raw = True
        task.target = <uint8_t *> PyBytes_AS_STRING(data)
        self._give_input(&task, fetched)
        with nogil:
            run_single(&plan, &task)
        return data if task.status == OK else (<int> task.status, task.error)

    cdef int _give_input(self, Task *task, const uint8_t[::1] fetched) except -1:
        if fetched is None:
            return 0
        if <uint64_t> fetched.shape[0] < task.end - task.begin:
            # The source ended early; what there is may do, or the block is truncated.
            task.end = task.begin + fetched.shape[0]
        task.input = &fetched[0] if fetched.shape[0] else <const uint8_t *> b""
        return 0

    def data_offset(self, uint64_t block, const uint8_t[::1] header not None):
        """Return where the data of a block begin, from the bytes of its local header, or (status, errno)."""
        cdef Task task
        cdef uint32_t span
        if self._prepare(&task, block, 0, True) == NOT_NATIVE:
            task.status = NOT_RUN
            locate(self.columns, &task, True)
        if task.status == NOT_RUN:
            task.status = find_data(
                self.columns, &task, &header[0] if header.shape[0] else NULL, header.shape[0], &span)
            if task.status == OK:
                return self.columns.offset[block] + span
        return <int> task.status, task.error

    def refusals(self, const int64_t[::1] blocks not None):
        """List (position, status) of the blocks that the index alone forbids to read."""
        cdef Task task
        cdef Py_ssize_t i
        cdef list found = []
        for i in range(blocks.shape[0]):
            self._prepare(&task, blocks[i], i, False)
            if task.status != NOT_RUN and task.status != IN_PIECES:
                found.append((i, <int> task.status))
        return found

    def ranges(self, const int64_t[::1] blocks not None):
        """List the (source, begin, end) that blocks need, for sources that the caller reads; None where refused."""
        cdef Task task
        cdef Py_ssize_t i
        cdef list found = []
        for i in range(blocks.shape[0]):
            if self._prepare(&task, blocks[i], i, True) == NOT_NATIVE:
                task.status = NOT_RUN
                locate(self.columns, &task, True)
            found.append((task.source, task.begin, task.end) if task.status == NOT_RUN else None)
        return found

    cdef Work _work(self, size_t n, owners):
        """Make an empty plan."""
        cdef Work work = Work.__new__(Work)
        if n > 0xFFFFFFFF:
            raise ValueError("a batch has fewer than 2**32 members")
        drop_left_works()
        work.owners = (self, owners)
        work.plan.columns = self.columns
        work.plan.verify = self.verify
        work.plan.meter = self.counts
        work.plan.cache_limit = self.cache.limit
        work.plan.cache = self.cache.blocks if self.cache.limit else NULL
        work.plan.n = n
        work.plan.tasks = <Task *> malloc((n + 1) * sizeof(Task))
        if work.plan.tasks == NULL:
            raise MemoryError("no memory for the plan of a batch")
        return work

    cdef Work _plan(self, const int64_t[::1] blocks, fetched, owners):
        """Make the plan of a batch, with no targets yet."""
        cdef size_t n = blocks.shape[0]
        cdef Work work = self._work(n, (fetched, owners))
        cdef size_t i
        with nogil:
            for i in range(n):
                self._prepare(&work.plan.tasks[i], blocks[i], i, False)
        if fetched is not None:
            if len(fetched) != <Py_ssize_t> n:
                raise ValueError(f"{len(fetched)} inputs for a batch of {n}")
            for i, data in enumerate(fetched):
                if data is not None and work.plan.tasks[i].status == NOT_RUN:
                    locate(self.columns, &work.plan.tasks[i], True)
                    self._give_input(&work.plan.tasks[i], data)
        return work

    def read_many(self, const int64_t[::1] blocks not None, fetched=None, fetch=None):
        """Return a list of bytes (None where a member failed) and the failures."""
        cdef Work work = self._plan(blocks, fetched, None)
        cdef list result = PyList_New(work.plan.n)
        cdef Task *task
        cdef size_t i
        settle_malloc()
        for i in range(work.plan.n):
            PyList_SET_ITEM_none(result, i)
        for i in range(work.plan.n):
            task = &work.plan.tasks[i]
            if task.status == NOT_RUN or task.status == IN_PIECES:
                data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> self.columns.size[task.block])
                task.target = <uint8_t *> PyBytes_AS_STRING(data)
                result[i] = data
        work.owners += (result,)
        work.is_private = True
        work.start(self.threads, True, fetch)
        work.finish()
        failures = work.failures()
        for failure in failures:
            result[failure[0]] = None
        return result, failures

    def feed(self, const int64_t[::1] blocks not None, Consumer consumer not None, fetched=None, fetch=None):
        """Hand members to a consumer as they are read, and return the failures: these it does not get."""
        cdef Work work = self._plan(blocks, fetched, None)
        cdef list whole = []    # the memory of members that come in pieces
        cdef Task *task
        cdef size_t i
        if consumer.function == NULL:
            raise ValueError("the consumer is not ready")
        if consumer.count != work.plan.n:
            raise ValueError(f"the consumer takes {consumer.count} members, not {work.plan.n}")
        work.plan.consume, work.plan.foresee = consumer.function, consumer.foresee
        work.plan.consumer = consumer.context
        work.owners += (consumer, whole)
        for i in range(work.plan.n):
            task = &work.plan.tasks[i]
            if task.status == IN_PIECES:
                data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> self.columns.size[task.block])
                task.target = <uint8_t *> PyBytes_AS_STRING(data)
                whole.append(data)
        work.start(self.threads, True, fetch)
        work.finish()
        with nogil:
            for i in range(work.plan.n):
                task = &work.plan.tasks[i]
                if task.target != NULL and task.status == OK:
                    consumer.function(
                        consumer.context, task.position, task.target, self.columns.size[task.block])
        return work.failures()

    def offsets(self, const int64_t[::1] blocks not None, int64_t[::1] offsets not None):
        """Fill in where each block of a batch begins; stop before the first that is refused, and return it."""
        cdef Task task
        cdef size_t n = blocks.shape[0]
        cdef size_t i
        cdef Status status
        if <size_t> offsets.shape[0] != n + 1:
            raise ValueError("offsets must have a row more than the batch")
        offsets[0] = 0
        for i in range(n):
            status = OUT_OF_BOUNDS if <uint64_t> blocks[i] >= self.columns.n else admit(self.columns, blocks[i])
            if status == OK:
                # An impossible block takes no memory either: what the file has no room for is refused here.
                self._prepare(&task, blocks[i], i, False)
                status = OK if task.status == NOT_RUN or task.status == IN_PIECES else task.status
            if status != OK and status != NOT_NATIVE:
                return i, blocks[i], <int> status, 0
            if self.columns.size[blocks[i]] > <uint64_t> (0x7FFFFFFFFFFFFFFF - offsets[i]):
                return i, blocks[i], <int> NO_MEMORY, 0
            offsets[i + 1] = offsets[i] + <int64_t> self.columns.size[blocks[i]]
        return None

    def read_stream(
        self, uint32_t source, uint64_t begin, uint8_t[::1] out not None, fetch=None, *, bint check=False
    ):
        """Decode a range of the logical stream of a source that has blocks; return (status, errno).

        With `check`, it is read and verified as by the method of that name.
        """
        cdef Work work = self._work(1, (out,))
        cdef Task *task = work.plan.tasks
        cdef uint64_t size = out.shape[0]
        cdef uint64_t stream_size
        if source >= self.columns.n_sources or self.columns.sources[source].layout != BLOCKS:
            raise ValueError("the source has no blocks")
        stream_size = self.columns.sources[source].stream_size
        memset(task, 0, sizeof(Task))
        task.status = IN_PIECES
        if begin > stream_size or size > stream_size - begin:
            return <int> TRUNCATED, 0
        if size == 0:
            return <int> OK, 0
        task.source = source
        task.block = NO_MEMBER
        task.begin, task.end = begin, begin + size
        task.target = &out[0]
        if check:
            verify_all(&work.plan)
        work.start(self.threads, True, fetch)
        work.finish()
        failures = work.failures()
        return failures[0][2:] if failures else (<int> OK, 0)

    cdef Work _into(
        self, const int64_t[::1] blocks, uint8_t[::1] out, const int64_t[::1] targets, fetched, size_t skip,
    ):
        """Make a batch whose block *i*, less `skip` bytes, goes to ``out[targets[i]:]``."""
        cdef Work work = self._plan(blocks, fetched, (out,))
        cdef uint8_t *base = &out[0] if out.shape[0] else NULL
        cdef Task *task
        cdef uint64_t size
        cdef size_t i
        if <size_t> targets.shape[0] < work.plan.n:
            raise ValueError("a target is missing")
        for i in range(work.plan.n):
            task = &work.plan.tasks[i]
            if task.status != NOT_RUN and task.status != IN_PIECES:
                continue
            size = self.columns.size[task.block]
            if size < skip:
                raise ValueError("a member is smaller than the prefix")
            if (
                targets[i] < 0 or targets[i] > out.shape[0]
                or <uint64_t> (out.shape[0] - targets[i]) < size - skip
            ):
                raise ValueError("a target lies outside the buffer")
            task.target = base + targets[i] if base != NULL else <uint8_t *> PyBytes_AS_STRING(b"")
        return work

    def read_into(
        self, const int64_t[::1] blocks not None, uint8_t[::1] out not None,
        const int64_t[::1] targets not None, fetched=None, fetch=None,
    ):
        """Decode member *i* to ``out[targets[i]:]`` and return the failures."""
        cdef Work work = self._into(blocks, out, targets, fetched, 0)
        work.start(self.threads, True, fetch)
        work.finish()
        return work.failures()

    def submit(
        self, const int64_t[::1] blocks not None, uint8_t[::1] out not None,
        const int64_t[::1] targets not None, fetched=None, fetch=None,
    ):
        """Begin to do what `read_into` does, in the background."""
        cdef PendingRead pending = PendingRead.__new__(PendingRead)
        pending.work = self._into(blocks, out, targets, fetched, 0)
        pending.work.start(self.threads, False, fetch)
        return pending

    def read_slots(
        self, const int64_t[::1] blocks not None, uint8_t[::1] out not None, const uint8_t[::1] prefix not None,
        fetched=None, fetch=None,
    ):
        """Decode members of one size, less a prefix that they share, to consecutive slots of ``out``.

        A compressed block is decoded with its prefix lying over the end of the slot before, which is put
        back afterwards: no byte is copied. So that no two threads meet there, even slots come first, then
        odd ones.

        Returns the failures; `Status.PREFIX_DIFFERS` where a member begins with other bytes.
        """
        cdef size_t skip = prefix.shape[0]
        cdef size_t n = blocks.shape[0]
        cdef size_t slot = out.shape[0] // n if n else 0
        cdef list failures = []
        cdef int64_t[::1] chosen
        cdef int64_t[::1] targets
        cdef Work work
        if skip > LARGEST_PREFIX:
            raise ValueError(f"a prefix has at most {LARGEST_PREFIX} bytes")
        if n and slot == 0:
            raise ValueError("the slots are empty")
        for phase in range(2):
            count = (n + 1 - phase) // 2
            if count == 0:
                continue
            room = bytearray(16 * count)
            chosen = memoryview(room).cast("q")[:count]
            targets = memoryview(room).cast("q")[count:]
            for i in range(count):
                chosen[i] = blocks[2 * i + phase]
                targets[i] = (2 * i + phase) * slot
            work = self._into(chosen, out, targets, None if fetched is None else fetched[phase::2], skip)
            for i in range(count):
                if work.plan.tasks[i].status in (NOT_RUN, IN_PIECES) and self.columns.size[chosen[i]] - skip != slot:
                    raise ValueError("members of a batch of arrays have one size")
            work.plan.skip = skip
            work.plan.prefix = &prefix[0] if skip else NULL
            # The prefix must lie within the slot before: beyond it, other threads are at work.
            work.plan.room = &out[0] + (skip if skip <= slot else <size_t> out.shape[0])
            work.start(self.threads, True, fetch)
            work.finish()
            failures += [(2 * f[0] + phase, f[1], f[2], f[3]) for f in work.failures()]
        return sorted(failures)

    def check(self, const int64_t[::1] blocks not None, fetched=None, fetch=None):
        """Decode and verify members, whatever `verify` says, without keeping them; return the failures.

        All is read from the source anew, and blocks are decoded to their ends.
        """
        cdef Work work = self._plan(blocks, fetched, None)
        verify_all(&work.plan)
        work.start(self.threads, True, fetch)
        work.finish()
        return work.failures()


cdef inline void verify_all(Plan *plan) noexcept:
    """Have all read from the source anew, and blocks decoded to their ends."""
    plan.verify = True
    plan.whole = True
    plan.cache = NULL


cdef inline void PyList_SET_ITEM_none(list target, size_t i):
    Py_INCREF(None)
    PyList_SET_ITEM(target, i, None)
