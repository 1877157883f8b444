"""Memory that a listing took is the system's again afterwards."""

import ctypes
import multiprocessing

from opencode_lifecycle.adapters.allocator import give_back_what_is_freed


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")] + [
        (name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def _mapped() -> int:
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo2
    return int(libc.mallinfo2().hblkhd)


def _mapped_for_a_second_body(*, first: bool) -> int:
    """Return how much of a body of 1 MiB is mapped by itself, once a larger one was freed."""
    if first:
        assert give_back_what_is_freed()
    bytes(16 * 2**20)
    before = _mapped()
    body = bytes(2**20)
    mapped = _mapped() - before
    del body
    return mapped


def _in_a_process_of_its_own(*, first: bool) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_mapped_for_a_second_body, kwds={"first": first})


def test_a_body_after_a_larger_one_is_mapped_by_itself_and_so_given_back() -> None:
    assert _in_a_process_of_its_own(first=True) >= 2**20


def test_by_itself_the_c_library_keeps_such_a_body() -> None:
    assert _in_a_process_of_its_own(first=False) == 0
