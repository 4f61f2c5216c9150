# distutils: language = c++
"""Blocks: reading them, checking them, decoding them to their final place.

The groups of a plan are run by any number of threads, each with scratch memory and decompressors of its own.
Nothing here needs the interpreter.
"""

from libc.errno cimport errno
from libc.stdint cimport uint16_t
from libc.string cimport memcmp, memcpy

from archivestream._native.checksums cimport has_checksum, member_checksum
from archivestream._native.codecs cimport (
    BAD_CHECKSUM, BAD_DATA, IMPOSSIBLE_SIZE, NOT_RUN, NO_MEMORY, OK, OVERLAP, PREFIX_DIFFERS, READ_FAILED, STORED,
    TRAILING_BYTES, TRUNCATED, crc32_of, decode)
from archivestream._native.plan cimport (
    LARGEST_PREFIX, LONGEST_EXTRA, LONGEST_NAME, Group, Source, end_of_room, is_direct, is_foreseeable,
    length_of_data, load_span, locate, name_of, source_of, store_span)
from archivestream._native.columns cimport ENTRIES
from archivestream._native.meter cimport count_decoded, iovec, read_at, read_parts
from archivestream._native.zipscan cimport LOCAL_HEADER, check_local_header

cdef extern from "memory.hpp":      # which the next one includes
    pass

cdef extern from "scratch.hpp":
    """
    static thread_local archivestream::Scratch scratch_in, scratch_out;
    """
    uint8_t *reserve_in "scratch_in.reserve"(size_t size) noexcept nogil
    uint8_t *reserve_out "scratch_out.reserve"(size_t size) noexcept nogil
    void trim_in "scratch_in.trim"() noexcept nogil
    void trim_out "scratch_out.trim"() noexcept nogil


cdef void run_group(void *context, size_t index) noexcept nogil:
    """Do the tasks of one group: the work function of a job."""
    cdef Plan *plan = <Plan *> context
    cdef Group *group = &plan.groups[index]
    cdef Task *first = &plan.tasks[group.begin]
    cdef const Source *source = &plan.columns.sources[first.source]
    cdef Task *task
    cdef uint64_t end = 0
    cdef uint64_t available
    cdef uint8_t *bytes_
    cdef long long got
    cdef size_t i
    if group.end - group.begin == 1:
        run_single(plan, first)
        return
    if source.fd < 0:
        for i in range(group.begin, group.end):
            run_single(plan, &plan.tasks[i])
        return
    for i in range(group.begin, group.end):
        end = max(end, plan.tasks[i].end)
    bytes_ = reserve_in(end - first.begin)
    got = read_at(
        plan.meter, source.fd, bytes_, end - first.begin, first.begin) if bytes_ != NULL else -1
    for i in range(group.begin, group.end):
        task = &plan.tasks[i]
        if got < 0:
            continue
        if <uint64_t> got < task.begin - first.begin:
            task.status = TRUNCATED
        else:
            available = min(<uint64_t> got - (task.begin - first.begin), task.end - task.begin)
            task.status = open_block(plan, task, bytes_ + (task.begin - first.begin), available)
    # Left over: blocks with a longer local extra field than was allowed for, whose span is known now; and all
    # of them where the common read failed, so that a bad spot harms only the block it lies in.
    for i in range(group.begin, group.end):
        if plan.tasks[i].status == NOT_RUN:
            locate(plan.columns, &plan.tasks[i], False)
            run_single(plan, &plan.tasks[i])
    trim_in()
    trim_out()


cdef void run_single(Plan *plan, Task *task) noexcept nogil:
    """Do one task by itself."""
    cdef const Source *source = &plan.columns.sources[task.source]
    if task.status != NOT_RUN:
        return
    if task.input != NULL:
        task.status = open_block(plan, task, task.input, task.end - task.begin)
        if task.status == NOT_RUN:
            task.status = TRUNCATED     # the caller fetched all that there can be
    elif source.memory != NULL:
        task.status = open_block(plan, task, source.memory + task.begin, source.size - task.begin)
    elif is_direct(plan, task):
        task.status = read_direct(plan, task, source.fd)
    elif is_foreseeable(plan, task):
        task.status = read_around(plan, task, source.fd)
    else:
        task.status = read_through(plan, task, source.fd)
    trim_in()
    trim_out()


