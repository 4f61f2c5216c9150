# distutils: language = c++
"""Blocks that members share: fetched, decoded and verified once, and scattered to where their pieces belong.

Run by any number of threads, each with scratch memory and decompressors of its own. Nothing here needs the
interpreter.
"""

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from libcpp cimport bool as cpp_bool

from archivestream._native.blocks cimport find_data, run_group
from archivestream._native.cache cimport Entry
from archivestream._native.checkpoints cimport (
    LARGEST_INDEXED, SEGMENT_MARGIN_AFTER, SEGMENT_MARGIN_BEFORE, decode_segment, segment_extent)
from archivestream._native.checksums cimport has_checksum, member_checksum
from archivestream._native.codecs cimport (
    BAD_CHECKSUM, BAD_DATA, BAD_INDEX, DEFLATE, DEFLATE_SEGMENT, NOT_RUN, NO_MEMORY, OK, OUT_OF_BOUNDS, PREFIX_DIFFERS,
    READ_FAILED, STORED, TRUNCATED, ZSTD, ZSTD_SEGMENT, Status, crc32_of, decode, decode_with_dictionary, is_possible,
    readable)
from archivestream._native.columns cimport CHECKED_BIT, ENTRIES
from archivestream._native.meter cimport MeterCounts, count_decoded, read_at
from archivestream._native.pieces cimport fail_block
from archivestream._native.plan cimport (
    LONGEST_NAME, BlockTable, BlockTask, Columns, Piece, Plan, Source, Task, load_span, name_of)
from archivestream._native.zipscan cimport LOCAL_HEADER

cdef extern from "memory.hpp":      # which the next one includes
    pass

cdef extern from "scratch.hpp":
    """
    static thread_local archivestream::Scratch block_in, block_out;
    """
    uint8_t *reserve_in "block_in.reserve"(size_t size) noexcept nogil
    uint8_t *reserve_out "block_out.reserve"(size_t size) noexcept nogil
    void trim_in "block_in.trim"() noexcept nogil
    void trim_out "block_out.trim"() noexcept nogil

cdef uint8_t[2] FINAL_BLOCK = [0x03, 0x00]


cdef void run_item(void *context, size_t item) noexcept nogil:
    """Do one block, or, behind them, one group of tasks: the work function of a job."""
    cdef Plan *plan = <Plan *> context
    item += plan.done_blocks
    if item < plan.n_block_tasks:
        run_block(plan, &plan.block_tasks[item])
    else:
        run_group(context, item - plan.n_block_tasks)


cdef void run_block(Plan *plan, BlockTask *task) noexcept nogil:
    """Get the bytes of a block, from the cache or decoded, and scatter them."""
    if task.status != NOT_RUN:
        return
    task.status = fill(plan, task)
    if task.status != OK:
        fail_block(plan, task, task.status, task.error)
    trim_in()
    trim_out()


cdef Status fill(Plan *plan, BlockTask *task) noexcept nogil:
    cdef const BlockTable *table = &plan.columns.blocks
    cdef uint64_t size = table.size[task.block]
    cdef Entry *entry = task.entry
    cdef Piece *whole
    cdef uint8_t *data
    cdef size_t decoded = 0
    cdef cpp_bool more = False
    cdef Status status = check_sizes(plan, task)
    if status != OK:
        return status
    if entry != NULL:
        scatter(plan, task, entry.data)     # and released with the work
        return OK
    if plan.cache != NULL:
        entry = plan.cache.find(task.block, task.upto)
    if entry != NULL:
        scatter(plan, task, entry.data)
        plan.cache.release(entry)
        return OK
    whole = piece_of_all(plan, task)
    if whole != NULL:
        # Straight to its place, and from there to whoever wants it, too.
        data = plan.tasks[whole.task].target + (whole.place - plan.skip)
        status = decode_block(plan, task, data, size, &decoded)
        if status == OK:
            scatter(plan, task, data)
        return status
    if plan.cache == NULL or plan.cache_limit < size:
        data = reserve_out(size)
        status = NO_MEMORY if data == NULL else decode_block(plan, task, data, task.upto, &decoded)
        if status == OK:
            scatter(plan, task, data)
        return status
    entry = plan.cache.acquire(task.block, task.upto, size, has_begin(plan, task), &more)
    if entry == NULL:
        return NO_MEMORY
    if not entry.ready:
        # What is wanted a second time, and further, is wanted to its end: no block is decoded more than twice. And
        # where that is what mostly comes, it is decoded to its end at once.
        status = decode_block(plan, task, entry.data, size if more else task.upto, &decoded)
        if status != OK:
            plan.cache.abandon(entry)
            return status
        plan.cache.publish(entry, decoded)
    scatter(plan, task, entry.data)
    plan.cache.release(entry)
    return OK


