"""The ring of slots: alignment, order, what is used again and when, growth; and batches laid into one memory."""

from __future__ import annotations

import dataclasses
import gc
import random
import threading
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from archivestream.slots import Laid, Ring, Slot, power_of_two  # noqa: E402
from archivestream.tensors import ALIGNMENT, Place, map_leaves  # noqa: E402

Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass(frozen=True)
class Record:
    image: Any
    name: str
    size: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.image))


class Checked(namedtuple("Checked", "rows count")):
    def __new__(cls, rows: Any, count: int) -> Any:
        assert len(rows) == count
        return super().__new__(cls, rows, count)


class Titled(list[Any]):
    def __init__(self, title: str, *parts: Any) -> None:
        super().__init__(parts)
        self.title = title


class Fields(UserDict[str, Any]):
    """As a BatchEncoding has it."""


def ring(count: int = 3, size: int = 10_000) -> Ring:
    return Ring(count, size, pinned=False)


def back(laid: Laid) -> Any:
    """Return the batch in a copy of the memory, as a device has it."""
    memory = laid.memory.clone()
    return map_leaves(lambda leaf: leaf.view(memory) if isinstance(leaf, Place) else leaf, laid.batch)


def places(laid: Laid) -> list[Place]:
    found: list[Place] = []
    map_leaves(lambda leaf: found.append(leaf) if isinstance(leaf, Place) else None, laid.batch)
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.detach(), other)
    if isinstance(one, dict | UserDict):
        return type(one) is type(other) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and same(vars(one), vars(other))
    return bool(one == other)


@given(st.integers(0, 1 << 40))
def test_slots_are_powers_of_two(size: int) -> None:
    rounded = power_of_two(size)
    assert rounded & (rounded - 1) == 0
    assert max(size, 4096) <= rounded < max(2 * size, 4097)


@given(st.lists(st.integers(0, 3000), max_size=12))
@settings(max_examples=50)
def test_allocations_are_aligned_and_do_not_meet(sizes: list[int]) -> None:
    slot = ring(1, 1 << 17).take()
    parts = [slot.allocate(size) for size in sizes]
    for i, part in enumerate(parts):
        assert len(part) == sizes[i]
        assert (part.ctypes.data - slot.memory.ctypes.data) % ALIGNMENT == 0
        part[:] = i
    for i, part in enumerate(parts):
        assert (part == i).all()