cdef Status read_through(Plan *plan, Task *task, int fd) noexcept nogil:
    """Read the range of one block to scratch memory, and decode it from there."""
    cdef uint8_t *bytes_
    cdef long long got
    cdef Status status = NOT_RUN
    while status == NOT_RUN:
        bytes_ = reserve_in(task.end - task.begin)
        if bytes_ == NULL:
            return NO_MEMORY
        got = read_at(plan.meter, fd, bytes_, task.end - task.begin, task.begin)
        if got < 0:
            task.error = errno
            return READ_FAILED
        status = open_block(plan, task, bytes_, got)
        if status == NOT_RUN:
            # A longer local extra field than was allowed for: its length is known now.
            locate(plan.columns, task, False)
    return status


cdef Status find_data(
    const Columns *columns, const Task *task, const uint8_t *header, uint64_t available, uint32_t *span
) noexcept nogil:
    """Check the local header of a block against the index, and learn its span."""
    cdef size_t name_size
    cdef const uint8_t *name = name_of(columns, task.block, &name_size)
    cdef uint64_t offset = columns.offset[task.block]
    cdef Status status
    if columns.sources[task.source].layout != ENTRIES:
        span[0] = 0
        return OK
    status = check_local_header(header, available, name, name_size, span)
    if status != OK:
        return status
    # `locate` has seen that there is room for the block with no extra field; with it, there may not be.
    if end_of_room(columns, task) - offset - columns.compressed_size[task.block] < span[0]:
        return OVERLAP
    store_span(&columns.spans[task.block], span[0])
    return OK


cdef Status open_block(
    Plan *plan, Task *task, const uint8_t *bytes_, uint64_t available
) noexcept nogil:
    """Decode a block from bytes that begin at its local header; NOT_RUN where too few of them were read."""
    cdef const Columns *columns = plan.columns
    cdef uint64_t length = length_of_data(columns, task.block)
    cdef uint32_t span
    cdef Status status = find_data(columns, task, bytes_, available, &span)
    if status != OK:
        return status
    if available - span < length or available < span:
        return TRUNCATED if available < task.end - task.begin else NOT_RUN
    return decode_block(plan, task, bytes_ + span, length)


cdef Status decode_block(
    Plan *plan, Task *task, const uint8_t *data, uint64_t data_size
) noexcept nogil:
    """Decode to the target, verify, and leave out the prefix."""
    cdef const Columns *columns = plan.columns
    cdef uint16_t codec = columns.codec[task.block]
    cdef uint64_t size = columns.size[task.block]
    cdef size_t skip = plan.skip
    cdef uint8_t *target = task.target
    cdef uint8_t[LARGEST_PREFIX] saved
    cdef bint borrowed = False
    cdef Status status
    if plan.raw:
        memcpy(target, data, data_size)
        return OK
    count_decoded(plan.meter, size)
    if codec == STORED:
        if (
            plan.verify
            and has_checksum(columns, task.source, task.block)
            and member_checksum(columns, task.block, 0, data, size) != columns.crc32[task.block]
        ):
            return BAD_CHECKSUM
        if skip and memcmp(data, plan.prefix, skip):
            return PREFIX_DIFFERS
        if plan.consume != NULL:
            plan.consume(plan.consumer, task.position, data, size)
        elif target != NULL and size > skip:
            memcpy(target, data + skip, size - skip)
        return OK
    if skip and target != NULL and target >= plan.room:
        # Decode with the prefix in front of the target, over bytes that belong to the neighbour; they are
        # put back after it. The caller sees to it that nobody else touches them meanwhile.
        borrowed = True
        target -= skip
        memcpy(saved, target, skip)
    elif skip or target == NULL:
        target = reserve_out(size)
        if target == NULL:
            return NO_MEMORY
    if size == 0 and data_size == 0:
        status = OK     # declared empty, and with no stream to say so; zipfile reads it, too
    else:
        status = decode(codec, data, data_size, target, size)
        if data_size < columns.compressed_size[task.block]:
            # Not all of it was read: see `readable`.
            if status == OK:
                status = TRAILING_BYTES
            elif status == BAD_DATA:
                status = IMPOSSIBLE_SIZE
        if status == TRAILING_BYTES and not columns.strict:
            status = OK
    if status == OK and plan.verify and crc32_of(0, target, size) != columns.crc32[task.block]:
        status = BAD_CHECKSUM
    if status == OK and skip and memcmp(target, plan.prefix, skip):
        status = PREFIX_DIFFERS
    if borrowed:
        memcpy(target, saved, skip)
    elif skip and status == OK:
        memcpy(task.target, target + skip, size - skip)
    if status == OK and plan.consume != NULL:
        plan.consume(plan.consumer, task.position, target, size)
    return status


