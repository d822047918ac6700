"""The original recipe's loop, for `tests/daemon/recipe.rs` to hold the daemon against.

    python3 recipe.py HOST PORT TIMEOUT

Prints the port that it is bound to, waits until its standard input is closed, so that all that
is to be sent can be there, and prints how it ended. Like the recipe it fails in every end but
that on an empty datagram.
"""

import socket
import struct
import sys

RECORD = struct.Struct("! I 2s Q 2h f")


def serve(sock: socket.socket) -> None:
    """Echoes a datagram, decodes the next, and so on, until an empty one is there to echo."""
    while True:
        data, peer = sock.recvfrom(1024)
        if not data:
            return
        sock.sendto(data, peer)
        data, _ = sock.recvfrom(RECORD.size)
        if data:
            RECORD.unpack(data)


def main() -> int:
    host, port, timeout = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, int(port)))
        print(sock.getsockname()[1], flush=True)
        sys.stdin.read()
        sock.settimeout(float(timeout))
        try:
            serve(sock)
        except TimeoutError:
            print("timeout")
        except struct.error:
            print("decode-error")
        else:
            print("empty")
            return 0
    return 1


sys.exit(main())
