"""Train one model for each pair of digits, 45 in all, on scikit-learn's pictures of handwritten digits.

Each is published as the next version of its model: `models/3-or-8/1`, the next time `models/3-or-8/2`.
"""

import itertools
import json
import shutil
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

HERE = Path(__file__).parent
MODELS = HERE / "models"


def main() -> None:
    pictures, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pictures, digits, test_size=300, random_state=7, stratify=digits
    )
    right = tested = 0
    for pair in itertools.combinations(range(10), 2):
        chosen, held_out = np.isin(train_y, pair), np.isin(test_y, pair)
        model = SVC(probability=True, random_state=7).fit(train_x[chosen], train_y[chosen])
        right += int((model.predict(test_x[held_out]) == test_y[held_out]).sum())
        tested += int(held_out.sum())
        publish(model, f"{pair[0]}-or-{pair[1]}")

    three = test_x[test_y == 3][0]
    (HERE / "sample.json").write_text(json.dumps({"pixels": [int(pixel) for pixel in three]}) + "\n")
    print(f"trained 45 models; {right / tested:.1%} of {tested} held-out questions answered right")
    print("sample.json is a held-out 3")


def publish(model: object, name: str) -> None:
    """Write the files elsewhere, then rename: so the version appears at one moment, and whole."""
    versions = MODELS / name
    versions.mkdir(parents=True, exist_ok=True)
    latest = max((int(path.name) for path in versions.iterdir()), default=0)
    training = HERE / ".training"
    shutil.rmtree(training, ignore_errors=True)
    training.mkdir()
    joblib.dump(model, training / "model.joblib")
    training.rename(versions / str(latest + 1))


if __name__ == "__main__":
    main()
