"""A relay between the service and one of its servers, which a test can make slow, or lead somewhere else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BLOCK = 1 << 16


@dataclass(slots=True)
class Relay:
    target: str
    """The base address that connections are led to."""
    port: int = 0
    delay: float = 0.0
    """Seconds before each piece of an answer is passed on."""
    _conversations: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def leading_to(self, target: str) -> AsyncIterator[None]:
        """Lead to *target* for a while. Connections that are open end at both changes."""
        before = self.target
        try:
            self.target = target
            await self.end_conversations()
            yield
        finally:
            self.target = before
            await self.end_conversations()

    async def end_conversations(self) -> None:
        conversations = list(self._conversations)
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            with contextlib.suppress(ConnectionError):
                target = urlsplit(self.target)
                answers, upstream = await asyncio.open_connection(target.hostname, target.port)
                await self._pass_on(reader, writer, answers, upstream)
        finally:
            self._conversations.discard(task)
            for each in (writer, upstream):
                if each is not None:
                    each.transport.abort()

    async def _pass_on(
        self,
        requests: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
    ) -> None:
        """Pass on both ways until one side ends."""

        async def way(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
            with contextlib.suppress(ConnectionError):
                while block := await source.read(BLOCK):
                    if slow and self.delay:
                        await asyncio.sleep(self.delay)
                    sink.write(block)
                    await sink.drain()

        ways = [
            asyncio.create_task(way(requests, upstream, slow=False)),
            asyncio.create_task(way(answers, writer, slow=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


@asynccontextmanager
async def relay_to(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.end_conversations()
        await server.wait_closed()
