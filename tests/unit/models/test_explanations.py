"""S-37: what a person is shown at deploy: path, type, what is accepted, what was found."""

from __future__ import annotations

from textwrap import dedent

from support.listings import listing

from cortex_core.models.drawing import MOST_ENTRIES, drawn
from cortex_core.models.layout import read_models
from cortex_core.models.tree import Layout
from cortex_core.spec.types import Models


def explained(models: Models, keys: list[str], layout: Layout) -> str:
    location = models.path or models.dir or ""
    (problem,) = read_models(models, {location: listing(*keys)}, layout).problems
    return problem.explained()


def text(block: str) -> str:
    return dedent(block).strip("\n")


def test_c46_a_tensorflow_model() -> None:
    assert explained(
        Models(path="s3://bucket/text/"), ["v1/saved_model.pb", "notes.txt"], "tensorflow"
    ) == text(
        """
        s3://bucket/text: 'saved_model.pb' and 'variables/variables.index' are missing

        accepted (type: tensorflow):

          s3://bucket/text/
          ├── saved_model.pb
          └── variables/
              ├── variables.index
              ├── variables.data-00000-of-00003
              ├── variables.data-00001-of-00003
              └── variables.data-00002-of-...

        or

          s3://bucket/text/
          ├── 1523423423/
          │   ├── saved_model.pb
          │   └── variables/
          │       ├── variables.index
          │       ├── variables.data-00000-of-00003
          │       ├── variables.data-00001-of-00003
          │       └── variables.data-00002-of-...
          └── 2434389194/
              ├── saved_model.pb
              └── variables/
                  ├── variables.index
                  ├── variables.data-00000-of-00003
                  ├── variables.data-00001-of-00003
                  └── variables.data-00002-of-...

        found:

          s3://bucket/text/
          ├── notes.txt
          └── v1/
              └── saved_model.pb
        """
    )


def test_c46_a_version_on_inferentia() -> None:
    assert explained(Models(path="/m"), ["3/saved_model.pb", "4/x/y"], "tensorflow-inf") == text(
        """
        /m/4: 'saved_model.pb' is missing

        accepted (type: tensorflow, on Inferentia):

          /m/4/
          └── saved_model.pb

        found:

          /m/4/
          └── x/
              └── y
        """
    )


def test_c46_a_python_model_that_is_not_there() -> None:
    assert explained(Models(path="s3://bucket/text"), [], "python") == text(
        """
        s3://bucket/text: there is no model: the directory is empty or does not exist

        accepted (type: python):

          s3://bucket/text/
          └── (any files and directories)

        or

          s3://bucket/text/
          ├── 1523423423/
          │   └── (any files and directories)
          └── 2434389194/
              └── (any files and directories)

        found:

          nothing
        """
    )


def test_c46_a_directory_of_models() -> None:
    assert explained(Models(dir="s3://bucket/"), ["a.txt", "iris/m"], "python") == text(
        """
        s3://bucket: only directories of models may be here; found also 'a.txt'

        accepted (type: python):

          s3://bucket/
          ├── text-generator/
          │   └── (any files and directories)
          └── sentiment-analyzer/
              ├── 1523423423/
              │   └── (any files and directories)
              └── 2434389194/
                  └── (any files and directories)

        found:

          s3://bucket/
          ├── a.txt
          └── iris/
              └── m
        """
    )


def test_a_tree_shows_its_outer_entries_first_and_counts_the_rest() -> None:
    keys = [f"a/{number:03}" for number in range(60)] + ["b/x", "c"]
    lines = drawn("/m/", keys).splitlines()
    assert lines[0] == "  /m/"
    assert [line for line in lines if line.startswith(("  ├── ", "  └── "))] == [
        "  ├── a/",
        "  ├── b/",
        "  └── c",
    ]
    assert lines[-1] == "  … and 14 more"  # of 64: a, b, c, a's sixty and x
    assert len(lines) == 1 + MOST_ENTRIES + 1


def test_a_tree_of_exactly_the_limit_is_whole() -> None:
    lines = drawn("/m/", [f"{number:03}" for number in range(MOST_ENTRIES)]).splitlines()
    assert lines[-1] == "  └── 049"
    assert len(lines) == 1 + MOST_ENTRIES


def test_whatever_was_found_can_be_printed() -> None:
    keys = [
        "",
        "/",
        "//",
        "../x",
        "\x1b[2J",
        "\udcff",
        "a\nb",
        "deep/" * 5000 + "x",
        "y" * 5000,
        "z",
        "z/z",
        "z/",
    ]
    shown = drawn("/m/", sorted(keys))
    shown.encode()
    assert all(line.isprintable() for line in shown.splitlines())
    assert len(shown.splitlines()) <= MOST_ENTRIES + 2
    assert max(map(len, shown.splitlines())) < 400


def test_names_of_models_are_shown_safely() -> None:
    message = explained(Models(dir="/m"), ["a\u202e/1/m", "a\u202e/x"], "python")
    assert message.startswith(r"/m/a\u202e: only directories")
    assert all(line.isprintable() for line in message.splitlines())
