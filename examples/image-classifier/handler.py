import io

import joblib
import numpy as np
from PIL import Image, UnidentifiedImageError
from starlette.exceptions import HTTPException

WIDTH = HEIGHT = 8
LEVELS = 16  # grey levels of the data the model was trained on


class Handler:
    def __init__(self, config):
        self.model = joblib.load(config["model"])

    def handle_post(self, payload):
        """Takes a picture of one bright digit on dark ground: as the body, or as the form's file "image"."""
        try:
            picture = payload if isinstance(payload, bytes) else payload["image"].file.read()
            image = Image.open(io.BytesIO(picture)).convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
        except (UnidentifiedImageError, TypeError, KeyError, AttributeError):
            raise HTTPException(400, "not a picture: send a PNG or JPEG") from None
        probabilities = self.model.predict_proba(np.asarray(image).reshape(1, -1) / 255 * LEVELS)[0]
        return {"digit": int(probabilities.argmax()), "probability": round(float(probabilities.max()), 3)}
