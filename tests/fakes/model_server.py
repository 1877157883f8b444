"""A language model on loopback that speaks OpenAI's chat protocol, says what a test wants and can be held in mid-sentence."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from fakes.faults import Hold

MODEL = "echo"
PROVIDER = "loopback"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of `/v1/chat/completions`."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    streamed: bool
    authorization: str
    tools: Sequence[str] = ()
    """Names of what it may call. OpenCode's request for a title of the session has none."""

    @property
    def last_text(self) -> str:
        """What the user said last."""
        return _text_of(next(m for m in reversed(self.messages) if m["role"] == "user"))

    @property
    def system(self) -> str:
        """What it was told to be."""
        return "\n".join(_text_of(m) for m in self.messages if m["role"] == "system")

    @property
    def has_tool_result(self) -> bool:
        """Whether it answers what a tool said, and no person."""
        return self.messages[-1]["role"] == "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What a script answers when the model shall call a tool in place of saying something."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a script answers when the model shall refuse the request."""

    status: int


@dataclass(slots=True)
class HeldAnswer(Hold):
    """An answer that stops. Whoever waits for that, and lets it go on, may do so in another thread than the model's."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _models: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        if self._models is None:
            self._go.set()
        else:
            self._models.call_soon_threadsafe(self._go.set)

    async def wait(self) -> None:
        self._models = asyncio.get_running_loop()
        self.loop.call_soon_threadsafe(self.reached.set)
        await self._go.wait()


Script = Callable[[ModelRequest], str | ToolCall | Refusal]


@dataclass(slots=True)
class ModelServer:
    """Answers each request with what `script` makes of it, word by word when it is to be streamed."""

    url: str = ""
    """Base address, with `/v1`."""
    script: Script = field(default=lambda request: f"You said: {request.last_text}")
    requests: list[ModelRequest] = field(default_factory=list)
    _holds: dict[str, HeldAnswer] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Answer everything with *text* from now on."""
        self.script = lambda _: text

    def call_tool(self, question: str, name: str, **arguments: Any) -> None:
        """Answer *question* by calling a tool, and whatever the tool says by `Done.`"""
        before = self.script
        call = ToolCall(name=name, arguments=arguments)

        def script(request: ModelRequest) -> str | ToolCall | Refusal:
            if request.last_text != question or name not in request.tools:
                return before(request)
            return "Done." if request.has_tool_result else call

        self.script = script

    def refuse(self, status: int) -> None:
        """Refuse everything from now on."""
        self.script = lambda _: Refusal(status=status)

    def hold(self, question: str) -> HeldAnswer:
        """
        Stop every streamed answer to *question* after its first word, until they are released.

        Every one, for OpenCode also asks for a title of the session with the same text, before or after
        the session itself asks.
        """
        hold = HeldAnswer()
        self._holds[question] = hold
        return hold

    def configuration(self, api_key: str = "any") -> dict[str, Any]:
        """Return an OpenCode configuration whose only model is this one. The provider's package ships with OpenCode."""
        return {
            "model": f"{PROVIDER}/{MODEL}",
            "small_model": f"{PROVIDER}/{MODEL}",
            "enabled_providers": [PROVIDER],
            "share": "disabled",
            "autoupdate": False,
            "provider": {
                PROVIDER: {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Loopback",
                    "options": {"baseURL": self.url, "apiKey": api_key},
                    "models": {
                        MODEL: {
                            "name": "Echo",
                            "tool_call": True,
                            "limit": {"context": 100_000, "output": 4_096},
                        }
                    },
                }
            },
        }

    async def _list_models(self, request: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": PROVIDER}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked = ModelRequest(
            model=body["model"],
            messages=body["messages"],
            streamed=bool(body.get("stream")),
            authorization=request.headers.get("Authorization", ""),
            tools=[tool["function"]["name"] for tool in body.get("tools") or ()],
        )
        self.requests.append(asked)
        text = self.script(asked)
        if isinstance(text, Refusal):
            error = {"message": "refused by the test", "type": "refused", "code": None}
            return web.json_response({"error": error}, status=text.status)
        if asked.streamed:
            return await self._stream(request, asked, text)
        assert isinstance(text, str), "a tool is called in streamed answers only"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            _envelope("chat.completion", asked.model, [choice]) | {"usage": _usage(text)}
        )

    async def _stream(
        self, request: web.Request, asked: ModelRequest, text: str | ToolCall
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(delta: Mapping[str, Any], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = _envelope("chat.completion.chunk", asked.model, [choice])
            if finish is not None:
                chunk["usage"] = _usage(text if isinstance(text, str) else "")
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        if isinstance(text, ToolCall):
            function = {"name": text.name, "arguments": json.dumps(text.arguments)}
            call = {"index": 0, "id": f"call_{len(self.requests)}", "type": "function", "function": function}
            await send({"role": "assistant", "tool_calls": [call]})
            await send({}, "tool_calls")
            await response.write(b"data: [DONE]\n\n")
            return response
        hold = self._holds.get(asked.last_text)
        first, *rest = text.split(" ") if text else [""]
        await send({"role": "assistant", "content": first})
        if hold is not None:
            await hold.wait()
        for word in rest:
            await send({"content": f" {word}"})
        await send({}, "stop")
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def model_server(port: int = 0) -> AsyncIterator[ModelServer]:
    """Serve on *port* of loopback, on a free one when 0. Answers that are still held when it ends are cut off."""
    server = ModelServer()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/v1/models", server._list_models)
    app.router.add_post("/v1/chat/completions", server._complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def _envelope(kind: str, model: str, choices: Sequence[object]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-loopback",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }


def _text_of(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _usage(text: str) -> dict[str, int]:
    words = len(text.split())
    return {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": 1 + words}
