"""An OpenID provider on loopback, and a Supabase Auth that takes its id tokens, which the npm stand-in does not."""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import servers

CLIENT = "the-chat-application"


class IdentityProvider:
    """Signs in `person`, without asking; its `/auth/v1` and `/rest/v1` are those of a Supabase project.

    Attributes:
        person: The claims of whoever signs in next.
        refusal: What Supabase Auth answers to the next id tokens: status and body; None takes them.
        target: The URL of the project that everything else is passed on to.
    """

    def __init__(self, target: str) -> None:
        self.person: dict[str, Any] = {"sub": "ada", "email": "ada@example.com"}
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.target = target
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._codes: dict[str, dict[str, Any]] = {}
        self._sessions: dict[str, dict[str, Any]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # --- OpenID Connect

    def configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "end_session_endpoint": f"{self.url}/end",
            "response_types_supported": ["code"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def keys(self) -> dict[str, Any]:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]}

    def authorize(self, query: dict[str, str]) -> str:
        """The address that the browser is sent back to, with a code."""
        code = uuid.uuid4().hex
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 3600, "nonce": query.get("nonce")}
        self._codes[code] = {**claims, **self.person}
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str]) -> dict[str, Any]:
        id_token = jwt.encode(self._codes.pop(form["code"]), self._key, "RS256", {"kid": "1"})
        return {"access_token": uuid.uuid4().hex, "token_type": "Bearer", "expires_in": 3600, "id_token": id_token}

    # --- Supabase Auth

    def sign_in(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self.refusal:
            return self.refusal
        assert body["provider"] == "keycloak"
        try:
            claims = jwt.decode(body["id_token"], self._key.public_key(), ["RS256"], audience=CLIENT)
        except jwt.InvalidTokenError:
            return 400, {"code": 400, "error_code": "bad_jwt", "msg": "Bad ID token"}
        user = {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.url}|{claims['sub']}")), "email": claims["email"]}
        return 200, self._session(user)

    def refresh(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        user = self._sessions.pop(body["refresh_token"], None)
        if user is None:
            return 400, {"code": 400, "error_code": "refresh_token_not_found", "msg": "Invalid Refresh Token"}
        return 200, self._session(user)

    def _session(self, user: dict[str, Any]) -> dict[str, Any]:
        refresh_token = uuid.uuid4().hex
        self._sessions[refresh_token] = user
        claims = {"sub": user["id"], "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 3600}
        token = jwt.encode(claims, servers.JWT_SECRET, "HS256")
        return {"access_token": token, "expires_in": 3600, "refresh_token": refresh_token, "user": user}


def handler_of(provider: IdentityProvider) -> type[BaseHTTPRequestHandler]:
    """What answers for the provider over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            if url.path == "/authorize":
                self._send_on(provider.authorize(query))
            elif url.path == "/end":
                self._send_on(query["post_logout_redirect_uri"])
            elif url.path == "/keys":
                self._answer(200, provider.keys())
            else:
                self._answer(200, provider.configuration())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/token":
                form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                self._answer(200, provider.token(form))
            elif self.path == "/auth/v1/token?grant_type=id_token":
                self._answer(*provider.sign_in(json.loads(body)))
            elif self.path == "/auth/v1/token?grant_type=refresh_token":
                self._answer(*provider.refresh(json.loads(body)))
            else:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
                reply = httpx.post(provider.target + self.path, content=body, headers=headers, timeout=60)
                self._answer(reply.status_code, reply.json())

        def _answer(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _send_on(self, address: str) -> None:
            self.send_response(302)
            self.send_header("Location", address)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
