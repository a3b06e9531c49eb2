from collections import Counter

import grpc
import joblib
import numpy as np

SIDE = 8
MOST = 50


class Handler:
    def __init__(self, config, proto_module_pb2):
        self.messages = proto_module_pb2
        known = joblib.load(config["model"])
        self.model, self.images, self.digits = known["model"], known["images"], known["digits"]

    def Classify(self, payload, context):
        return self.guess(payload, context)

    def Similar(self, payload, context):
        row = pixels(payload.image, context)
        count = min(payload.count or 5, MOST)
        distances, indices = self.model.kneighbors([row], n_neighbors=count)
        for distance, index in zip(distances[0], indices[0], strict=True):
            yield self.messages.Neighbour(
                digit=self.digits[index],
                distance=distance,
                image=self.messages.Image(pixels=self.images[index].tobytes()),
            )

    def Tally(self, payload, context):
        digits = Counter(self.guess(image, context).digit for image in payload)
        return self.messages.Counts(by_digit=digits)

    def Converse(self, payload, context):
        for image in payload:
            yield self.guess(image, context)

    def guess(self, image, context):
        probabilities = self.model.predict_proba([pixels(image, context)])[0]
        best = probabilities.argmax()
        return self.messages.Guess(digit=self.model.classes_[best], confidence=probabilities[best])


def pixels(image, context):
    if len(image.pixels) != SIDE * SIDE:
        words = f"an image has {SIDE * SIDE} pixels, this one has {len(image.pixels)}"
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)
    return np.frombuffer(image.pixels, np.uint8).astype(np.float32)
