"""Ask the API about the digits in sample.json: python client.py [GATEWAY], by default 127.0.0.1:8888."""

import json
import sys
from pathlib import Path

import grpc

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # where digits.proto is found
messages, services = grpc.protos_and_services("digits.proto")


def main(gateway: str = "127.0.0.1:8888") -> None:
    samples = json.loads((HERE / "sample.json").read_text())
    images = [messages.Image(pixels=bytes(sample["pixels"])) for sample in samples]
    with grpc.insecure_channel(gateway) as channel:
        digits = services.DigitsStub(channel)

        guess, call = digits.Classify.with_call(images[3], timeout=10)
        print(f"a three is a {guess.digit}, with a confidence of {guess.confidence:.2f}")
        print("request id:", dict(call.trailing_metadata())["x-request-id"])

        similar = digits.Similar(messages.Question(image=images[3], count=3))
        print("looks like:", *(neighbour.digit for neighbour in similar))

        counts = digits.Tally(iter(images * 2)).by_digit
        print("tally:", {digit: counts[digit] for digit in sorted(counts)})

        print("as they come:", *(guess.digit for guess in digits.Converse(iter(images))))

        try:
            digits.Classify(messages.Image(pixels=b"123"))
        except grpc.RpcError as error:
            print(f"refused: {error.code().name}: {error.details()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
