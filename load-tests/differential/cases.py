"""Odd requests, byte by byte, and why Portcullis differs where it stands alone.

A case is (group, what, bytes, fields to look at when they arrive at the origin). `{}` in a text is nothing special;
every text is Latin-1.
"""

# Said where Portcullis refuses what both others forward, or forwards what both refuse.
_CANONICAL = "may mean another path to the origin than to the rules; refused unless the route tolerates it"
_CONTROL = "a control character in a path ends lines or names for who decodes it; no route may allow it"
_UTF8 = "not UTF-8: decoders read it as different letters, some as `/`"
_HOST = "not a host with a port (RFC 3986 §3.2); what a route or an origin makes of it is chance"
_LINE = "a line ends in CRLF; who takes a bare line feed for an end sees other lines than who does not (RFC 9112 §2.2)"
_VALUE = "no field may have it (RFC 9110 §5.5); some servers cut the value there"
_LOOK_ALIKE = "some servers read it as the field with hyphens, and see another body"
NOTES = {
    ("Targets", "an escaped slash"): _CANONICAL,
    ("Targets", "an escaped backslash"): _CANONICAL,
    ("Targets", "a backslash"): _CANONICAL,
    ("Targets", "two dots with a backslash"): _CANONICAL,
    ("Targets", "two dots and an escaped slash"): _CANONICAL,
    ("Targets", "two dots with a parameter"): "servers that cut parameters off see `..`; refused unless the route tolerates it",
    ("Targets", "two dots with an escaped parameter"): "as the one before, for who decodes first",
    ("Targets", "a line feed, escaped"): _CONTROL,
    ("Targets", "CRLF and a field, escaped"): _CONTROL,
    ("Targets", "DEL, escaped"): _CONTROL,
    ("Targets", "a tab, escaped"): _CONTROL,
    ("Targets", "overlong UTF-8"): _UTF8,
    ("Targets", "half a letter of UTF-8"): _UTF8,
    ("Targets", "a surrogate in UTF-8"): _UTF8,
    ("Hosts", "absolute form, another scheme"): "the listener serves http and https; another scheme is for a forward proxy",
    ("Hosts", "no Host on HTTP/1.0"): "nobody says which host is meant; `default_host` of the listener does, where it is set",
    ("Hosts", "with a user"): _HOST,
    ("Hosts", "with an empty port"): "valid by RFC 3986, and sent by nobody: one host would have two spellings",
    ("Hosts", "with a port that is none"): _HOST,
    ("Hosts", "with a port beyond 65535"): _HOST,
    ("Hosts", "half an IPv6 address"): _HOST,
    ("Hosts", "an escape"): "two spellings of one host, of which rules would know one",
    ("Hosts", "raw UTF-8"): "names are sent in their ASCII form (RFC 5891 §4.4)",
    ("Request line", "HTTP/1.2"): "no such version exists; servers read it as 1.1 or as 1.0",
    ("Request line", "two spaces"): "exactly one space (RFC 9112 §3); with more, the parts of the line can be read in two ways",
    ("Request line", "two spaces before the version"): "as the one before",
    ("Request line", "a bare line feed first"): _LINE,
    ("Methods", "100 letters"): "no registered method has more than 17; 64 are allowed",
    ("Lengths and codings", "an underscore"): _LOOK_ALIKE,
    ("Lengths and codings", "an underscore in the coding"): _LOOK_ALIKE,
    ("Chunks", "a space behind the size"): "no space belongs there (RFC 9112 §7.1)",
    ("Chunks", "a line feed in an extension"): _LINE,
    ("Chunks", "bare line feeds"): _LINE,
    ("Fields", "Expect something else"): "an expectation that nobody here can meet is 417 (RFC 9110 §10.1.1)",
    ("Fields", "a control character in the value"): _VALUE,
    ("Fields", "DEL in the value"): _VALUE,
    ("Fields", "a bare line feed in the value"): _LINE,
    ("Fields", "a bare line feed at the end"): _LINE,
    ("Fields", "only line feeds"): _LINE,
    ("Pipelining", "content of GET, and one behind"): "served, then closed: an origin that does not read content of GET takes it for the next request",
}


def _request(target="/", method="GET", version="HTTP/1.1", host="Host: a.test", fields="", body="", end="\r\n"):
    lines = [f"{method} {target} {version}"]
    lines += [host] if host else []
    lines += [line for line in fields.split("|") if line]
    return (end.join(lines) + end + end + body).encode("latin-1")


