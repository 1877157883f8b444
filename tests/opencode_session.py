"""Talking to an OpenCode server the way a person's client does."""

import aiohttp


def client_of(base_url: str, password: str) -> aiohttp.ClientSession:
    """Return a client that logs in with every request and fails on every refusal."""
    return aiohttp.ClientSession(
        base_url,
        headers={"Authorization": aiohttp.encode_basic_auth("opencode", password)},
        timeout=aiohttp.ClientTimeout(total=60),
        raise_for_status=True,
    )


async def ask(base_url: str, password: str, directory: str, text: str) -> str:
    """Open a session in *directory*, say *text*, wait for the whole answer and return its words."""
    async with client_of(base_url, password) as server:
        async with server.post("/session", params={"directory": directory}, json={}) as response:
            session = (await response.json())["id"]
        async with server.post(
            f"/session/{session}/message",
            params={"directory": directory},
            json={"parts": [{"type": "text", "text": text}]},
        ) as response:
            message = await response.json()
    error = message["info"].get("error")
    assert error is None, f"OpenCode could not answer: {error}"
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")
