"""Train on the patients seen so far and publish the result as the next version in `models`.

The data is scikit-learn's diabetes data: ten measures of 442 patients, and how far the disease had progressed a year
later. 100 patients are held out to test on; of the others, each version knows 60 more than the one before.
"""

import json
import shutil
from pathlib import Path

import joblib
from handler import MEASURES
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
MODELS = HERE / "models"
MORE_EACH_TIME = 60


def main() -> None:
    version = 1 + max((int(path.name) for path in MODELS.glob("[0-9]*")), default=0)
    patients, progression = load_diabetes(return_X_y=True, scaled=False)
    train_x, test_x, train_y, test_y = train_test_split(patients, progression, test_size=100, random_state=7)
    seen = min(version * MORE_EACH_TIME, len(train_x))
    model = RandomForestRegressor(n_estimators=50, min_samples_leaf=5, random_state=version)
    model.fit(train_x[:seen], train_y[:seen])
    error = float(mean_absolute_error(test_y, model.predict(test_x)))

    publish(model, {"patients": seen, "mean_absolute_error": round(error, 1)}, version)
    sample = dict(zip(MEASURES, map(float, test_x[0]), strict=True))
    (HERE / "sample.json").write_text(json.dumps(sample) + "\n")
    print(
        f"models/{version}: learned from {seen} patients; wrong by {error:.0f} on average on 100 held-out ones"
    )


def publish(model: object, facts: dict[str, object], version: int) -> None:
    """Write the files elsewhere, then rename: so the version appears at one moment, and whole."""
    training = HERE / ".training"
    shutil.rmtree(training, ignore_errors=True)
    training.mkdir()
    joblib.dump(model, training / "model.joblib")
    (training / "facts.json").write_text(json.dumps(facts) + "\n")
    MODELS.mkdir(exist_ok=True)
    training.rename(MODELS / str(version))


if __name__ == "__main__":
    main()
