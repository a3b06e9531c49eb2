"""Show scikit-learn's handwritten digits to a nearest-neighbours model: writes model.joblib, and sample.json with new ones."""

import json
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

HERE = Path(__file__).parent


def main() -> None:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data.astype(np.float32), digits.target, test_size=0.2, random_state=7, stratify=digits.target
    )
    model = KNeighborsClassifier(5, weights="distance")
    model.fit(train_x, train_y)
    known = {"model": model, "images": train_x.astype(np.uint8), "digits": train_y}
    joblib.dump(known, HERE / "model.joblib", compress=3)

    one_of_each = [int(np.flatnonzero(test_y == digit)[1]) for digit in range(10)]
    samples = [{"digit": int(test_y[n]), "pixels": test_x[n].astype(int).tolist()} for n in one_of_each]
    (HERE / "sample.json").write_text(json.dumps(samples) + "\n")
    print(
        f"trained on {len(train_x)} digits; {model.score(test_x, test_y):.1%} of {len(test_x)} held-out ones right"
    )
    print("sample.json has one held-out digit of each")


if __name__ == "__main__":
    main()
