"""libnbd's Python bindings against a server: what the protocol promises, checked against a model in memory.

usage: clients-libnbd.py HOST:PORT EXPORT OTHER_EXPORT
Writes to both exports. Prints each rule, and what went wrong with it; status 1 when one was broken.
"""

import errno
import random
import sys
import traceback

import nbd

ADDRESS, EXPORT, OTHER = sys.argv[1:]
KIB, MIB = 1 << 10, 1 << 20


def connect(export=EXPORT, structured=True, promise=False):
    """promise: ask for the block sizes, and so promise to obey them; who does not ask may send any byte range."""
    handle = nbd.NBD()
    handle.set_strict_mode(0)  # unaligned and out-of-range requests shall reach the server
    handle.set_request_block_size(promise)
    handle.set_request_structured_replies(structured)
    handle.set_pread_initialize(True)
    if structured:
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_uri(f"nbd://{ADDRESS}/{export}")
    return handle


def refused(codes, call, *args, **kwargs):
    """The call must fail with one of these errno values."""
    try:
        call(*args, **kwargs)
    except nbd.Error as error:
        assert error.errnum in codes, f"{error.string}: errno {error.errnum}, expected {codes}"
        return
    raise AssertionError(f"{call.__name__}{args[1:]} was not refused")


def extents(handle, count, offset, flags=0):
    found = []
    handle.block_status(count, offset, lambda _name, _at, entries, _error: found.extend(entries) or 0, flags)
    return list(zip(found[::2], found[1::2]))


def status_of(handle, count, offset):
    """Set of the status flags of every byte in the range."""
    flags, end = set(), offset + count
    while offset < end:
        for length, state in extents(handle, end - offset, offset):
            assert length > 0
            flags.add(state)
            offset += length
    return flags


def advertises_what_it_can(_handle):
    handle = connect(promise=True)
    assert handle.get_structured_replies_negotiated()
    assert handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    for name in ("flush", "fua", "trim", "zero", "df", "multi_conn"):
        assert getattr(handle, f"can_{name}")(), f"can_{name}"
    assert not handle.is_read_only()
    sizes = [handle.get_block_size(kind) for kind in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
    assert all(sizes) and sizes[0] <= sizes[1] <= sizes[2], sizes
    assert handle.get_size() % sizes[0] == 0
    print(f"     size {handle.get_size()}, block sizes {sizes}")
    if sizes[0] > 1:
        refused((errno.EINVAL,), handle.pwrite, b"x", 1)
        refused((errno.EINVAL,), handle.pread, 1, sizes[0] - 1)
    handle.pwrite(bytes(sizes[0]), 0)
    handle.shutdown()


def exports_are_listed_and_an_unknown_one_is_refused(_handle):
    handle, names = nbd.NBD(), []
    handle.set_opt_mode(True)
    handle.set_export_name(EXPORT)
    handle.connect_uri(f"nbd://{ADDRESS}/")
    handle.opt_list(lambda name, _description: names.append(name) or 0)
    assert {EXPORT, OTHER} <= set(names), names
    handle.set_export_name("no such export")
    refused((errno.ENOENT,), handle.opt_info)
    handle.set_export_name(EXPORT)
    handle.opt_go()
    assert handle.get_size() > 0
    handle.shutdown()


def never_written_bytes_are_zero_and_known_as_zero(handle):
    assert handle.pread(MIB, 100 * MIB) == bytes(MIB)
    assert all(state & nbd.STATE_ZERO for state in status_of(handle, MIB, 100 * MIB))


def unaligned_requests_match_a_model(handle):
    prng, base, model = random.Random(1), 3 * MIB + 4096 - 512, bytearray(512 * KIB)
    for _ in range(400):
        length = prng.choice((1, 2, 511, 513, 4095, 4097, prng.randrange(1, 70_000)))
        at = prng.randrange(len(model) - length)
        action = prng.randrange(6)
        if action < 3:
            data, flags = prng.randbytes(length), prng.choice((0, 0, nbd.CMD_FLAG_FUA))
            handle.pwrite(data, base + at, flags)
            model[at : at + length] = data
        elif action == 3:
            handle.zero(length, base + at, prng.choice((0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA)))
            model[at : at + length] = bytes(length)
        else:
            assert handle.pread(length, base + at) == model[at : at + length], (length, at)
    assert handle.pread(len(model), base) == model


def zeroes_and_trims_read_back_as_promised(handle):
    at, filler = 32 * MIB, random.Random(2).randbytes(4 * MIB)
    handle.pwrite(filler, at)
    assert not any(state & nbd.STATE_ZERO for state in status_of(handle, 4 * MIB, at))
    handle.zero(2 * MIB, at)
    assert handle.pread(4 * MIB, at) == bytes(2 * MIB) + filler[2 * MIB :]
    handle.pwrite(filler, at)
    handle.trim(4 * MIB, at, nbd.CMD_FLAG_FUA)
    once = handle.pread(4 * MIB, at)
    assert once == handle.pread(4 * MIB, at)  # R16: whatever it is, it stays
    handle.zero(1, at + 5)
    assert handle.pread(1, at + 5) == b"\0"


def zeroes_of_a_long_range_return_at_once(handle):
    handle.zero(handle.get_size() - 64 * MIB, 64 * MIB)
    assert handle.pread(MIB, handle.get_size() - MIB) == bytes(MIB)


def block_status_covers_the_range_that_was_asked(handle):
    size, covered = handle.get_size(), 0
    while covered < size:
        step = extents(handle, size - covered, covered)
        assert step and all(length > 0 for length, _ in step)
        covered += sum(length for length, _ in step)
    assert covered == size, (covered, size)
    handle.pwrite(b"x" * 4096, 65536)
    one = extents(handle, MIB, 0, nbd.CMD_FLAG_REQ_ONE)
    assert len(one) == 1 and one[0][0] <= MIB, one


def structured_reads_arrive_whole(handle):
    data = random.Random(3).randbytes(MIB)
    handle.pwrite(data, 48 * MIB)
    for flags in (0, nbd.CMD_FLAG_DF):
        length = 60 * KIB if flags else MIB
        found = bytearray(length)

        def chunk(part, offset, state, _error, found=found):
            if state == nbd.READ_DATA:
                found[offset - 48 * MIB : offset - 48 * MIB + len(part)] = part
            return 0

        assert handle.pread_structured(length, 48 * MIB, chunk, flags) == data[:length]
        assert found == data[:length]


def simple_replies_serve_too(_handle):
    handle = connect(structured=False)
    assert not handle.get_structured_replies_negotiated()
    handle.pwrite(b"simple", 77)
    assert handle.pread(6, 77) == b"simple"
    refused((errno.EINVAL,), handle.pread, 4096, handle.get_size())
    assert handle.pread(6, 77) == b"simple"
    handle.shutdown()


def out_of_range_is_refused_and_the_connection_lives(handle):
    size = handle.get_size()
    refused((errno.EINVAL,), handle.pread, 4096, size)
    refused((errno.EINVAL,), handle.pread, 4096, size - 1)
    refused((errno.ENOSPC, errno.EINVAL), handle.pwrite, bytes(4096), size - 4095)
    refused((errno.ENOSPC, errno.EINVAL), handle.zero, 4096, size)
    refused((errno.EINVAL, errno.ENOSPC), handle.trim, 4096, size)
    refused((errno.EINVAL, errno.EOVERFLOW), handle.pread, 1, (1 << 63) - 1)
    assert len(handle.pread(1, size - 1)) == 1


def the_largest_request_works(handle):
    data = random.Random(4).randbytes(32 * MIB)
    handle.pwrite(data, 64 * MIB + 512)
    assert handle.pread(32 * MIB, 64 * MIB + 512) == data


def many_requests_in_flight(handle):
    prng, base, count = random.Random(5), 128 * MIB, 512
    blocks = [prng.randbytes(4096) for _ in range(count)]
    waiting = [handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(block)), base + 4096 * i)
               for i, block in enumerate(blocks)]
    finish(handle, waiting)
    buffers = [nbd.Buffer(4096) for _ in range(count)]
    finish(handle, [handle.aio_pread(buffer, base + 4096 * i) for i, buffer in enumerate(buffers)])
    for i, buffer in enumerate(buffers):
        assert bytes(buffer.to_bytearray()) == blocks[i], i


