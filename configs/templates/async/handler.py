"""Answers in pieces while others are served. `cortex predict countdown '{"from": 3}'` prints 3, 2, 1."""

import asyncio


class Handler:
    def __init__(self, config):
        """Called once in each process, before the first request."""
        self.seconds_between = config["seconds_between"]

    async def handle_post(self, payload):
        """Called for each POST; what is yielded is sent at once."""
        for number in range(payload["from"], 0, -1):
            yield f"{number}\n"
            await asyncio.sleep(self.seconds_between)