cdef Status check_sizes(const Plan *plan, const BlockTask *task) noexcept nogil:
    """Whether the file has room for a block, and that for so many bytes: asked before memory is taken."""
    cdef const BlockTable *table = &plan.columns.blocks
    cdef uint64_t row = task.block
    cdef uint64_t compressed_size = table.compressed_size[row]
    cdef uint16_t codec = table.codec[row]
    if compressed_size > plan.columns.sources[plan.tasks[plan.pieces[task.first].task].source].data_end:
        return OUT_OF_BOUNDS
    if codec == ZSTD_SEGMENT:
        codec = ZSTD
    elif codec == DEFLATE_SEGMENT:
        codec = DEFLATE
    elif codec != STORED and codec != ZSTD and codec != DEFLATE:
        return BAD_INDEX
    if table.size[row] > LARGEST_INDEXED or not is_possible(codec, compressed_size, table.size[row]):
        return BAD_INDEX
    return OK


cdef bint has_begin(const Plan *plan, const BlockTask *task) noexcept nogil:
    """Whether some member begins in a block, and not all that is wanted of it is the end of one."""
    cdef size_t i
    for i in range(task.first, task.last):
        if plan.pieces[i].place == 0:
            return True
    return False


cdef Piece *piece_of_all(Plan *plan, BlockTask *task) noexcept nogil:
    """A piece that is the whole block, and has a place for it."""
    cdef uint64_t size = plan.columns.blocks.size[task.block]
    cdef Piece *piece
    cdef size_t i
    for i in range(task.first, task.last):
        piece = &plan.pieces[i]
        if piece.size == size and plan.tasks[piece.task].target != NULL and piece.place >= plan.skip:
            return piece
    return NULL


cdef void scatter(Plan *plan, const BlockTask *task, const uint8_t *data) noexcept nogil:
    """Copy the pieces of a decoded block to their places, all but the prefix that members share."""
    cdef Piece *piece
    cdef const Task *owner
    cdef const uint8_t *source
    cdef uint8_t *target
    cdef uint64_t size, place, in_prefix
    cdef size_t i
    for i in range(task.first, task.last):
        piece = &plan.pieces[i]
        target = plan.tasks[piece.task].target
        source, size, place = data + piece.begin, piece.size, piece.place
        piece.status = OK
        if place < plan.skip:
            in_prefix = min(size, plan.skip - place)
            if memcmp(source, plan.prefix + place, in_prefix):
                piece.status = PREFIX_DIFFERS
                continue
            source += in_prefix
            size -= in_prefix
            place += in_prefix
        if target != NULL and size and target + (place - plan.skip) != source:
            memcpy(target + (place - plan.skip), source, size)
        owner = &plan.tasks[piece.task]
        if plan.verify and has_checksum(plan.columns, owner.source, owner.block):
            piece.crc32 = member_checksum(plan.columns, owner.block, 0, data + piece.begin, piece.size)


cdef Status decode_block(
    Plan *plan, BlockTask *task, uint8_t *target, uint64_t upto, size_t *decoded
) noexcept nogil:
    """Decode a block from its start to `upto` or beyond, and check what it decodes to."""
    cdef const Columns *columns = plan.columns
    cdef const BlockTable *table = &columns.blocks
    cdef Task *first = &plan.tasks[plan.pieces[task.first].task]
    cdef const Source *source = &columns.sources[first.source]
    cdef uint64_t row = task.block
    cdef uint64_t size = table.size[row]
    cdef uint64_t wanted = table.compressed_size[row]
    cdef const uint8_t *aux = table.aux + table.aux_offset[row]
    cdef size_t aux_size = table.aux_offset[row + 1] - table.aux_offset[row]
    cdef uint16_t codec = table.codec[row]
    cdef const uint8_t *data = NULL
    cdef uint64_t offset, decoded_end
    cdef Status status = place_of(plan, task, first, &offset)
    if status != OK:
        return status
    if codec == ZSTD_SEGMENT:
        status = segment_extent(aux, aux_size, upto, &wanted, &decoded_end)
        if status != OK or wanted > table.compressed_size[row] or decoded_end > size:
            return BAD_INDEX
    if wanted > readable(codec, wanted, size):
        return BAD_DATA
    if codec == STORED and source.fd >= 0:
        data = target
        status = read_exactly(plan.meter, source.fd, target, wanted, offset, &task.error)
    else:
        status = fetch(plan.meter, source, task, codec, offset, wanted, &data)
    if status != OK:
        return status
    decoded[0] = size
    if codec == STORED:
        if data != target:
            memcpy(target, data, size)
    elif codec == ZSTD_SEGMENT:
        status = decode_segment(
            aux, aux_size, table.start[row], columns.max_window, <uint8_t *> data, wanted, upto, target, size, decoded,
            plan.verify)
    elif codec == ZSTD and source.dictionary != NULL:
        status = decode_with_dictionary(source.dictionary, data, wanted, target, size)
    elif codec == DEFLATE_SEGMENT:
        # It ends with an empty stored block; an empty one of fixed codes behind it is the final one (RFC 1951, 3.2.3).
        memcpy(<uint8_t *> data + wanted, FINAL_BLOCK, sizeof(FINAL_BLOCK))
        status = decode(DEFLATE, data, wanted + sizeof(FINAL_BLOCK), target, size)
    else:
        status = decode(codec, data, wanted, target, size)
    if (
        status == OK
        and plan.verify
        and table.flags[row] & CHECKED_BIT
        and decoded[0] == size
        and codec != ZSTD_SEGMENT       # has a checksum for each part of it
        and crc32_of(0, target, size) != table.crc32[row]
    ):
        status = BAD_CHECKSUM
    count_decoded(plan.meter, decoded[0])
    return status