def finish(handle, waiting):
    for cookie in waiting:
        while not handle.aio_command_completed(cookie):
            handle.poll(10_000)


def a_flush_covers_other_connections(_handle):
    writer, flusher, reader = connect(), connect(), connect()
    for i in range(20):
        data = bytes([i]) * 8192
        writer.pwrite(data, 160 * MIB + i * 8192)
        flusher.flush()
        assert reader.pread(8192, 160 * MIB + i * 8192) == data
    for handle in (writer, flusher, reader):
        handle.shutdown()


def exports_do_not_mix(handle):
    other = connect(OTHER)
    handle.pwrite(b"a" * 65536, 10 * MIB)
    other.pwrite(b"b" * 65536, 10 * MIB)
    assert handle.pread(65536, 10 * MIB) == b"a" * 65536
    assert other.pread(65536, 10 * MIB) == b"b" * 65536
    other.shutdown()


RULES = (
    advertises_what_it_can,
    exports_are_listed_and_an_unknown_one_is_refused,
    never_written_bytes_are_zero_and_known_as_zero,
    unaligned_requests_match_a_model,
    zeroes_and_trims_read_back_as_promised,
    block_status_covers_the_range_that_was_asked,
    structured_reads_arrive_whole,
    simple_replies_serve_too,
    out_of_range_is_refused_and_the_connection_lives,
    the_largest_request_works,
    many_requests_in_flight,
    a_flush_covers_other_connections,
    exports_do_not_mix,
    zeroes_of_a_long_range_return_at_once,
)

broken = 0
for rule in RULES:
    print(f"  {rule.__name__.replace('_', ' ')}", flush=True)
    try:
        client = connect()
        rule(client)
        client.shutdown()
    except (AssertionError, nbd.Error):
        traceback.print_exc(file=sys.stdout)
        broken += 1
sys.exit(1 if broken else 0)
