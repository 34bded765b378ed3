"""What a `bridge` bot can talk to: it says the caller's own words back to him, a second later.

Needs: pip install websockets
"""

import asyncio
import json
import os

from websockets.asyncio.server import serve


async def call(socket):
    queue, delay = [], 50  # messages of 20 ms
    async for message in socket:
        if isinstance(message, bytes):  # 16-bit PCM, as the start message says
            queue.append(message)
            if len(queue) > delay:
                await socket.send(queue.pop(0))
            continue
        event = json.loads(message)
        if event["event"] == "start":
            print("a call from", event["call"]["from"], "at", event["audio"]["sample_rate"], "Hz", flush=True)
        elif event["event"] == "digit" and event["digit"] == "*":
            queue.clear()
            await socket.send(json.dumps({"event": "clear"}))  # what waits to be heard is dropped
        elif event["event"] == "digit" and event["digit"] == "#":
            await socket.send(json.dumps({"event": "variables", "set": {"goodbye": "said"}}))
            await socket.send(json.dumps({"event": "end"}))
        elif event["event"] == "interrupted":
            queue.clear()
            await socket.send(json.dumps({"event": "clear"}))


async def main():
    async with serve(call, "127.0.0.1", int(os.environ.get("PORT", "8765"))) as server:
        print("listening on", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