CASES = []


def _add(group, what, data, look=()):
    CASES.append((group, what, data if isinstance(data, bytes) else data.encode("latin-1"), tuple(look)))


def _target(what, target):
    _add("Targets", what, _request(target))


# ── Targets ──────────────────────────────────────────────────────────────────────────────────────────────────────────
_target("an ordinary path", "/a/b?c=d")
_target("an escaped letter", "/%61/b")
_target("lower-case hex", "/a%c3%a9")
_target("an escaped slash", "/a%2fb")
_target("an escaped slash, twice", "/a%252fb")
_target("an escaped backslash", "/a%5cb")
_target("a backslash", "/a\\b")
_target("two slashes", "/a//b")
_target("two slashes first", "//a/b")
_target("one dot", "/a/./b")
_target("two dots", "/a/../b")
_target("two dots at the end", "/a/b/..")
_target("two dots beyond the root", "/../b")
_target("two dots, escaped", "/a/%2e%2e/b")
_target("two dots, half escaped", "/a/.%2e/b")
_target("two dots beyond the root, escaped", "/%2e%2e/b")
_target("two dots with a backslash", "/a/..\\b")
_target("two dots and an escaped slash", "/a/..%2fb")
_target("two dots with a parameter", "/a/..;/b")
_target("two dots with an escaped parameter", "/a/..%3b/b")
_target("a parameter", "/a;x=1/b")
_target("three dots", "/a/.../b")
_target("NUL, escaped", "/a%00b")
_target("a line feed, escaped", "/a%0ab")
_target("CRLF and a field, escaped", "/a%0d%0aX:%20y")
_target("DEL, escaped", "/a%7fb")
_target("a tab, escaped", "/a%09b")
_target("a stray percent", "/a%")
_target("a percent and one digit", "/a%4")
_target("a percent and no hex", "/a%zz")
_target("an escape of %u", "/a%u002f")
_target("overlong UTF-8", "/a%c0%afb")
_target("half a letter of UTF-8", "/a%c3")
_target("a surrogate in UTF-8", "/a%ed%a0%80")
_target("UTF-8, raw", "/a\xc3\xa9")
_target("Latin-1, raw", "/a\xe9")
_target("NUL, raw", "/a\0b")
_target("a control character, raw", "/a\x01b")
_target("DEL, raw", "/a\x7fb")
_target("a tab, raw", "/a\tb")
_target("a space, raw", "/a b")
_target("a carriage return, raw", "/a\rb")
_target("a fragment", "/a#b")
_target("an escaped question mark", "/a%3fb")
_target("an escaped number sign", "/a%23b")
_target("brackets and bars", "/a[]{}|^`\"<>b")
_target("a quote", "/a'b")
_target("no path", "?a=b")
_target("no slash", "a/b")
_target("an asterisk with GET", "*")
_add("Targets", "an asterisk with OPTIONS", _request("*", "OPTIONS"))
_target("an odd query", "/?a=%zz&b=../..&c=%00")
_target("a query with raw UTF-8", "/?a=\xc3\xa9")
_target("two question marks", "/a?b?c")
_target("an empty query", "/a?")
_target("9,000 bytes", "/" + "a" * 9000)
_target("70,000 bytes", "/" + "a" * 70000)

