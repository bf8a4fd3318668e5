"""A network path that can be cut: passes TCP connections on to another address.

usage: relay.py ADDRESS PORT TO-ADDRESS TO-PORT
SIGKILL cuts it: both ends see it. SIGSTOP makes it silent, SIGCONT brings it back.
"""

import asyncio
import sys

here, port, there, to_port = sys.argv[1:]


async def copy(reader, writer):
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def carry(reader, writer):
    try:
        back, onward = await asyncio.open_connection(there, int(to_port))
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, onward), copy(back, writer))


async def main():
    server = await asyncio.start_server(carry, here, int(port), reuse_address=True)
    await server.serve_forever()


asyncio.run(main())
