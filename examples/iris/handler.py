import joblib

SPECIES = ["setosa", "versicolor", "virginica"]
MEASURES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


class Handler:
    def __init__(self, config):
        self.model = joblib.load(config["model"])

    def handle_post(self, payload):
        """Takes the four measures of one flower in centimetres, gives its species."""
        row = [payload[name] for name in MEASURES]
        return {"species": SPECIES[self.model.predict([row])[0]]}
