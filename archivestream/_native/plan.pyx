# distutils: language = c++
"""Plans: which bytes of a source each block needs, in which order they are read, and which reads serve several.

No I/O: everything is decided from the index. Nothing here needs the interpreter.
"""

from libc.stdlib cimport free, malloc
from libcpp.algorithm cimport sort
from libcpp.pair cimport pair

from archivestream._native.codecs cimport (
    BAD_INDEX, BAD_NAME, BROKEN_LINK, BZIP2, DEFLATE, ENCRYPTED, IMPOSSIBLE_SIZE, IN_PIECES, LZ4, LZMA, NOT_NATIVE,
    NOT_RUN, NO_MEMORY, OK, OTHER_DISK, OUT_OF_BOUNDS, OVERLAP, OVER_LIMIT, PATCHED, STORED, TRUNCATED,
    UNSUPPORTED_METHOD, UNSUPPORTED_VERSION, XZ, is_native, is_possible, readable)
from archivestream._native.columns cimport (
    ALIAS_BIT, BAD_NAME_BIT, BLOCKS, BROKEN_LINK_BIT, ENCRYPTED_BIT, ENTRIES, FORBIDDEN_BITS, OTHER_DISK_BIT,
    OUT_OF_RANGE_BIT, PATCHED_BIT, RANGES, RAW_NAME_BIT, SEGMENTED_BIT, SPARSE_BIT, VERSION_BIT)
from archivestream._native.zipscan cimport LOCAL_HEADER

# Source and position in it, then the task.
ctypedef pair[pair[uint32_t, uint64_t], uint32_t] FileOrder

cdef enum:
    NO_SUCCESSOR = 0xFFFFFFFF
    SLACK = 512                 # bytes read past a block of unknown span: its local extra field, mostly
    LARGEST_GAP = 4096          # bytes that may be read for nothing to join two blocks in one read
    LARGEST_GROUP = 256 << 10   # bytes of one read: fits the second-level cache
    LARGEST_WORK = 1 << 20      # bytes to decode from one read
    SMALLEST_GROUP = 64 << 10   # less is done sooner than another thread wakes
    SMALLEST_DIRECT = 16 << 10  # stored blocks from here on are read to their place, not through scratch memory


cdef Status admit(const Columns *columns, uint64_t block) noexcept nogil:
    """Decide from the index alone whether a block may be read: before memory is taken for it."""
    cdef uint16_t flags = columns.flags[block]
    cdef uint16_t codec = columns.codec[block]
    cdef uint16_t layout = columns.sources[source_of(columns, <uint32_t> block)].layout
    if flags & FORBIDDEN_BITS:
        if flags & ENCRYPTED_BIT:
            return ENCRYPTED
        if flags & PATCHED_BIT:
            return PATCHED
        if flags & VERSION_BIT:
            return UNSUPPORTED_VERSION
        if flags & OTHER_DISK_BIT:
            return OTHER_DISK
        if flags & OUT_OF_RANGE_BIT:
            return OUT_OF_BOUNDS
        if flags & BAD_NAME_BIT:
            return BAD_NAME
        if flags & ALIAS_BIT and not columns.allow_overlap:
            return OVERLAP
        if flags & BROKEN_LINK_BIT:
            return BROKEN_LINK
    if columns.size[block] > columns.largest:
        return OVER_LIMIT
    if layout != ENTRIES:
        if flags & SPARSE_BIT:
            return NOT_NATIVE
        # What lies in the source as it is, is read by its size, wherever the index comes from.
        if layout == RANGES and (codec != STORED or columns.compressed_size[block] != columns.size[block]):
            return BAD_INDEX
        return OK
    if not is_native(codec) and codec != BZIP2 and codec != LZMA and codec != XZ and codec != LZ4:
        return UNSUPPORTED_METHOD
    if not is_possible(codec, columns.compressed_size[block], columns.size[block]):
        return IMPOSSIBLE_SIZE
    return OK if is_native(codec) else NOT_NATIVE


