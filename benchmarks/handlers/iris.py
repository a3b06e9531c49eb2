"""Predicts one flower by scikit-learn."""

from typing import Any

import joblib

SPECIES = ["setosa", "versicolor", "virginica"]


class Handler:
    def __init__(self, config: dict[str, Any]) -> None:
        self.model = joblib.load(config["model"])

    def handle_post(self, payload: Any) -> Any:
        return {"species": SPECIES[self.model.predict([payload["row"]])[0]]}
