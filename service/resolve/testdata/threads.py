"""getaddrinfo in a loop of as many threads as asked for: prints look-ups per second."""
import socket
import sys
import threading
import time

threads, each, host = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def run():
    for _ in range(each):
        socket.getaddrinfo(host, None, socket.AF_UNSPEC, socket.SOCK_STREAM)


run()
workers = [threading.Thread(target=run) for _ in range(threads)]
began = time.monotonic()
for w in workers:
    w.start()
for w in workers:
    w.join()
print(threads * each / (time.monotonic() - began))
