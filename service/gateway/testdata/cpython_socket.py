"""Runs the name tests of CPython's own test suite with the lookups of the socket module answered by REST.

Usage: cpython_socket.py PORT TEST...

The functions below do what the C code of the socket module does around the C library: they turn arguments into what the
library takes, and what it gives into Python's types and exceptions. In place of the library they ask probed on
127.0.0.1:PORT.
"""

import json
import os
import socket
import sys
import unittest
from urllib.parse import quote, urlencode

PORT = int(sys.argv[1])
PLAIN_SOCKET = socket.socket


class NotFound(Exception):
    """The answer is an error; reason is that of its ErrorInfo."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


def ask(path, **parameters):
    """Asks by HTTP/1.0 over a bare socket: anything more comfortable would look names up itself."""
    query = urlencode({k: v for k, v in parameters.items() if v is not None}, doseq=True)
    with PLAIN_SOCKET(socket.AF_INET, socket.SOCK_STREAM) as conn:
        conn.connect(("127.0.0.1", PORT))
        conn.sendall(f"GET {path}?{query} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        reply = b""
        while chunk := conn.recv(65536):
            reply += chunk
    head, _, body = reply.partition(b"\r\n\r\n")
    answer = json.loads(body)
    if head.split()[1] != b"200":
        reasons = [d["reason"] for d in answer["details"] if "ErrorInfo" in d["@type"]]
        raise NotFound(reasons[0], answer["message"])
    return answer


def encoded(host):
    if isinstance(host, str):
        return host.encode("idna")
    if isinstance(host, (bytes, bytearray)):
        return bytes(host)
    raise TypeError("a host is str, bytes or bytearray, not " + type(host).__name__)


def gaierror(error):
    code = getattr(socket, error.reason, socket.EAI_NONAME)
    return socket.gaierror(code, str(error))


def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    if host is not None:
        host = encoded(host)
    if isinstance(port, int):
        port = str(port)
    if isinstance(port, str):
        port = port.encode("utf-8")
    elif port is not None and not isinstance(port, bytes):
        raise OSError("Int or String expected")
    try:
        answer = ask(
            "/v1/addrinfo", host=host, service=port, family=int(family), type=int(type), protocol=int(proto),
            flags=[1 << bit for bit in range(31) if flags >> bit & 1],
        )
    except NotFound as error:
        raise gaierror(error) from None
    return [entry(e) for e in answer["addresses"]]


def entry(e):
    address = e["address"]
    sockaddr = (address["ip"], address["port"])
    family = number(e["family"])
    if family == socket.AF_INET6:
        sockaddr += (address["flowInfo"], address["scopeId"])
    return (
        socket._intenum_converter(family, socket.AddressFamily),
        socket._intenum_converter(number(e["type"]), socket.SocketKind),
        number(e["protocol"]), e["canonicalName"], sockaddr,
    )


def number(name):
    return getattr(socket, name) if isinstance(name, str) else name


def getnameinfo(sockaddr, flags):
    if not isinstance(sockaddr, tuple):
        raise TypeError("getnameinfo() argument 1 must be a tuple")
    host, port, *rest = sockaddr
    if rest and rest[0] > 0xFFFFF:
        raise OverflowError("getnameinfo(): flowinfo must be 0-1048575.")
    numeric = getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)
    if len(numeric) != 1:
        raise OSError("sockaddr resolved to multiple addresses")
    address = numeric[0][4][0]
    if len(rest) > 1 and rest[1]:
        address += "%" + str(rest[1])
    try:
        answer = ask("/v1/nameinfo", address=address, port=port,
                     flags=[1 << bit for bit in range(31) if flags >> bit & 1])
    except NotFound as error:
        raise gaierror(error) from None
    return answer["host"], answer["service"]


def lookup_host(host):
    host = encoded(host)
    if b"\0" in host:
        raise ValueError("embedded null character")
    try:
        return ask("/v1/hosts/" + quote(host, safe=""), family="AF_INET")
    except NotFound as error:
        raise gaierror(error) from None


def gethostbyname(host):
    return lookup_host(host)["addresses"][0]


def gethostbyname_ex(host):
    answer = lookup_host(host)
    return answer["canonicalName"], answer["aliases"], answer["addresses"]


def gethostbyaddr(host):
    address = gethostbyname(host) if isinstance(host, str) and ":" not in host else host
    try:
        answer = ask("/v1/addresses/" + quote(address, safe=""))
    except NotFound as error:
        raise socket.herror(1, str(error)) from None
    return answer["canonicalName"], answer["aliases"], answer["addresses"]


def gethostname():
    return ask("/v1/hostname")["hostname"]


def getservbyname(name, protocol=None):
    try:
        # The C library knows the host's file alone; so it is asked for that.
        services = ask("/v1/services/" + quote(name, safe=""), protocol=protocol)["services"]
    except NotFound:
        services = []
    for service in services:
        if service["source"] == "TABLE_SOURCE_FILE":
            return service["port"]
    raise OSError("service/proto not found")


def getservbyport(port, protocol=None):
    if not 0 <= port <= 0xFFFF:
        raise OverflowError("getservbyport: port must be 0-65535.")
    for service in ask(f"/v1/ports/{port}", protocol=protocol)["services"]:
        if service["source"] == "TABLE_SOURCE_FILE":
            return service["name"]
    raise OSError("port/proto not found")


def getprotobyname(name):
    try:
        return ask("/v1/protocols/" + quote(name, safe=""))["number"]
    except NotFound:
        raise OSError("protocol not found") from None


def main():
    # The suite lets go of the network where a build farm has none; here it is on this host.
    from test import support, test_socket

    support.use_resources = ["network"]
    for function in (getaddrinfo, getnameinfo, gethostbyname, gethostbyname_ex, gethostbyaddr, gethostname,
                     getservbyname, getservbyport, getprotobyname):
        setattr(socket, function.__name__, function)
    suite = unittest.TestSuite(test_socket.GeneralModuleTests(name) for name in sys.argv[2:])
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    ok = result.wasSuccessful() and not result.skipped and result.testsRun == len(sys.argv) - 2
    sys.stdout.flush()
    os._exit(0 if ok else 1)


main()