# ── Absolute form and Host ───────────────────────────────────────────────────────────────────────────────────────────
_add("Hosts", "absolute form, the same host", _request("http://a.test/x"), ["host"])
_add("Hosts", "absolute form, another host", _request("http://b.test/x"), ["host"])
_add("Hosts", "absolute form, no Host", _request("http://a.test/x", host=""), ["host"])
_add("Hosts", "absolute form without a path", _request("http://a.test"), ["host"])
_add("Hosts", "absolute form with a user", _request("http://u:p@a.test/x"), ["host"])
_add("Hosts", "absolute form, no authority", _request("http:///x"), ["host"])
_add("Hosts", "absolute form, another scheme", _request("ftp://a.test/x"), ["host"])
_add("Hosts", "absolute form, upper case", _request("HTTP://A.TEST/x"), ["host"])
_add("Hosts", "authority form", _request("a.test:80"), ["host"])
_add("Hosts", "no Host", _request(host=""), ["host"])
_add("Hosts", "no Host on HTTP/1.0", _request(host="", version="HTTP/1.0"), ["host"])
_add("Hosts", "an empty Host", _request(host="Host:"), ["host"])
_add("Hosts", "two of the same", _request(fields="Host: a.test"), ["host"])
_add("Hosts", "two that differ", _request(fields="Host: b.test"), ["host"])
_add("Hosts", "two with a comma", _request(host="Host: a.test, b.test"), ["host"])
_add("Hosts", "two with a space", _request(host="Host: a.test b.test"), ["host"])
_add("Hosts", "with a path", _request(host="Host: a.test/x"), ["host"])
_add("Hosts", "with a user", _request(host="Host: u@a.test"), ["host"])
_add("Hosts", "with a port", _request(host="Host: a.test:8080"), ["host"])
_add("Hosts", "with an empty port", _request(host="Host: a.test:"), ["host"])
_add("Hosts", "with a port that is none", _request(host="Host: a.test:x"), ["host"])
_add("Hosts", "with a port beyond 65535", _request(host="Host: a.test:99999"), ["host"])
_add("Hosts", "upper case", _request(host="Host: A.TEST"), ["host"])
_add("Hosts", "a dot at the end", _request(host="Host: a.test."), ["host"])
_add("Hosts", "two dots", _request(host="Host: a..test"), ["host"])
_add("Hosts", "an underscore", _request(host="Host: a_b.test"), ["host"])
_add("Hosts", "an address", _request(host="Host: 127.0.0.1"), ["host"])
_add("Hosts", "an IPv6 address", _request(host="Host: [::1]"), ["host"])
_add("Hosts", "half an IPv6 address", _request(host="Host: [::1"), ["host"])
_add("Hosts", "an escape", _request(host="Host: a%2etest"), ["host"])
_add("Hosts", "raw UTF-8", _request(host="Host: \xc3\xa9.test"), ["host"])
_add("Hosts", "a tab before the colon", _request(host="Host\t: a.test"), ["host"])