cdef Status place_of(Plan *plan, BlockTask *task, Task *first, uint64_t *offset) noexcept nogil:
    """Where a block lies in its source: behind the local header of its member, if it is a segment."""
    cdef const Columns *columns = plan.columns
    cdef const BlockTable *table = &columns.blocks
    cdef const Source *source = &columns.sources[first.source]
    cdef uint64_t base = 0
    cdef uint64_t end = source.data_end
    cdef uint64_t compressed_size
    cdef uint32_t span
    cdef Status status
    if source.layout == ENTRIES:
        compressed_size = columns.compressed_size[first.block]
        span = load_span(&columns.spans[first.block])
        if span == 0:
            status = learn_span(plan, source, task, first, &span)
            if status != OK:
                return status
        base = columns.offset[first.block] + span       # with the data, in bounds: `find_data` has seen to it
        end = base + compressed_size
    if table.offset[task.block] > end - base or table.compressed_size[task.block] > (
        end - base - table.offset[task.block]
    ):
        return OUT_OF_BOUNDS
    offset[0] = base + table.offset[task.block]
    return OK


cdef Status learn_span(
    const Plan *plan, const Source *source, BlockTask *task, Task *first, uint32_t *span
) noexcept nogil:
    """Read and check the local header of the member that a segment belongs to."""
    cdef const Columns *columns = plan.columns
    cdef size_t name_size
    cdef uint8_t *header
    cdef long long got
    name_of(columns, first.block, &name_size)
    if source.memory != NULL:
        return find_data(columns, first, source.memory + first.begin, source.size - first.begin, span)
    header = reserve_in(LOCAL_HEADER + LONGEST_NAME)
    if header == NULL:
        return NO_MEMORY
    got = read_at(plan.meter, source.fd, header, LOCAL_HEADER + name_size, first.begin)
    if got < 0:
        task.error = errno
        return READ_FAILED
    return find_data(columns, first, header, got, span)


cdef Status fetch(
    MeterCounts *meter, const Source *source, BlockTask *task, uint16_t codec, uint64_t offset, uint64_t size,
    const uint8_t **data,
) noexcept nogil:
    """Get the compressed bytes of a block; those of segments in scratch memory, with room around them."""
    cdef const uint8_t *there = task.input
    cdef uint8_t *scratch
    if there == NULL and source.memory != NULL:
        there = source.memory + offset
    if there != NULL and codec != ZSTD_SEGMENT and codec != DEFLATE_SEGMENT:
        data[0] = there
        return OK
    if there == NULL and source.fd < 0:
        return TRUNCATED    # the caller got less of it than there should be
    scratch = reserve_in(SEGMENT_MARGIN_BEFORE + size + SEGMENT_MARGIN_AFTER)
    if scratch == NULL:
        return NO_MEMORY
    data[0] = scratch + SEGMENT_MARGIN_BEFORE
    if there != NULL:
        memcpy(scratch + SEGMENT_MARGIN_BEFORE, there, size)
        return OK
    return read_exactly(meter, source.fd, scratch + SEGMENT_MARGIN_BEFORE, size, offset, &task.error)


cdef Status read_exactly(
    MeterCounts *meter, int fd, uint8_t *into, uint64_t size, uint64_t offset, int32_t *error
) noexcept nogil:
    cdef long long got = read_at(meter, fd, into, size, offset) if size else 0
    if got < 0:
        error[0] = errno
        return READ_FAILED
    return OK if <uint64_t> got == size else TRUNCATED
