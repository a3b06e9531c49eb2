"""Train the iris classifier on scikit-learn's iris data: writes model.joblib and, as sample.json, a flower it has not seen."""

import json
from pathlib import Path

import joblib
from handler import MEASURES, SPECIES
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def main() -> None:
    flowers, species = load_iris(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        flowers, species, test_size=30, random_state=7, stratify=species
    )
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(train_x, train_y)
    joblib.dump(model, HERE / "model.joblib")

    sample = dict(zip(MEASURES, map(float, test_x[0]), strict=True))
    (HERE / "sample.json").write_text(json.dumps(sample) + "\n")
    print(
        f"trained on {len(train_x)} flowers; {model.score(test_x, test_y):.0%} of {len(test_x)} held-out ones right"
    )
    print(f"sample.json is a held-out {SPECIES[test_y[0]]}")


if __name__ == "__main__":
    main()
