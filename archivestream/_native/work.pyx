# distutils: language = c++
"""Work: a plan, the memory that it works on, and the threads that do it."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free
from libcpp cimport bool as cpp_bool

from archivestream._native.blocks cimport run_group
from archivestream._native.codecs cimport NOT_RUN, NO_MEMORY, OK, Status
from archivestream._native.plan cimport Task, locate, make_groups

cdef extern from *:
    """
    static inline std::shared_ptr<archivestream::Job> new_job(
        void (*work)(void *, std::size_t), void *context, std::size_t items) {
      return std::make_shared<archivestream::Job>(work, context, items);
    }

    // Forget a job of the parent process for good: its locks may be held by threads that are not here, and
    // destroying them would wait for those.
    static inline void leak_job(std::shared_ptr<archivestream::Job> &job) {
      new std::shared_ptr<archivestream::Job>(std::move(job));
      job = nullptr;
    }
    """
    shared_ptr[Job] new_job(void (*work)(void *, size_t) noexcept nogil, void *context, size_t items) except +
    void leak_job(shared_ptr[Job] &job) noexcept

# How long a wait goes on before it looks for signals, so that Ctrl-C is answered.
cdef double SLICE = 0.05


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
        free(self.plan.tasks)
        free(self.plan.groups)

    cdef void call_off(self) noexcept:
        """Begin no more of the work, and wait for what is under way."""
        if self.job and self.generation == ThreadPool.generation() and not self.finished:
            with nogil:
                self.job.get().cancel()
                while not self.job.get().wait(1.0):
                    pass
            self.cancelled = True

    cdef int start(self, size_t threads, bint helping) except -1:
        """Set the threads to work; with ``helping`` the caller is going to be one of them."""
        cdef Status status
        self.threads = threads
        with nogil:
            status = make_groups(&self.plan, threads)
        if status == NO_MEMORY:
            raise MemoryError("no memory for the plan of a batch")
        return self.ask_threads(threads - helping)

    cdef int ask_threads(self, size_t helpers) except -1:
        cdef cpp_bool asked = False
        self.job = new_job(run_group, &self.plan, self.plan.n_groups)
        self.generation = ThreadPool.generation()
        # One group for the caller, or for the first thread.
        helpers = min(helpers, self.plan.n_groups - (helpers < self.threads and self.plan.n_groups > 0))
        if helpers:
            with nogil:
                asked = ThreadPool.instance().run(self.job, helpers)
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
        return self.ask_threads(self.threads)

    cdef bint is_idle(self):
        return self.cancelled or self.generation != ThreadPool.generation()

    cdef int finish(self) except -1:
        """Work along until the batch is done. Raises what a signal handler raises (KeyboardInterrupt)."""
        cdef bint done = False
        cdef Job *job
        if self.finished:
            return 0    # the memory is the caller's again
        if self.is_idle():
            self.begin_anew()
        job = self.job.get()
        while not done:
            with nogil:
                done = job.help(SLICE) and job.wait(SLICE)
            PyErr_CheckSignals()
        self.finished = True
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
