# distutils: language = c++
"""Pieces: which blocks the members of a batch lie in, so that each block is decoded once for all of them.

No I/O, as for `archivestream._native.plan`. Nothing here needs the interpreter.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from libcpp.algorithm cimport sort
from libcpp.pair cimport pair

from archivestream._native.checksums cimport combine_checksums, has_checksum
from archivestream._native.codecs cimport (
    BAD_CHECKSUM, BAD_INDEX, IN_PIECES, NOT_FETCHED, NOT_RUN, NO_MEMORY, OK, READ_FAILED)
from archivestream._native.columns cimport ENTRIES
from archivestream._native.plan cimport BlockTable, Columns, Piece, Task, locate

cdef enum:
    LARGEST_UNKEPT = 64 << 20   # bytes of a member with no target that memory is taken for

# Block, then the piece in it.
ctypedef pair[uint64_t, uint32_t] BlockOrder


cdef uint64_t row_at(const BlockTable *table, uint64_t low, uint64_t high, uint64_t place) noexcept nogil:
    """The last of some blocks that begins at or before a place: empty ones at that place come before it."""
    cdef uint64_t middle
    while high - low > 1:
        middle = low + (high - low) // 2
        if table.start[middle] <= place:
            low = middle
        else:
            high = middle
    return low


cdef void rows_of(const Columns *columns, uint64_t block, uint64_t *first, uint64_t *last) noexcept nogil:
    """The rows of the segments of a member."""
    cdef const BlockTable *table = &columns.blocks
    cdef uint64_t low = 0
    cdef uint64_t high = table.n_segmented
    cdef uint64_t middle
    while low < high:
        middle = low + (high - low) // 2
        if table.segment_member[middle] < block:
            low = middle + 1
        else:
            high = middle
    if low == table.n_segmented or table.segment_member[low] != block:
        first[0] = last[0] = 0
        return
    first[0] = table.segment_first[low]
    last[0] = table.segment_first[low + 1]


cdef uint64_t cut(const Plan *plan, const Task *task, size_t index, Piece *pieces) noexcept nogil:
    """Cut the range of a task at the bounds of blocks, and return into how many pieces; NULL only counts them."""
    cdef const Columns *columns = plan.columns
    cdef const BlockTable *table = &columns.blocks
    cdef uint64_t row, last, begin, end, place, n = 0
    if columns.sources[task.source].layout == ENTRIES:
        rows_of(columns, task.block, &row, &last)
        if row < table.first[task.source]:
            return 0
        last = min(last, table.first[task.source + 1])      # behind which may be the blocks of another source
        place, end = 0, columns.size[task.block]
    else:
        row, last = table.first[task.source], table.first[task.source + 1]
        place, end = task.begin, task.end
        if place < end and row < last:
            row = row_at(table, row, last, place)
    begin = place
    while place < end:
        # Rows leave no gap: of a source, the sidecar's reader has checked it; of segments, the format.
        if row >= last or place < table.start[row] or place - table.start[row] > table.size[row]:
            return 0
        if place - table.start[row] < table.size[row]:
            if pieces != NULL:
                pieces[n].block = row
                pieces[n].begin = place - table.start[row]
                pieces[n].size = min(end - place, table.size[row] - pieces[n].begin)
                pieces[n].place = place - begin
                pieces[n].task = <uint32_t> index
                pieces[n].status = NOT_RUN
            n += 1
        place += min(end - place, table.size[row] - (place - table.start[row]))
        row += 1
    return n


cdef Status make_pieces(Plan *plan) noexcept nogil:
    """Cut the tasks that are IN_PIECES, and gather the pieces of each block."""
    cdef uint64_t n = 0
    cdef uint64_t found
    cdef size_t i
    cdef Task *task
    for i in range(plan.n):
        task = &plan.tasks[i]
        if task.status == IN_PIECES and task.begin < task.end:
            found = cut(plan, task, i, NULL)
            if found == 0:
                task.status = BAD_INDEX
            n += found
    if n == 0:
        return OK
    if n >> 32:
        return NO_MEMORY
    plan.pieces = <Piece *> malloc(n * sizeof(Piece))
    if plan.pieces == NULL:
        return NO_MEMORY
    memset(plan.pieces, 0, n * sizeof(Piece))
    plan.n_pieces = n
    n = 0
    for i in range(plan.n):
        task = &plan.tasks[i]
        if task.status == IN_PIECES and task.begin < task.end:
            n += cut(plan, task, i, plan.pieces + n)
    return gather(plan)


cdef Status gather(Plan *plan) noexcept nogil:
    """Put the pieces in the order of their blocks, and make a task for each block."""
    cdef BlockOrder *order
    cdef Piece *pieces = plan.pieces
    cdef BlockTask *block
    cdef size_t i
    cdef size_t n = 1
    cdef bint in_order = True
    for i in range(1, plan.n_pieces):
        in_order = in_order and pieces[i].block >= pieces[i - 1].block
    if not in_order:
        order = <BlockOrder *> malloc(plan.n_pieces * sizeof(BlockOrder))
        pieces = <Piece *> malloc(plan.n_pieces * sizeof(Piece))
        if order == NULL or pieces == NULL:
            free(order)
            free(pieces)
            return NO_MEMORY
        for i in range(plan.n_pieces):
            order[i].first = plan.pieces[i].block
            order[i].second = <uint32_t> i
        sort(order, order + plan.n_pieces)
        for i in range(plan.n_pieces):
            pieces[i] = plan.pieces[order[i].second]
        free(order)
        free(plan.pieces)
        plan.pieces = pieces
    for i in range(1, plan.n_pieces):
        n += pieces[i].block != pieces[i - 1].block
    plan.block_tasks = <BlockTask *> malloc(n * sizeof(BlockTask))
    if plan.block_tasks == NULL:
        return NO_MEMORY
    memset(plan.block_tasks, 0, n * sizeof(BlockTask))
    plan.n_block_tasks = n
    block = plan.block_tasks - 1
    for i in range(plan.n_pieces):
        if i == 0 or pieces[i].block != pieces[i - 1].block:
            block += 1
            block.block = pieces[i].block
            block.first = i
            block.status = NOT_RUN
        block.last = i + 1
        block.upto = max(block.upto, pieces[i].begin + pieces[i].size)
        if plan.whole:
            block.upto = plan.columns.blocks.size[block.block]
    return OK


cdef void fail_block(Plan *plan, BlockTask *task, Status status, int error) noexcept nogil:
    """Say of a block, and so of all pieces in it, what is wrong."""
    cdef size_t i
    task.status = status
    for i in range(task.first, task.last):
        plan.pieces[i].status = status
        plan.pieces[i].error = error


cdef void reset_pieces(Plan *plan) noexcept nogil:
    """Forget what has been done of them."""
    cdef size_t i, j
    for i in range(plan.done_blocks, plan.n_block_tasks):
        if plan.block_tasks[i].status == NOT_FETCHED:
            continue
        plan.block_tasks[i].status = NOT_RUN
        for j in range(plan.block_tasks[i].first, plan.block_tasks[i].last):
            plan.pieces[j].status = NOT_RUN
    for i in range(plan.n_pieces):
        plan.tasks[plan.pieces[i].task].status = IN_PIECES
        plan.tasks[plan.pieces[i].task].crc32 = 0


cdef void settle_pieces(Plan *plan) noexcept nogil:
    """Put together what became of each member, once all blocks are done; some are NOT_RUN again: see `settle`."""
    cdef Piece *piece
    cdef Task *task
    cdef size_t i
    for i in range(plan.n_pieces):
        piece = &plan.pieces[i]
        task = &plan.tasks[piece.task]
        if piece.status != OK and task.status == IN_PIECES:
            settle(plan, task, piece.status, piece.error)
        if plan.verify and has_checksum(plan.columns, task.source, task.block):
            # In the order of the blocks, so in that of the member.
            task.crc32 = combine_checksums(plan.columns, task.block, task.crc32, piece.crc32, piece.size)
    for i in range(plan.n):
        task = &plan.tasks[i]
        if task.status != IN_PIECES:
            continue
        if (
            plan.verify
            and has_checksum(plan.columns, task.source, task.block)
            and task.crc32 != plan.columns.crc32[task.block]
        ):
            settle(plan, task, BAD_CHECKSUM, 0)
        else:
            task.status = OK


cdef void settle(Plan *plan, Task *task, Status status, int32_t error) noexcept nogil:
    """Say of a member what is wrong, unless it may be only how it was cut: then it is read as one stream, NOT_RUN yet.

    Where the segments of a member lie is said by an extra field that no other reader looks at, and so nobody notices
    that it is wrong.
    """
    task.status = status
    task.error = error
    if (
        status != READ_FAILED
        and status != NO_MEMORY
        and plan.columns.sources[task.source].layout == ENTRIES
        and (task.target != NULL or plan.columns.size[task.block] <= LARGEST_UNKEPT)
    ):
        task.status = NOT_RUN
        locate(plan.columns, task, True)
