import json
from pathlib import Path

import joblib

MEASURES = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]


class Handler:
    def __init__(self, config, model_client):
        self.client = model_client

    def load_model(self, model_path):
        """Called for each version in `models`, while the version before it goes on answering."""
        folder = Path(model_path)
        return {
            "regression": joblib.load(folder / "model.joblib"),
            "facts": json.loads((folder / "facts.json").read_text()),
        }

    def handle_post(self, payload):
        """Takes ten measures of a patient, gives how far diabetes will have progressed a year later."""
        model = self.client.get_model()
        row = [payload[name] for name in MEASURES]
        progression = float(model["regression"].predict([row])[0])
        return {"progression": round(progression, 1), "learned_from": model["facts"]["patients"]}