cdef const uint8_t *name_of(const Columns *columns, uint32_t block, size_t *size) noexcept nogil:
    """The bytes of a name as they stand in the archive."""
    cdef uint64_t low = 0
    cdef uint64_t high = columns.n_raw
    cdef uint64_t middle
    if columns.flags[block] & RAW_NAME_BIT:
        while low < high:
            middle = (low + high) // 2
            if columns.raw_member[middle] < block:
                low = middle + 1
            else:
                high = middle
        size[0] = columns.raw_offset[low + 1] - columns.raw_offset[low]
        return columns.raw_names + columns.raw_offset[low]
    size[0] = columns.name_offset[block + 1] - columns.name_offset[block]
    return columns.names + columns.name_offset[block]


cdef uint32_t source_of(const Columns *columns, uint32_t block) noexcept nogil:
    cdef uint32_t low = 0
    cdef uint32_t high = columns.n_sources - 1
    cdef uint32_t middle
    while low < high:
        middle = (low + high + 1) // 2
        if columns.first_member[middle] <= block:
            low = middle
        else:
            high = middle - 1
    return low


cdef uint64_t end_of_room(const Columns *columns, const Task *task) noexcept nogil:
    """Where the next block of the source, or its directory, begins: this one must end there or before."""
    cdef const Source *source = &columns.sources[task.source]
    cdef uint64_t next_block = <uint64_t> task.block + 1
    if columns.allow_overlap:
        return source.size
    if columns.successor != NULL:
        next_block = columns.successor[task.block]
        if next_block == NO_SUCCESSOR:
            return source.data_end
    elif next_block == columns.first_member[task.source + 1]:
        return source.data_end
    return min(columns.offset[next_block], source.data_end)


cdef void locate(const Columns *columns, Task *task, bint whole) noexcept nogil:
    """Set the range that a task reads, or its status where there can be none: IN_PIECES where it is one of blocks.

    With ``whole`` the range holds the longest local extra field that there can be: for callers who fetch the
    range themselves, and cannot go back for more.
    """
    cdef uint64_t offset = columns.offset[task.block]
    cdef uint64_t compressed_size = columns.compressed_size[task.block]
    cdef uint64_t room, slack
    cdef size_t name_size
    cdef uint32_t span
    cdef const Source *source
    task.source = source_of(columns, task.block)
    source = &columns.sources[task.source]
    if source.layout != ENTRIES:
        room = source.stream_size if source.layout == BLOCKS else source.data_end
        if offset > room or columns.size[task.block] > room - offset:
            task.status = TRUNCATED
            return
        task.begin = offset
        task.end = offset + columns.size[task.block]
        if source.layout == BLOCKS:
            task.status = IN_PIECES
        return
    room = end_of_room(columns, task)
    if offset >= columns.sources[task.source].data_end and not columns.allow_overlap:
        task.status = OUT_OF_BOUNDS
        return
    span = load_span(&columns.spans[task.block])
    if span == 0:
        name_of(columns, task.block, &name_size)
        if name_size > LONGEST_NAME:
            task.status = BAD_INDEX
            return
        span = <uint32_t> (LOCAL_HEADER + name_size)
        slack = LONGEST_EXTRA if whole else SLACK
    else:
        slack = 0
    # In the form of subtractions: sums of numbers from a file can wrap.
    if room < offset or room - offset < span or room - offset - span < compressed_size:
        task.status = OVERLAP
        return
    task.begin = offset
    task.end = offset + span + length_of_data(columns, task.block)
    task.end += min(slack, room - task.end)
    # Who fetches the bytes himself fetches all of them. Strict: the segments could decode to other bytes than the
    # stream that every other reader takes the member for.
    if (
        columns.flags[task.block] & SEGMENTED_BIT
        and columns.codec[task.block] == DEFLATE
        and not whole
        and not columns.strict
        and (source.fd >= 0 or source.memory != NULL)
    ):
        task.status = IN_PIECES


cdef uint64_t length_of_data(const Columns *columns, uint64_t block) noexcept nogil:
    """How many compressed bytes of a block are read."""
    return readable(columns.codec[block], columns.compressed_size[block], columns.size[block])