# ── The request line ─────────────────────────────────────────────────────────────────────────────────────────────────
_add("Request line", "HTTP/1.0", _request(version="HTTP/1.0"))
_add("Request line", "HTTP/0.9", b"GET /\r\n")
_add("Request line", "HTTP/0.9 with its version", _request(version="HTTP/0.9"))
_add("Request line", "HTTP/1.2", _request(version="HTTP/1.2"))
_add("Request line", "HTTP/2.0", _request(version="HTTP/2.0"))
_add("Request line", "HTTP/3.0", _request(version="HTTP/3.0"))
_add("Request line", "HTTP/1.10", _request(version="HTTP/1.10"))
_add("Request line", "lower case", _request(version="http/1.1"))
_add("Request line", "no minor version", _request(version="HTTP/1"))
_add("Request line", "another protocol", _request(version="ICAP/1.0"))
_add("Request line", "two spaces", _request(method="GET "))
_add("Request line", "two spaces before the version", _request("/ "))
_add("Request line", "tabs", b"GET\t/\tHTTP/1.1\r\nHost: a.test\r\n\r\n")
_add("Request line", "a space first", b" GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
_add("Request line", "a space last", _request(version="HTTP/1.1 "))
_add("Request line", "an empty line first", b"\r\n" + _request())
_add("Request line", "three empty lines first", b"\r\n\r\n\r\n" + _request())
_add("Request line", "a bare line feed first", b"\n" + _request())

# ── Methods ──────────────────────────────────────────────────────────────────────────────────────────────────────────
for method in ("HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "PRI", "ANYTHING"):
    _add("Methods", method, _request(method=method))
_add("Methods", "CONNECT", _request("a.test:443", "CONNECT"))
_add("Methods", "CONNECT with a path", _request("/", "CONNECT"))
_add("Methods", "lower case", _request(method="get"))
_add("Methods", "punctuation of a token", _request(method="M-X!"))
_add("Methods", "a parenthesis", _request(method="G(T"))
_add("Methods", "a colon", _request(method="GET:"))
_add("Methods", "100 letters", _request(method="A" * 100))

# ── Lengths and codings ──────────────────────────────────────────────────────────────────────────────────────────────
_HIDDEN = "GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n"


def _framed(what, fields, body, method="POST", version="HTTP/1.1"):
    _add("Lengths and codings", what, _request("/", method, version, fields=fields, body=body),
         ["content-length", "transfer-encoding"])


_framed("a length", "Content-Length: 5", "hello")
_framed("chunks", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")
_framed("length, then chunked", "Content-Length: 5|Transfer-Encoding: chunked", "0\r\n\r\n" + _HIDDEN)
_framed("chunked, then length", "Transfer-Encoding: chunked|Content-Length: 42", "0\r\n\r\n" + _HIDDEN)
_framed("two lengths that differ", "Content-Length: 5|Content-Length: 0", "hello")
_framed("two lengths, equal", "Content-Length: 5|Content-Length: 5", "hello")
_framed("a list of equal lengths", "Content-Length: 5, 5", "hello")
_framed("a list of lengths", "Content-Length: 5, 0", "hello")
_framed("a sign", "Content-Length: +5", "hello")
_framed("a negative length", "Content-Length: -5", "hello")
_framed("a hexadecimal length", "Content-Length: 0x5", "hello")
_framed("a fraction", "Content-Length: 5.0", "hello")
_framed("a space within", "Content-Length: 5 0", "hello")
_framed("zeros first", "Content-Length: 0005", "hello")
_framed("no length", "Content-Length:", "")
_framed("beyond 64 bits", "Content-Length: 18446744073709551621", "hello")
_framed("a space before the colon", "Content-Length : 5", "hello")
_framed("a vertical tab in the length", "Content-Length: \x0b5", "hello")
_framed("an underscore", "Content_Length: 5", "")
_framed("chunked twice", "Transfer-Encoding: chunked|Transfer-Encoding: chunked", "0\r\n\r\n")
_framed("chunked, chunked", "Transfer-Encoding: chunked, chunked", "0\r\n\r\n")
_framed("gzip, chunked", "Transfer-Encoding: gzip, chunked", "0\r\n\r\n")
_framed("chunked, gzip", "Transfer-Encoding: chunked, gzip", "0\r\n\r\n")
_framed("identity", "Transfer-Encoding: identity", "")
_framed("identity with a length", "Transfer-Encoding: identity|Content-Length: 5", "hello")
_framed("an unknown coding", "Transfer-Encoding: xchunked", "0\r\n\r\n")
_framed("upper case", "Transfer-Encoding: CHUNKED", "0\r\n\r\n")
_framed("a comma last", "Transfer-Encoding: chunked,", "0\r\n\r\n")
_framed("quotes", 'Transfer-Encoding: "chunked"', "0\r\n\r\n")
_framed("a parameter", "Transfer-Encoding: chunked;x=y", "0\r\n\r\n")
_framed("a vertical tab in the coding", "Transfer-Encoding: \x0bchunked", "0\r\n\r\n")
_framed("a space before the colon of the coding", "Transfer-Encoding : chunked", "0\r\n\r\n")
_framed("an underscore in the coding", "Transfer_Encoding: chunked", "")
_framed("a folded coding", "Transfer-Encoding:| chunked", "0\r\n\r\n")
_framed("an empty coding", "Transfer-Encoding:", "")
_framed("chunks in HTTP/1.0", "Transfer-Encoding: chunked", "0\r\n\r\n", version="HTTP/1.0")
_framed("GET with content", "Content-Length: 5", "hello", method="GET")
_framed("GET with chunks", "Transfer-Encoding: chunked", "0\r\n\r\n", method="GET")
_framed("HEAD with content", "Content-Length: 5", "hello", method="HEAD")
_framed("content without a length", "", "hello\r\n\r\n")

# ── Chunks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _chunks(what, body):
    _add("Chunks", what, _request("/", "POST", fields="Transfer-Encoding: chunked", body=body))


_chunks("upper-case hex", "A\r\n0123456789\r\n0\r\n\r\n")
_chunks("zeros first", "00005\r\nhello\r\n0\r\n\r\n")
_chunks("0x", "0x5\r\nhello\r\n0\r\n\r\n")
_chunks("a sign", "+5\r\nhello\r\n0\r\n\r\n")
_chunks("a negative size", "-5\r\nhello\r\n0\r\n\r\n")
_chunks("a space before the size", " 5\r\nhello\r\n0\r\n\r\n")
_chunks("a space behind the size", "5 \r\nhello\r\n0\r\n\r\n")
_chunks("an extension", "5;a=b\r\nhello\r\n0\r\n\r\n")
_chunks("an extension in quotes", '5;a="b;c"\r\nhello\r\n0\r\n\r\n')
_chunks("a line feed in an extension", "5;a\nhello\r\n0\r\n\r\n")
_chunks("a carriage return in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n")
_chunks("a long extension", "5;" + "a" * 20000 + "\r\nhello\r\n0\r\n\r\n")
_chunks("bare line feeds", "5\nhello\n0\n\n")
_chunks("a chunk longer than its size", "4\r\nhello\r\n0\r\n\r\n")
_chunks("no size", "\r\nhello\r\n0\r\n\r\n")
_chunks("no hex", "z\r\nhello\r\n0\r\n\r\n")
_chunks("beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n")
_chunks("two zeros", "5\r\nhello\r\n00\r\n\r\n")
_chunks("a trailer", "5\r\nhello\r\n0\r\nX: y\r\n\r\n")
_chunks("a trailer that none may be", "5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n")
_chunks("a trailer without a colon", "5\r\nhello\r\n0\r\nnothing\r\n\r\n")
_chunks("another request behind", "0\r\n\r\n" + _HIDDEN)
_chunks("another request in place of the last line", "0\r\n" + _HIDDEN)

# ── Fields ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _field(what, line, look=("x",)):
    _add("Fields", what, _request(fields=line), look)


_field("an ordinary field", "X: y")
_field("a space before the colon", "X : y")
_field("a space before the name", " X: y")
_field("folded", "X: y| z")
_field("folded with a tab", "X: y|\tz")
_field("no colon", "nothing")
_field("no name", ": y")
_field("a space in the name", "X Y: z")
_field("a parenthesis in the name", "X(: z")
_field("UTF-8 in the name", "X\xc3\xa9: z")
_field("NUL in the name", "X\0: z")
_field("NUL in the value", "X: a\0b")
_field("a control character in the value", "X: a\x01b")
_field("DEL in the value", "X: a\x7fb")
_field("UTF-8 in the value", "X: \xc3\xa9")
_field("a bare carriage return in the value", "X: a\rb")
_field("a bare line feed in the value", "X: a\nY: b", ["x", "y"])
_field("a bare line feed at the end", "X: a\n", ["x"])
_field("an underscore", "X_Y: z", ["x_y", "x-y"])
_field("an underscore beside a hyphen", "X-Y: a|X_Y: b", ["x_y", "x-y"])
_field("a dot", "X.Y: z", ["x.y"])
_field("an empty value", "X:")
_field("only line feeds", "", [])
CASES[-1] = ("Fields", "only line feeds", _request(end="\n"), ())
_field("a name of 300 letters", "X" * 300 + ": y", [])
_field("a value of 10,000 bytes", "X: " + "y" * 10000, [])
_field("150 fields", "|".join(f"X{n}: y" for n in range(150)), [])
_field("40 kilobytes", "|".join(f"X{n}: " + "y" * 4000 for n in range(10)), [])
_field("Connection names Authorization", "Connection: authorization|Authorization: Basic x", ["authorization"])
_field("Connection names Host", "Connection: host", ["host"])
_field("Connection names Content-Length", "Connection: content-length|Content-Length: 0", ["content-length"])
_field("X-Forwarded-For of a stranger", "X-Forwarded-For: 6.6.6.6", ["x-forwarded-for"])
_field("X-Real-IP of a stranger", "X-Real-IP: 6.6.6.6", ["x-real-ip"])
_field("Forwarded of a stranger", "Forwarded: for=6.6.6.6", ["forwarded"])
_field("an upgrade that nobody grants", "Connection: upgrade|Upgrade: h2c", ["upgrade"])
_field("TE", "TE: trailers|Connection: te", ["te"])
_field("Expect something else", "Expect: 200-ok", ["expect"])

# ── Several requests at once ─────────────────────────────────────────────────────────────────────────────────────────
_GOOD = _request("/one")
_add("Pipelining", "two requests", _GOOD + _request("/two"))
_add("Pipelining", "an empty line between", _GOOD + b"\r\n" + _request("/two"))
_add("Pipelining", "garbage behind", _GOOD + b"\0\1\2garbage\r\n\r\n")
_add("Pipelining", "half a request behind", _GOOD + b"GET /two HT")
_add("Pipelining", "content, and one behind", _request("/one", "POST", fields="Content-Length: 5", body="hello") + _request("/two"))
_add("Pipelining", "content of GET, and one behind", _request("/one", fields="Content-Length: 5", body="hello") + _request("/two"))
_add("Pipelining", "an upgrade, and one behind", _request("/one", fields="Connection: upgrade|Upgrade: x") + _request("/two"))
_add("Pipelining", "close, and one behind", _request("/one", fields="Connection: close") + _request("/two"))
_add("Pipelining", "HTTP/1.0, and one behind", _request("/one", version="HTTP/1.0") + _request("/two"))
