"""Talking to an OpenCode server the way a person's client does."""

import aiohttp


def client_of(base_url: str, password: str, *, seconds: float = 180) -> aiohttp.ClientSession:
    """Return a client that logs in with every request and fails on every refusal."""
    return aiohttp.ClientSession(
        base_url,
        headers={"Authorization": aiohttp.encode_basic_auth("opencode", password)},
        timeout=aiohttp.ClientTimeout(total=seconds),
        raise_for_status=True,
    )


async def open_session(base_url: str, password: str, directory: str, **settings: object) -> str:
    """Open a session in *directory* and return its id."""
    async with (
        client_of(base_url, password) as server,
        server.post("/session", params={"directory": directory}, json=settings) as response,
    ):
        return str((await response.json())["id"])


async def archive(base_url: str, password: str, directory: str, session: str) -> None:
    """Put the session away, as a person does with one that they are done with."""
    async with (
        client_of(base_url, password) as server,
        server.patch(
            f"/session/{session}", params={"directory": directory}, json={"time": {"archived": 1}}
        ) as response,
    ):
        await response.read()


async def ask(
    base_url: str,
    password: str,
    directory: str,
    text: str,
    *,
    session: str | None = None,
    seconds: float = 180,
) -> str:
    """Say *text* in *session*, a new one of *directory* when None, wait for the whole answer and return its words."""
    session = session or await open_session(base_url, password, directory)
    async with (
        client_of(base_url, password, seconds=seconds) as server,
        server.post(
            f"/session/{session}/message",
            params={"directory": directory},
            json={"parts": [{"type": "text", "text": text}]},
        ) as response,
    ):
        message = await response.json()
    error = message["info"].get("error")
    assert error is None, f"OpenCode could not answer: {error}"
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")