cdef bint is_direct(const Plan *plan, const Task *task) noexcept nogil:
    """Whether the bytes go from the file to their place with no scratch memory between."""
    cdef const Columns *columns = plan.columns
    return (
        columns.codec[task.block] == STORED
        and task.target != NULL
        and columns.sources[task.source].fd >= 0
        and columns.compressed_size[task.block] >= SMALLEST_DIRECT
    )


cdef bint is_foreseeable(const Plan *plan, const Task *task) noexcept nogil:
    """Whether a part of the member may go to its place with no scratch memory between: see `Foresee`."""
    cdef const Source *source = &plan.columns.sources[task.source]
    return (
        plan.foresee != NULL
        and source.layout == RANGES
        and source.fd >= 0
        and plan.columns.size[task.block] >= SMALLEST_DIRECT
    )


cdef inline uint64_t clamp(uint64_t value, uint64_t low, uint64_t high) noexcept nogil:
    return low if value < low else min(value, high)


cdef Status make_groups(Plan *plan, size_t threads) noexcept nogil:
    """Put the tasks in file order and group neighbours; tasks that failed already are left out."""
    cdef FileOrder *order
    cdef Task *tasks = plan.tasks
    cdef Task *sorted_tasks
    cdef Task *task
    cdef size_t i
    cdef uint64_t largest, most_work, work = 0, total = 0, total_work = 0
    cdef bint in_order = True
    cdef Group *group = NULL
    for i in range(plan.n):
        total += tasks[i].end - tasks[i].begin if tasks[i].status == NOT_RUN else 0
        total_work += plan.columns.size[tasks[i].block] if tasks[i].status == NOT_RUN else 0
        if i and (
            tasks[i].source < tasks[i - 1].source
            or (tasks[i].source == tasks[i - 1].source and tasks[i].begin < tasks[i - 1].begin)
        ):
            in_order = False
    plan.groups = <Group *> malloc((plan.n + 1) * sizeof(Group))
    if plan.groups == NULL:
        return NO_MEMORY
    if not in_order:
        sorted_tasks = <Task *> malloc(plan.n * sizeof(Task))
        order = <FileOrder *> malloc(plan.n * sizeof(FileOrder))
        if sorted_tasks == NULL or order == NULL:
            free(sorted_tasks)
            free(order)
            return NO_MEMORY
        for i in range(plan.n):
            order[i].first.first = tasks[i].source
            order[i].first.second = tasks[i].begin
            order[i].second = <uint32_t> i
        sort(order, order + plan.n)
        for i in range(plan.n):
            sorted_tasks[i] = tasks[order[i].second]
        free(order)
        free(tasks)
        tasks = plan.tasks = sorted_tasks
    # Small enough that each thread gets several groups, and none waits long for the last.
    largest = clamp(total // (4 * threads + 1), SMALLEST_GROUP, LARGEST_GROUP)
    most_work = clamp(total_work // (4 * threads + 1), SMALLEST_GROUP, LARGEST_WORK)
    for i in range(plan.n):
        task = &tasks[i]
        if task.status != NOT_RUN:
            group = NULL
            continue
        if (
            group != NULL
            and task.input == NULL
            and task.source == tasks[group.begin].source
            and task.begin - tasks[group.begin].begin <= largest
            and task.end <= tasks[group.begin].begin + largest
            and (task.begin <= tasks[i - 1].end or task.begin - tasks[i - 1].end <= LARGEST_GAP)
            and work + plan.columns.size[task.block] <= most_work
            and not (is_direct(plan, task) or is_foreseeable(plan, task))
        ):
            group.end = i + 1
            work += plan.columns.size[task.block]
            continue
        plan.groups[plan.n_groups].begin = i
        plan.groups[plan.n_groups].end = i + 1
        # Tasks that others could join: neither fetched already nor read straight to their place.
        group = &plan.groups[plan.n_groups]
        work = plan.columns.size[task.block]
        plan.n_groups += 1
        if task.input != NULL or is_direct(plan, task) or is_foreseeable(plan, task):
            group = NULL
    return OK
