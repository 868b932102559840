"""A small real HTTP server that streams as SGLang does, one scripted answer to every request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class ScriptedServer:
    """Answers with `chunks` tokens a chunk; keeps what it was asked and how many answers ran at once."""

    chunks: tuple[int, ...] = (1, 3, 2)
    # Sent instead of the rest of the answer, after the first chunk.
    error_event: dict[str, Any] | None = None
    break_off: bool = False
    status: int = 200
    # Nothing but first chunks is sent while this is not set.
    hold: asyncio.Event | None = None
    # Seconds before every chunk.
    pause_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    base_url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        if self.status != 200:
            return web.Response(status=self.status, text="no room")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._stream(request)
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events = generate_events if request.path == "/generate" else chat_events
        script = events(self.chunks)
        if self.error_event is not None:
            script = [script[0], self.error_event]
        for number, event in enumerate(script):
            if number == 1 and self.break_off:
                return response
            if number and self.hold is not None:
                await self.hold.wait()
            await asyncio.sleep(self.pause_s)
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def generate_events(chunks: tuple[int, ...]) -> list[dict[str, Any]]:
    """As SGLang's /generate sends them with --incremental-streaming-output."""
    events, total = [], 0
    for number, tokens in enumerate(chunks):
        total += tokens
        last = number == len(chunks) - 1
        meta: dict[str, Any] = {
            "completion_tokens": total,
            "finish_reason": {"type": "length"} if last else None,
        }
        if last:
            meta |= {"spec_verify_ct": 4, "spec_num_correct_drafts": 6}
        events.append({"text": "x" * tokens, "output_ids": list(range(tokens)), "meta_info": meta})
    return events


def chat_events(chunks: tuple[int, ...]) -> list[dict[str, Any]]:
    """As /v1/chat/completions sends them: a role first, usage with every text, details and usage last."""
    events: list[dict[str, Any]] = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    total = 0
    for tokens in chunks:
        total += tokens
        choice = {"delta": {"content": "x" * tokens}, "finish_reason": None}
        events.append({"choices": [choice], "usage": {"completion_tokens": total}})
    events.append({"choices": [{"delta": {"content": None}, "finish_reason": "stop"}]})
    details = {"spec_verify_ct": 4, "spec_num_correct_drafts": 6}
    events.append({"choices": [], "usage": None, "sglext": {"spec_tokens_details": details}})
    events.append({"choices": [], "usage": {"completion_tokens": total}})
    return events


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[ScriptedServer]:
    """Serve on a free port."""
    app = web.Application()
    app.router.add_post("/generate", server.answer)
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.base_url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        if server.hold is not None:
            server.hold.set()
        await runner.cleanup()
