import joblib


class Handler:
    def __init__(self, config):
        self.model = joblib.load(config["model"])
        self.least_probability = config["least_probability"]

    def handle_post(self, payload):
        """Takes a news story (text/plain, or JSON with a "text"), gives its topic."""
        text = payload if isinstance(payload, str) else payload["text"]
        probabilities = self.model.predict_proba([text])[0]
        best = probabilities.argmax()
        sure = probabilities[best] >= self.least_probability
        return {
            "topic": self.model.classes_[best] if sure else None,
            "probability": round(float(probabilities[best]), 3),
        }

    def handle_get(self):
        return {"topics": list(self.model.classes_)}
