from pathlib import Path

import joblib


class Handler:
    def __init__(self, config, model_client):
        self.client = model_client

    def load_model(self, model_path):
        """Called when a model is asked for that is not among the five in memory."""
        return joblib.load(Path(model_path) / "model.joblib")

    def handle_post(self, payload, query_params):
        """Takes the 64 pixels (0 to 16) of a digit that is one of two, gives which; `?model=3-or-8` names the two."""
        model = self.client.get_model(query_params["model"])
        probabilities = model.predict_proba([payload["pixels"]])[0]
        best = probabilities.argmax()
        return {"digit": int(model.classes_[best]), "probability": round(float(probabilities[best]), 3)}
