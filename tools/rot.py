#!/usr/bin/env python3
"""Flips bits in a member's file, in blocks that hold what a client wrote.

usage: rot.py SAMPLE FILE EVERY

Blocks of 4096 bytes that are equal to one of the file SAMPLE are looked for in FILE; one bit of every EVERY-th of them
is flipped, at a place that moves through the block. Knows nothing of the format. Prints how many; none is an error.
"""
import os
import sys

BLOCK = 4096


def main():
    sample, path, every = sys.argv[1], sys.argv[2], int(sys.argv[3])
    known = set()
    with open(sample, "rb") as file:
        while len(block := file.read(BLOCK)) == BLOCK:
            known.add(hash(block))
    known.discard(hash(bytes(BLOCK)))
    seen = flipped = 0
    with open(path, "r+b", buffering=0) as file:
        end, at = file.seek(0, os.SEEK_END), 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                break
            block = os.pread(file.fileno(), BLOCK, at)
            if len(block) == BLOCK and hash(block) in known:
                seen += 1
                if seen % every == 0:
                    place = seen * 37 % BLOCK
                    os.pwrite(file.fileno(), bytes([block[place] ^ 1 << seen % 8]), at + place)
                    flipped += 1
            at += BLOCK
        os.fsync(file.fileno())
    print(f"{flipped} bits flipped in {path}, of {seen} blocks known")
    return 0 if flipped else 1


sys.exit(main())
