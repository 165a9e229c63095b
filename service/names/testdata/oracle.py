# Asks the C library what the tests ask: questions as JSON on standard input,
# answers in the same order on standard output.
import ctypes
import json
import socket
import sys


def or_else(unknown, call, *args):
    try:
        return call(*args)
    except OSError:
        return unknown


def protocol(name):
    return [name] if name else []


class Servent(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("aliases", ctypes.POINTER(ctypes.c_char_p)),
        ("port", ctypes.c_int),
        ("protocol", ctypes.c_char_p),
    ]


class Protoent(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("aliases", ctypes.POINTER(ctypes.c_char_p)),
        ("number", ctypes.c_int),
    ]


def entries(next_entry, kind):
    next_entry.restype = ctypes.POINTER(kind)
    while entry := next_entry():
        entry, aliases = entry.contents, []
        while (alias := entry.aliases[len(aliases)]) is not None:
            aliases.append(alias.decode())
        yield entry, aliases


libc = ctypes.CDLL(None)
questions = json.load(sys.stdin)
json.dump(
    {
        "by_name": [
            or_else(-1, socket.getservbyname, q["name"], *protocol(q["protocol"]))
            for q in questions["by_name"] or []
        ],
        "by_port": [
            or_else("", socket.getservbyport, q["port"], *protocol(q["protocol"]))
            for q in questions["by_port"] or []
        ],
        "protocols": [
            or_else(-1, socket.getprotobyname, name)
            for name in questions["protocols"] or []
        ],
        "all_services": [
            {
                "name": e.name.decode(),
                "number": socket.ntohs(e.port),
                "protocol": e.protocol.decode(),
                "aliases": aliases,
            }
            for e, aliases in entries(libc.getservent, Servent)
        ],
        "all_protocols": [
            {"name": e.name.decode(), "number": e.number, "protocol": "", "aliases": aliases}
            for e, aliases in entries(libc.getprotoent, Protoent)
        ],
        "constants": {
            name: int(value)
            for name, value in vars(socket).items()
            if name.isidentifier() and isinstance(value, int)
        },
    },
    sys.stdout,
)
