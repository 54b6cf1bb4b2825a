"""A signed token and the keys that verify it, made with the openssl command."""

import base64
import hashlib
import json
import subprocess
import time

ISSUER = "https://id.example.com"
AUDIENCE = "orders"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, check=True, capture_output=True).stdout


def make(place):
    """An RS256 access token (RFC 9068) of an hour, as an issuer would give it, and the path of its JWKS in `place`."""
    key, jwks = place / "signing.pem", place / "jwks.json"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key))
    modulus = bytes.fromhex(openssl("rsa", "-in", str(key), "-noout", "-modulus").decode().strip().partition("=")[2])
    kid = hashlib.sha256(modulus).hexdigest()[:16]
    public = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": base64url(modulus), "e": "AQAB"}
    jwks.write_text(json.dumps({"keys": [public]}))
    now = int(time.time())
    claims = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "user-4711", "client_id": "shop", "scope": "orders:read orders:write",
        "iat": now, "exp": now + 3600, "jti": "b7c5a2f0-1c0f-4d36-9a0e-4f5c6b7a8d90",
    }
    parts = [{"alg": "RS256", "kid": kid, "typ": "at+jwt"}, claims]
    signed = ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    signature = openssl("dgst", "-sha256", "-sign", str(key), data=signed.encode())
    return f"{signed}.{base64url(signature)}", str(jwks)
