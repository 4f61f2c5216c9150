# distutils: language = c++
"""Work: a plan, the memory that it works on, and the threads that do it."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free

from archivestream._native.blocks cimport run_group
from archivestream._native.codecs cimport NOT_RUN, NO_MEMORY, OK, Status
from archivestream._native.plan cimport Task, locate, make_groups

cdef extern from *:
    """
    static inline std::shared_ptr<archivestream::Job> new_job(
        void (*work)(void *, std::size_t), void *context, std::size_t items) {
      return std::make_shared<archivestream::Job>(work, context, items);
    }
    """
    shared_ptr[Job] new_job(void (*work)(void *, size_t) noexcept nogil, void *context, size_t items) except +

# How long a wait goes on before it looks for signals, so that Ctrl-C is answered.
cdef double SLICE = 0.05


@cython.final
@cython.no_gc_clear
cdef class Work:
    """A plan with all the memory that it works on: kept alive, and in place, until the last thread has left."""

    def __dealloc__(self):
        if self.job and self.generation == ThreadPool.generation():
            with nogil:
                self.job.get().cancel()
                while not self.job.get().wait(1.0):
                    pass
        free(self.plan.tasks)
        free(self.plan.groups)

    cdef int start(self, size_t threads, bint helping) except -1:
        """Set the threads to work; with ``helping`` the caller is going to be one of them."""
        cdef size_t helpers
        cdef Status status
        with nogil:
            status = make_groups(&self.plan, threads)
        if status == NO_MEMORY:
            raise MemoryError("no memory for the plan of a batch")
        self.job = new_job(run_group, &self.plan, self.plan.n_groups)
        self.generation = ThreadPool.generation()
        helpers = min(threads - helping, self.plan.n_groups - (helping and self.plan.n_groups > 0))
        if helpers:
            with nogil:
                ThreadPool.instance().run(self.job, helpers)
        return 0

    cdef int finish(self) except -1:
        """Work along until the batch is done. Raises what a signal handler raises (KeyboardInterrupt)."""
        cdef bint done = False
        cdef Job *job
        if self.finished:
            return 0    # the memory is the caller's again
        if self.generation != ThreadPool.generation():
            # Forked since: the threads are in the parent. The plan is whole, so run it here, anew.
            self.job = new_job(run_group, &self.plan, self.plan.n_groups)
            self.generation = ThreadPool.generation()
            self.rewind()
        job = self.job.get()
        while not done:
            with nogil:
                done = job.help(SLICE) and job.wait(SLICE)
            PyErr_CheckSignals()
        self.finished = True
        return 0

    cdef void rewind(self) noexcept nogil:
        cdef size_t i, j
        for i in range(self.plan.n_groups):
            for j in range(self.plan.groups[i].begin, self.plan.groups[i].end):
                self.plan.tasks[j].status = NOT_RUN
                locate(self.plan.columns, &self.plan.tasks[j], self.plan.tasks[j].input != NULL)

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
cdef class PendingRead:
    """A batch that threads work on in the background."""

    def done(self):
        """Whether `wait` would return at once."""
        if self.work.finished:
            return True
        if self.work.generation != ThreadPool.generation():
            return False    # begun before a fork: there are no threads here that would do it
        return self.work.job.get().done()

    def wait(self):
        """Wait, working along, and return the failures."""
        self.work.finish()
        return self.work.failures()
