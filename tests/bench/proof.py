"""What both arms of the start must show: a neutral look at an OpenCode server, every 50 ms."""

import asyncio
import json
import time

import aiohttp

PAUSE = 0.05
PATIENCE = 120.0
FIRST_PATIENCE = 0.1
"""Seconds for one look; more after each that was in vain. What OpenCode is asked as soon as it listens it never answers."""


async def until_proven(url: str, password: str, directory: str) -> dict[str, float]:
    """
    Look until the server refuses strangers, is healthy, and answers for *directory*.

    Return the moments, on the monotonic clock, of the first answer and of the last.
    """
    moments: dict[str, float] = {}
    patience = FIRST_PATIENCE
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(url) as session:
        while True:
            try:
                refused = await refuses_strangers(session, seconds=patience)
                moments.setdefault("listens", time.perf_counter())
                if refused and await is_healthy(session, password, directory):
                    moments["proven"] = time.perf_counter()
                    return moments
            except TimeoutError:
                patience *= 1.2
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(PAUSE)


async def refuses_strangers(session: aiohttp.ClientSession, *, seconds: float) -> bool:
    async with session.get("/global/health", timeout=aiohttp.ClientTimeout(total=seconds)) as answer:
        return answer.status == 401


async def is_healthy(session: aiohttp.ClientSession, password: str, directory: str) -> bool:
    """Whether the server says so of itself, and answers for *directory*."""
    credentials = aiohttp.BasicAuth("opencode", password)
    async with session.get("/global/health", auth=credentials) as answer:
        if answer.status != 200 or json.loads(await answer.read()).get("healthy") is not True:
            return False
    async with session.get("/config", auth=credentials, params={"directory": directory}) as answer:
        return answer.status == 200 and answer.content_type == "application/json"