cdef Status read_direct(Plan *plan, Task *task, int fd) noexcept nogil:
    """Read a stored block: header and prefix to scratch memory, the rest to its place, with one call."""
    cdef const Columns *columns = plan.columns
    cdef uint64_t offset = columns.offset[task.block]
    cdef uint64_t size = columns.compressed_size[task.block]
    cdef uint32_t span = load_span(&columns.spans[task.block])
    cdef bint known = span != 0 or columns.sources[task.source].layout != ENTRIES
    cdef size_t skip = 0 if plan.raw else plan.skip
    cdef size_t name_size, head
    cdef uint8_t *scratch
    cdef iovec[2] parts
    cdef long long got
    cdef Status status
    cdef uint32_t crc
    if not known:
        name_of(columns, task.block, &name_size)
        # The local extra field is mostly as long as that of the block before, or empty.
        span = <uint32_t> (LOCAL_HEADER + name_size)
        if task.block and load_span(&columns.spans[task.block - 1]) > LOCAL_HEADER:
            span = likely_span(columns, task.block, span)
        head = span + skip
    else:
        offset += span
        head = skip
    scratch = reserve_in(LOCAL_HEADER + LONGEST_NAME + <size_t> LONGEST_EXTRA + LARGEST_PREFIX)
    if scratch == NULL:
        return NO_MEMORY
    parts[0].iov_base, parts[0].iov_len = scratch, head
    parts[1].iov_base, parts[1].iov_len = task.target, size - skip
    got = read_parts(plan.meter, fd, &parts[0] if head else &parts[1], 2 if head else 1, offset)
    if got < 0:
        task.error = errno
        return READ_FAILED
    if not known:
        status = find_data(columns, task, scratch, min(<uint64_t> got, <uint64_t> head), &span)
        if status != OK:
            return status
        if span + skip != head:
            # Another length than that: now it is known.
            return read_direct(plan, task, fd)
    if <uint64_t> got < head + size - skip:
        return TRUNCATED
    count_decoded(plan.meter, size)
    if plan.verify and not plan.raw and has_checksum(columns, task.source, task.block):
        crc = member_checksum(columns, task.block, 0, scratch + head - skip, skip)
        if member_checksum(columns, task.block, crc, task.target, size - skip) != columns.crc32[task.block]:
            return BAD_CHECKSUM
    if skip and memcmp(scratch + head - skip, plan.prefix, skip):
        return PREFIX_DIFFERS
    return OK


cdef Status read_around(Plan *plan, Task *task, int fd) noexcept nogil:
    """Read a stored block whose consumer foresees where a part of it goes: that to its place, the rest to scratch."""
    cdef uint64_t size = plan.columns.size[task.block]
    cdef uint64_t begin = 0
    cdef uint64_t end
    cdef uint8_t *target = NULL
    cdef uint8_t *scratch
    cdef iovec[3] parts
    cdef long long got
    cdef uint32_t crc
    cdef size_t i
    end = plan.foresee(plan.consumer, task.position, size, &begin, &target)
    if end == 0:
        return read_through(plan, task, fd)
    end += begin
    scratch = reserve_in(size)
    if scratch == NULL:
        return NO_MEMORY
    parts[0].iov_base, parts[0].iov_len = scratch, begin
    parts[1].iov_base, parts[1].iov_len = target, end - begin
    parts[2].iov_base, parts[2].iov_len = scratch + end, size - end
    got = read_parts(plan.meter, fd, &parts[0], 3, task.begin)
    if got < 0:
        task.error = errno
        return READ_FAILED
    if <uint64_t> got < size:
        return TRUNCATED
    count_decoded(plan.meter, size)
    if plan.verify and has_checksum(plan.columns, task.source, task.block):
        crc = 0
        for i in range(3):
            crc = member_checksum(
                plan.columns, task.block, crc, <const uint8_t *> parts[i].iov_base, parts[i].iov_len)
        if crc != plan.columns.crc32[task.block]:
            return BAD_CHECKSUM
    plan.consume(plan.consumer, task.position, scratch, size)
    return OK


cdef uint32_t likely_span(const Columns *columns, uint32_t block, uint32_t least) noexcept nogil:
    """Guess a span from the one before: the same length of extra field, where there is room for it."""
    cdef size_t before
    cdef uint32_t span = load_span(&columns.spans[block - 1])
    cdef Task task
    task.block = block
    task.source = source_of(columns, block)
    name_of(columns, block - 1, &before)
    span = least + (span - LOCAL_HEADER - <uint32_t> before)
    if end_of_room(columns, &task) - columns.offset[block] - columns.compressed_size[block] < span:
        return least
    return span
