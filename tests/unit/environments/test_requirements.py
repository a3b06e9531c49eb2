from __future__ import annotations

import pytest

from cortex_operator.backends.requirements import lines, stands_alone


def test_lines() -> None:
    text = "# all\nsix==1.17.0  # why\n\n  numpy\\\n>=1 \\\n  --hash=sha256:00\r\na @ https://host/a#egg=b\n"
    assert lines(text) == ["six==1.17.0", "numpy >=1    --hash=sha256:00", "a @ https://host/a#egg=b"]


@pytest.mark.parametrize(
    "line",
    [
        "six",
        "six==1.17.0",
        "Some.Package_name-2 >= 1, <2",
        "torch==2.0.1+cpu",
        "pkg (>=1)",
        "requests[security,socks]>=2; python_version < '3.12'",
        "six==1.17.0 --hash=sha256:0123",
        "a @ https://host/a-1.0.whl",
        "a[b]@https://host/a.zip ; sys_platform == 'linux'",
        "--index-url https://host/simple",
        "--extra-index-url=https://host/simple",
        "--pre",
        "--no-binary :all:",
    ],
)
def test_what_says_all(line: str) -> None:
    assert stands_alone(line)


@pytest.mark.parametrize(
    "line",
    [
        ".",
        "./package",
        "../package",
        "/package",
        "package/",
        "a/b",
        "a-1.0-py3-none-any.whl",
        "a.tar.gz",
        "a.zip; python_version < '3.12'",
        "a.whl[extra]",
        "-e .",
        "-r more.txt",
        "-rmore.txt",
        "--requirement=more.txt",
        "-c limits.txt",
        "--constraint limits.txt",
        "-f wheels",
        "--find-links wheels",
        "a @ ./a",
        "a @ a.whl",
        "a @ file:a.whl",
        "a @ file:///a",
        "a @ git+https://host/a",
        "six==${VERSION}",
        "--index-url https://${USER}@host/simple",
        "--index-url simple",
        "file:a",
        "https://host/a.whl",
    ],
)
def test_what_depends_on_more(line: str) -> None:
    assert not stands_alone(line)
