"""Train a classifier on scikit-learn's handwritten digits: writes model.joblib and sample.png, a digit it has not seen."""

from pathlib import Path

import joblib
import numpy as np
from handler import LEVELS
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

HERE = Path(__file__).parent


def main() -> None:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data, digits.target, test_size=0.2, random_state=7, stratify=digits.target
    )
    model = SVC(gamma=0.001, probability=True, random_state=7)
    model.fit(train_x, train_y)
    joblib.dump(model, HERE / "model.joblib", compress=3)

    pixels = (test_x[0].reshape(8, 8) / LEVELS * 255).astype(np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(HERE / "sample.png")
    print(
        f"trained on {len(train_x)} digits; {model.score(test_x, test_y):.1%} of {len(test_x)} held-out ones right"
    )
    print(f"sample.png is a held-out {test_y[0]}")


if __name__ == "__main__":
    main()
