"""HTTP/2 by hand (RFC 9113, RFC 7541): frames and header blocks exactly as an abuser would have them."""

import socket
import ssl
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
    "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def headers(stream, block, flags=END_STREAM, piece=16_384):
    """A header block as HEADERS and, where it is longer than a piece, CONTINUATION."""
    pieces = [block[at : at + piece] for at in range(0, len(block), piece)] or [b""]
    out = []
    for index, part in enumerate(pieces):
        last = END_HEADERS if index == len(pieces) - 1 else 0
        out.append(frame(CONTINUATION if index else HEADERS, last | (0 if index else flags), stream, part))
    return b"".join(out)


def integer(value, prefix, first):
    """An integer with a prefix of so many bits (RFC 7541 §5.1)."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes(out + [value])


def text(value):
    return integer(len(value), 7, 0) + value


def huffman_zeros(length):
    """So many `0`: five bits each, all of them 0 (RFC 7541 appendix B), the rest of the last byte 1."""
    bits = 5 * length
    coded = bytearray(-(-bits // 8))
    if bits % 8:
        coded[-1] |= (1 << (8 - bits % 8)) - 1
    return integer(len(coded), 7, 0x80) + bytes(coded)


def literal(name, value=None, indexed=False, coded=None):
    """A field with a new name; `indexed` puts it into the dynamic table, where it is number 62."""
    return bytes([0x40 if indexed else 0x00]) + text(name) + (coded if coded is not None else text(value))


def request(path=b"/", method=0x82):
    """`:method`, `:scheme`, `:path`, `:authority`; nothing goes into the dynamic table."""
    return bytes([method, 0x87, 0x04]) + text(path) + b"\x01" + text(b"gate.example")


class Connection:
    """A connection whose client says what it likes. After `start` nothing is sent unasked."""

    def __init__(self, port, timeout=10.0):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname="gate.example")
        self.buffer = b""
        self.goaway = None

    def start(self, settings=()):
        """Preface and settings, and the answer to the gateway's: its settings are returned."""
        payload = b"".join(struct.pack("!HI", key, value) for key, value in settings)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, payload))
        while True:
            kind, flags, _, payload = self.read()
            if kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK))
                return dict(struct.iter_unpack("!HI", payload))

    def read(self):
        """The next frame: type, flags, stream, payload. None at the end."""
        while True:
            if len(self.buffer) >= 9:
                length = int.from_bytes(self.buffer[:3], "big")
                if len(self.buffer) >= 9 + length:
                    kind, flags, stream = struct.unpack("!BBI", self.buffer[3:9])
                    payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
                    if kind == GOAWAY:
                        self.goaway = int.from_bytes(payload[4:8], "big")
                    return kind, flags, stream, payload
            try:
                piece = self.socket.recv(65_536)
            except ssl.SSLError:
                return None
            except (TimeoutError, OSError):
                return None
            if not piece:
                return None
            self.buffer += piece

    def close(self):
        self.socket.close()
