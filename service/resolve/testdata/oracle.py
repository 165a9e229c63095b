"""Answers for the C library of this machine: one JSON request a line, one
JSON answer a line. Strings of requests are latin-1 for bytes."""
import json
import socket
import sys

EAI = {v: k for k, v in vars(socket).items() if k.startswith("EAI_")}
EAI.update({-105: "EAI_IDN_ENCODE", -5: "EAI_NODATA", -9: "EAI_ADDRFAMILY"})
HERR = {1: "HOST_NOT_FOUND", 2: "TRY_AGAIN", 3: "NO_RECOVERY", 4: "NO_DATA"}


def raw(s):
    return None if s is None else s.encode("latin-1")


def answer(q):
    op = q["op"]
    try:
        if op == "addrinfo":
            found = socket.getaddrinfo(raw(q["host"]), raw(q["service"]), q["family"], q["type"], q["protocol"], q["flags"])
            out = []
            for family, kind, proto, canon, sa in found:
                sa = list(sa) + [0, 0] if len(sa) == 2 else list(sa)
                sa[0] = sa[0].split("%")[0]
                out.append([int(family), int(kind), proto, canon] + sa)
            return {"ok": out}
        if op == "nameinfo":
            return {"ok": socket.getnameinfo(tuple(q["address"]), q["flags"])}
        if op == "byname":
            return {"ok": socket.gethostbyname_ex(q["host"])}
        if op == "byaddr":
            return {"ok": socket.gethostbyaddr(q["host"])}
        if op == "ping":
            return {"ok": True}
        return {"error": "unknown op"}
    except socket.gaierror as e:
        return {"error": EAI.get(e.errno, str(e.errno))}
    except socket.herror as e:
        return {"error": HERR.get(e.errno, str(e.errno))}
    except OSError as e:
        return {"error": "EAI_SYSTEM"}
    except (UnicodeError, ValueError, OverflowError) as e:
        return {"skip": str(e)}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
