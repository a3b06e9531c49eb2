"""Answers requests. `cortex predict hello '{"name": "Ada"}'` prints {"text": "Hello, Ada!"}."""


class Handler:
    def __init__(self, config):
        """Called once in each process, before the first request: load the model here."""
        self.greeting = config["greeting"]

    def handle_post(self, payload):
        """Called for each POST; a JSON body arrives as Python values, what is returned is sent as JSON."""
        return {"text": f"{self.greeting}, {payload['name']}!"}
