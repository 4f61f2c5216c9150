# distutils: language = c++
"""Work: a plan, the memory that it works on, and the threads that do it."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libcpp cimport bool as cpp_bool

from archivestream._native.blocks cimport run_single
from archivestream._native.codecs cimport NOT_FETCHED, NOT_RUN, NO_MEMORY, OK, Status
from archivestream._native.pieces cimport fail_block, make_pieces, reset_pieces, settle_pieces
from archivestream._native.plan cimport BlockTable, BlockTask, locate, make_groups
from archivestream._native.scatter cimport run_item

cdef extern from *:
    """
    static inline std::shared_ptr<archivestream::Job> new_job(
        void (*work)(void *, std::size_t), void *context, std::size_t items) {
      return std::make_shared<archivestream::Job>(work, context, items);
    }

    // Forget a job of the parent process for good: its locks may be held by threads that are not here, and
    // destroying them would wait for those. Another pointer takes the place of the one to it, which is not destroyed.
    static inline void leak_job(std::shared_ptr<archivestream::Job> &job) noexcept {
      new (&job) std::shared_ptr<archivestream::Job>();
    }
    """
    shared_ptr[Job] new_job(void (*work)(void *, size_t) noexcept nogil, void *context, size_t items) except +
    void leak_job(shared_ptr[Job] &job) noexcept

cdef enum:
    LARGEST_FETCH = 16 << 20        # bytes of compressed blocks that a batch holds at a time, and a block more
    LONG = 256 << 20                # bytes to read or to decode that take a thread longer than Ctrl-C is to wait

# How long a wait goes on before it looks for signals, so that Ctrl-C is answered.
cdef double SLICE = 0.05

# Works whose callers were interrupted, while threads are at work on what is theirs. Each has a reference more than
# those of the list: the end of the interpreter does not wait for them.
cdef list left_works = []


cdef int run_items(
    void (*work)(void *, size_t) noexcept nogil, void *context, size_t items, size_t threads
) except -1:
    """Have some threads, the caller among them, do all items of a job. Raises what a signal handler raises."""
    cdef shared_ptr[Job] job = new_job(work, context, items)
    cdef size_t helpers = min(threads, items)
    cdef bint done = False
    if helpers > 1:
        ThreadPool.run(job, helpers - 1)
    try:
        while not done:
            with nogil:
                done = job.get().help(SLICE) and job.get().wait(SLICE)
            PyErr_CheckSignals()
    except BaseException:
        with nogil:     # the context may be gone once this has returned
            job.get().cancel()
            while not job.get().wait(1.0):
                pass
        raise
    return 0


cdef class Consumer:
    """Takes members as they are read, on the threads that read them; made by subclasses in native code."""

    def take(self, uint32_t position, const uint8_t[::1] data not None):
        """Take the member at a position of a batch."""
        cdef const uint8_t *start = &data[0] if data.shape[0] else <const uint8_t *> b""
        cdef uint64_t size = data.shape[0]
        if self.function == NULL:
            raise ValueError("the consumer is not ready")
        if position >= self.count:
            raise IndexError(f"the consumer takes {self.count} members")
        with nogil:
            self.function(self.context, position, start, size)


@cython.final
@cython.no_gc_clear
cdef class Work:
    """A plan with all the memory that it works on: kept alive, and in place, until the last thread has left."""

    def __del__(self):
        # The collector of reference cycles calls this before it takes anything apart: no thread may be at work
        # on the memory then. Other finalizers may still ask for the result, and get it.
        self.call_off()

    def __dealloc__(self):
        if self.job and self.generation != ThreadPool.generation():
            leak_job(self.job)
        else:
            self.call_off()     # begun anew by another finalizer
        self.release_blocks()
        free(self.plan.tasks)
        free(self.plan.groups)
        free(self.plan.pieces)
        free(self.plan.block_tasks)

    cdef void release_blocks(self) noexcept:
        cdef size_t i
        for i in range(self.plan.n_block_tasks):
            if self.plan.block_tasks[i].entry != NULL:
                self.plan.cache.release(self.plan.block_tasks[i].entry)

    cdef bint has_long_item(self):
        cdef size_t i
        for i in range(self.plan.n):
            if self.plan.tasks[i].status == NOT_RUN and is_long(self.plan.columns, &self.plan.tasks[i]):
                return True
        for i in range(self.plan.n_block_tasks):
            if self.plan.columns.blocks.size[self.plan.block_tasks[i].block] >= LONG:
                return True
        return False

    cdef int leave(self) except -1:
        """Begin no more of the work, and leave what is under way to its threads."""
        if self.job and self.generation == ThreadPool.generation():
            self.job.get().cancel()
            self.cancelled = True
            if not self.job.get().done():
                left_works.append(self)
                Py_INCREF(self)
        return 0

    cdef void call_off(self) noexcept:
        """Begin no more of the work, and wait for what is under way."""
        if self.job and self.generation == ThreadPool.generation() and not self.finished:
            with nogil:
                self.job.get().cancel()
                while not self.job.get().wait(1.0):
                    pass
            self.cancelled = True

    cdef int start(self, size_t threads, bint helping, fetch) except -1:
        """Set the threads to work; with ``helping`` the caller is going to be one of them."""
        cdef Status status
        self.threads = threads
        with nogil:
            status = make_groups(&self.plan, threads)
            if status == OK:
                status = make_pieces(&self.plan)
        if status == NO_MEMORY:
            raise MemoryError("no memory for the plan of a batch")
        self.is_long = helping and self.has_long_item()
        helping = helping and not self.is_long
        if fetch is not None:
            # Some at a time, so that a batch takes no memory for all of its compressed blocks.
            while (end := self.fetch_blocks(fetch)) < self.plan.n_block_tasks:
                self.ask_threads(end - self.plan.done_blocks, threads - (not self.is_long))
                self.work_along()
                self.plan.done_blocks = end
        return self.ask_threads(
            self.plan.n_block_tasks - self.plan.done_blocks + self.plan.n_groups, threads - helping)

    cdef size_t fetch_blocks(self, fetch) except? 0:
        """Have the caller fetch the next blocks, but for those that native code can read or that are in the cache.

        Returns
        -------
        size_t
            The first that was not looked at.
        """
        cdef const BlockTable *table = &self.plan.columns.blocks
        cdef BlockTask *task
        cdef uint32_t source
        cdef size_t i
        cdef const uint8_t[::1] view
        cdef size_t held = 0
        self.fetched = []
        for i in range(self.plan.done_blocks, self.plan.n_block_tasks):
            if held >= LARGEST_FETCH:
                return i
            task = &self.plan.block_tasks[i]
            source = self.plan.tasks[self.plan.pieces[task.first].task].source
            if self.plan.columns.sources[source].fd >= 0 or self.plan.columns.sources[source].memory != NULL:
                continue
            if self.plan.cache != NULL:
                task.entry = self.plan.cache.find(task.block, task.upto)
                if task.entry != NULL:
                    continue
            begin = table.offset[task.block]
            data = fetch(source, begin, begin + table.compressed_size[task.block])
            if isinstance(data, int):
                fail_block(&self.plan, task, NOT_FETCHED, data)
            elif <size_t> len(data) != table.compressed_size[task.block]:
                continue
            elif len(data):
                view = data
                self.fetched.append(view)
                held += view.shape[0]
                task.input = &view[0]
            else:
                task.input = <const uint8_t *> b""
        return self.plan.n_block_tasks

    cdef int ask_threads(self, size_t items, size_t helpers) except -1:
        """Set so many threads to some items of the plan, from the first that is not done on."""
        cdef cpp_bool asked = False
        self.job = new_job(run_item, &self.plan, items)
        self.generation = ThreadPool.generation()
        # One item for the caller, or for the first thread.
        helpers = min(helpers, items - (helpers < self.threads and items > 0))
        if helpers:
            with nogil:
                asked = ThreadPool.run(self.job, helpers)
        self.alone = not asked
        return 0

    cdef int begin_anew(self) except -1:
        """Begin once more: the plan is whole, but its threads are in the parent process, or were called off."""
        cdef size_t i, j
        cdef Task *task
        if not self.cancelled:
            leak_job(self.job)
        self.cancelled = False
        for i in range(self.plan.n_groups):
            for j in range(self.plan.groups[i].begin, self.plan.groups[i].end):
                task = &self.plan.tasks[j]
                task.status = NOT_RUN
                if task.input == NULL:
                    locate(self.plan.columns, task, False)
        reset_pieces(&self.plan)
        return self.ask_threads(
            self.plan.n_block_tasks - self.plan.done_blocks + self.plan.n_groups, self.threads)

    cdef bint is_idle(self):
        return self.cancelled or self.generation != ThreadPool.generation()

    cdef int finish(self) except -1:
        """Work along until the batch is done. Raises what a signal handler raises (KeyboardInterrupt)."""
        if self.finished:
            return 0    # the memory is the caller's again
        if self.is_idle():
            self.begin_anew()
        try:
            self.work_along()
        except BaseException:
            if self.is_private:
                self.leave()
            raise
        settle_pieces(&self.plan)
        self.read_as_streams()
        self.finished = True
        return 0

    cdef int read_as_streams(self) except -1:
        """Read what `settle_pieces` left to be read as streams. Raises what a signal handler raises.

        One after the other: such members are few, or the archive is damaged.
        """
        cdef Plan plan = self.plan
        cdef size_t i
        plan.consume = NULL     # what was in pieces has a target, and goes to the consumer from there
        for i in range(plan.n):
            if plan.tasks[i].status == NOT_RUN:
                with nogil:
                    run_single(&plan, &plan.tasks[i])
                PyErr_CheckSignals()
        return 0

    cdef int work_along(self) except -1:
        cdef bint done = False
        cdef bint waits = self.is_long and not self.alone
        cdef Job *job = self.job.get()
        if waits:
            with nogil:
                done = job.wait(SLICE)
            PyErr_CheckSignals()
            waits = job.begun()     # else all threads are busy elsewhere
        while not done:
            with nogil:
                done = (waits or job.help(SLICE)) and job.wait(SLICE)
            PyErr_CheckSignals()
        return 0

    cdef list failures(self):
        cdef list found = []
        cdef size_t i
        cdef Task *task
        for i in range(self.plan.n):
            task = &self.plan.tasks[i]
            if task.status != OK:
                found.append((task.position, task.block, <int> task.status, task.error))
        found.sort()
        return found


cdef bint is_long(const Columns *columns, const Task *task) noexcept nogil:
    """Whether reading or decoding a member by itself takes a thread long."""
    return columns.size[task.block] >= LONG or task.end - task.begin >= LONG


cdef int drop_left_works() except -1:
    """Forget works that were left, as far as their threads are done."""
    cdef Work work
    for work in list(left_works):
        if work.generation != ThreadPool.generation() or work.job.get().done():
            left_works.remove(work)
            Py_DECREF(work)
    return 0


@cython.final
@cython.no_gc_clear    # finalizers may use it as long as it is there
cdef class PendingRead:
    """A batch that threads work on in the background."""

    def __init__(self):
        raise TypeError("made by Reader.submit")

    def done(self):
        """Whether `wait` would return at once."""
        if self.work.finished:
            return True
        if self.work.is_idle():
            self.work.begin_anew()
        if self.work.alone:
            # Nobody else does it, so do a part each time: asking for long enough comes to an end.
            with nogil:
                self.work.job.get().help(0)
        return self.work.job.get().done()

    def wait(self):
        """Wait, working along, and return the failures."""
        self.work.finish()
        return self.work.failures()