TENSORS = {
    "bytes": torch.arange(100, dtype=torch.uint8),
    "floats": torch.randn(3, 4, 5),
    "nothing": torch.zeros(4, 0, 3, dtype=torch.int16),
    "scalar": torch.tensor(7.5, dtype=torch.float64),
    "booleans": torch.tensor([True, False, True]),
    "complex": torch.randn(5, dtype=torch.complex64),
    "bfloat16": torch.randn(7).to(torch.bfloat16),
    "transposed": torch.randn(6, 5).t(),
    "steps": torch.arange(50)[3::7],
    "expanded": torch.tensor([1.5, 2.5]).expand(4, 2),
    "grad": torch.randn(3, requires_grad=True),
    "conjugate": torch.randn(4, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("name", TENSORS)
def test_any_tensor_is_laid(name: str) -> None:
    tensor = TENSORS[name]
    laid = ring().take().lay([tensor, tensor, torch.tensor([1, 2, 3])])
    first, second, third = back(laid)
    for found in (first, second):
        assert same(tensor, found)
        assert not found.requires_grad
    assert third.tolist() == [1, 2, 3]
    assert all(place.offset % ALIGNMENT == 0 for place in places(laid) if 0 not in place.shape)


@pytest.mark.parametrize(
    "batch",
    [
        torch.arange(9),
        {"a": torch.arange(9), "b": [torch.ones(2), "text", None, 5]},
        OrderedDict(x=torch.ones(1), y=(torch.zeros(2), b"bytes")),
        Pair(torch.ones(3), [torch.arange(4)]),
        Record(torch.rand(2, 2), "name"),
        Checked(torch.rand(3, 1), 3),
        Fields(ids=torch.ones(3), mask=torch.zeros(3)),
        torch.max(torch.rand(4, 3), dim=0),
        [torch.Size([3, 4])],
        [{"deep": (Pair(torch.ones(1), {}),)}],
        [],
        "no tensor",
        None,
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_whatever_holds_tensors_stays_what_it_is(batch: Any) -> None:
    assert same(batch, back(ring().take().lay(batch)))


def test_a_list_keeps_what_else_it_has() -> None:
    found = back(ring().take().lay(Titled("title", torch.ones(2), 5)))
    assert (type(found), found.title) == (Titled, "title")
    assert same([*found], [torch.ones(2), 5])


def test_what_is_seen_in_another_way_than_it_lies_there_is_copied() -> None:
    slot = ring().take()
    numbers = torch.from_numpy(slot.allocate(32).view(np.complex64))
    numbers[:] = torch.tensor([1 + 2j, 3 - 1j, 0, 5j])
    assert same([numbers.conj(), numbers.conj().imag], back(slot.lay([numbers.conj(), numbers.conj().imag])))


def test_a_released_slot_is_used_again_whoever_refers_to_it() -> None:
    slots = ring(1)
    slot = slots.take()
    held = slot.allocate(10)
    slot.release()
    slot.release()
    assert slots.take().memory.ctypes.data == held.ctypes.data
    del slot, held
    assert len(slots.sizes) == 1
    assert [slots.take() is not None for _ in range(3)] == [True] * 3
    assert len(slots.sizes) == 1


def test_arrays_become_tensors() -> None:
    strange = np.array(["a", "b"])
    batch = {"a": np.arange(3, dtype=">i4"), "b": np.broadcast_to(np.float32(2), (2, 2)), "names": strange}
    found = back(ring().take().lay(batch))
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"].tolist() == [[2, 2], [2, 2]]
    assert found["names"] is strange


def test_what_moves_itself_is_left_to_do_so() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    sparse = torch.eye(3).to_sparse()
    laid = ring().take().lay([packed, sparse])
    assert laid.batch[0] is packed
    assert laid.batch[1] is sparse
    assert not laid.memory.numel()


def test_what_is_in_the_slot_already_is_not_copied() -> None:
    slot = ring().take()
    rows = slot.allocate(24).view(np.float32).reshape(2, 3)
    rows[:] = 3
    laid = slot.lay((torch.from_numpy(rows), torch.from_numpy(rows)[:, 1:], torch.ones(2)))
    whole, part, beside = places(laid)
    assert (whole.offset, part.offset, part.stride) == (0, 4, (3, 1))
    assert beside.offset == ALIGNMENT
    assert laid.memory.numel() == ALIGNMENT + 8
    assert laid.memory.data_ptr() == slot.memory.ctypes.data


def test_what_is_not_aligned_to_its_type_is_copied() -> None:
    slot = ring().take()
    memory = slot.allocate(9)
    memory[:] = range(9)
    odd = torch.from_numpy(memory[1:9].view(np.int32))
    laid = slot.lay([odd, torch.from_numpy(memory)[1:]])
    assert [place.offset for place in places(laid)] == [ALIGNMENT, 1]  # bytes may lie anywhere
    assert same([odd, torch.arange(1, 9, dtype=torch.uint8)], back(laid))


def test_the_slot_that_was_free_for_longest_is_next() -> None:
    slots = ring(4)
    taken = [slots.take() for _ in range(4)]
    address = [slot.memory.ctypes.data for slot in taken]
    order = [2, 0, 3, 1]
    for i in order:
        taken[i] = None  # type: ignore[call-overload]
    assert [slots.take().memory.ctypes.data for _ in range(1)] == [address[2]]
    again = [slots.take() for _ in range(4)]
    assert [slot.memory.ctypes.data for slot in again] == [address[i] for i in [0, 3, 1, 2]]
    assert len(slots.sizes) == 4


def hold(slot: Slot, what: str) -> tuple[Any, int]:
    """Return something in the memory of a slot, and where that is."""
    rows = slot.allocate(100)
    tensor = torch.from_numpy(rows)
    kinds = {"array": rows[3:], "tensor": tensor, "part": tensor[5:].view(5, 19)[1], "laid": slot.lay(tensor)}
    return kinds[what], slot.memory.ctypes.data


@pytest.mark.parametrize("what", ["array", "tensor", "part", "laid"])
def test_a_slot_is_not_used_again_while_anything_refers_to_it(what: str) -> None:
    slots = ring(2)
    held, address = hold(slots.take(), what)
    for _ in range(5):
        assert slots.take().memory.ctypes.data != address
    del held
    assert address in {slots.take().memory.ctypes.data for _ in range(2)}
    assert len(slots.sizes) == 2


class Copy(threading.Thread):
    """A copy that another thread makes, once it may."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.gate, self.source, self.target = threading.Event(), source, torch.empty_like(source)
        self.start()

    def run(self) -> None:
        self.gate.wait(60)
        self.target.copy_(self.source)
        self.source = None

    def query(self) -> bool:
        return not self.is_alive()

    def synchronize(self) -> None:
        self.join()


def copied(slots: Ring, value: int) -> Copy:
    slot = slots.take()
    slot.allocate(5000)[:] = value
    laid = slot.lay(None)
    copy = Copy(laid.memory)
    slots.hold(laid.memory, copy)
    return copy


def test_a_slot_is_used_again_once_its_copy_has_ended() -> None:
    slots = ring(2, 5000)
    copies = [copied(slots, value) for value in (1, 2)]
    timers = [threading.Timer(0.2 * i, copy.gate.set) for i, copy in enumerate(copies, 1)]
    for timer in timers:
        timer.start()
    for copy in copies:
        assert copy.is_alive()
        slot = slots.take()  # waits
        assert not copy.is_alive()
        slot.allocate(5000)[:] = 3
    assert [copy.target.unique().tolist() for copy in copies] == [[1], [2]]
    assert len(slots.sizes) == 2
    for timer in timers:
        timer.join()


def test_closing_waits_for_the_copies() -> None:
    slots = ring(1, 5000)
    copy = copied(slots, 4)
    timer = threading.Timer(0.2, copy.gate.set)
    timer.start()
    slots.close()
    assert not copy.is_alive()
    assert copy.target.unique().tolist() == [4]
    assert not slots.sizes
    timer.join()


def test_larger_batches_make_slots_grow_and_then_nothing_more() -> None:
    slots = ring(3, 4096)
    for size in [4000, 9000, 12_000, 16_000, 10_000, 3000] * 20:
        slot = slots.take()
        slot.allocate(size)[:] = 1
        assert slot.memory.size >= size
    del slot
    assert slots.slot_bytes == 4096
    assert sorted(slots.sizes) == [16_384] * 3
    assert slots.grown == 3
    assert slots.take().memory.size == 16_384


def test_what_lies_in_a_slot_is_kept_when_it_grows() -> None:
    slots = ring(2, 4096)
    slot = slots.take()
    small = torch.from_numpy(slot.allocate(3000))
    small[:] = 7
    large = torch.from_numpy(slot.allocate(9000))
    large[:] = 8
    labels = torch.arange(2000)
    found = back(slot.lay([small, large, labels]))
    assert same([small, large, labels], found)
    del small, large, slot
    gc.collect()
    assert len(slots.sizes) == 2


def test_an_exception_passes_through_memory_of_its_own() -> None:
    slots = ring(3, 4096)
    slot = slots.take()
    rows = torch.from_numpy(slot.allocate(1 << 20))
    rows[:] = 5
    assert same([rows], back(slot.lay([rows])))
    del slot, rows
    assert slots.sizes == [4096] * 3
    # Where all are so large, that was no exception.
    for _ in range(30):
        slots.take().allocate(1 << 20)
    assert slots.slot_bytes == 1 << 20
    assert sorted(slots.sizes)[0] == 1 << 20
    assert len(slots.sizes) == 3


def test_the_first_batch_shows_the_size() -> None:
    slots = Ring(3, 0, pinned=False)
    assert (slots.sizes, slots.slot_bytes) == ([], 0)
    for _ in range(20):
        held = [slots.take() for _ in range(3)]
        for slot in held:
            slot.allocate(70_000)
        del held, slot
    assert (slots.sizes, slots.slot_bytes, slots.grown) == ([1 << 17] * 3, 1 << 17, 0)


def test_a_closed_ring_lets_go_of_its_memory() -> None:
    slots = ring(3)
    held = slots.take()
    slots.close()
    assert len(slots.sizes) == 1
    del held
    assert not slots.sizes


def test_a_ring_may_go_before_its_slots() -> None:
    slots = ring(1)
    slot = slots.take()
    memory = slot.allocate(10)
    del slots, slot
    gc.collect()
    memory[:] = 5
    assert memory.tolist() == [5] * 10


def test_threads_take_slots_and_never_share_one() -> None:
    slots = ring(4, 8192)
    failed: list[int] = []

    def work(number: int) -> None:
        draw = random.Random(number)
        for _ in range(300):
            slot: Slot = slots.take()
            memory = slot.allocate(draw.randrange(1, 20_000))
            memory[:] = number
            if not (memory == number).all():
                failed.append(number)
            del slot, memory  # before the next is taken

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(slots.sizes) <= 6
