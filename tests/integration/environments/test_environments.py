"""Real environments: uv, a package index, and the runtime of this checkout."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from cortex_core.runtime import S3_REQUIREMENTS
from cortex_core.spec.types import Dependencies
from cortex_operator.backends.environments import UNUSED_AGE, Environment, Environments, runtime_packages
from cortex_operator.backends.protocol import PreparationFailed

T = TypeVar("T")
DEADLINE = 100.0


@dataclass
class Place:
    """A project and the environments made for it."""

    folder: Path
    reports: list[str] = field(default_factory=list)

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def root(self) -> Path:
        return self.folder / "environments"

    def write(self, **files: str) -> None:
        """Files of the project; `_` stands for the dot before the suffix."""
        self.project.mkdir(exist_ok=True)
        for name, text in files.items():
            (self.project / ".".join(name.rsplit("_", 1))).write_text(text)

    async def prepare(
        self,
        dependencies: Dependencies | None = None,
        *,
        env: dict[str, str] | None = None,
        packages: list[Path] | None = None,
        environ: dict[str, str] | None = None,
        uv_binary: Path | None = None,
        deadline: float = DEADLINE,
        release: str = "",
        extras: tuple[str, ...] = (),
    ) -> Environment:
        environments = Environments(
            self.root,
            environ={**os.environ, **(environ or {})},
            packages=packages,
            uv_binary=uv_binary,
            deadline=deadline,
        )
        return await environments.prepare(
            self.project,
            dependencies or Dependencies(),
            self.reports.append,
            release=release,
            env=env,
            extras=extras,
        )

    def built(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path.resolve())
    place.write(handler_py="")
    return place


def run(coroutine: Coroutine[object, object, T]) -> T:
    return asyncio.run(coroutine)


def failure(coroutine: Coroutine[object, object, object]) -> PreparationFailed:
    with pytest.raises(PreparationFailed) as caught:
        asyncio.run(coroutine)
    return caught.value


def python(environment: Environment, code: str) -> str:
    done = subprocess.run(
        [environment.python, "-c", code], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen within a minute"
        time.sleep(0.02)


def wheel(folder: Path, name: str, code: str) -> Path:
    """A wheel with one module and one console script."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"{code}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name}={name}:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.parametrize("files", [{}, {"requirements_txt": "# nothing\n\n"}, {"conda-packages_txt": "\n"}])
def test_without_requirements_it_is_the_operators_interpreter(place: Place, files: dict[str, str]) -> None:
    place.write(**files)
    environment = run(place.prepare())
    assert environment == Environment(python=Path(sys.executable), digest=None, environ={})
    assert not place.root.exists()


def test_what_a_release_needs_beside_the_runtime_is_installed_and_makes_another_environment(
    place: Place,
) -> None:
    place.write(requirements_txt="six==1.17.0\n")
    plain = run(place.prepare())
    with_more = run(place.prepare(extras=("idna==3.10",)))
    assert plain.digest != with_more.digest
    assert python(with_more, "import idna, six, granian; print(idna.__version__)") == "3.10"
    assert run(place.prepare()).digest == plain.digest


def test_without_requirements_the_operators_interpreter_has_what_else_is_needed(place: Place) -> None:
    assert run(place.prepare(extras=S3_REQUIREMENTS)).digest is None


def test_requirements_and_the_runtime_are_installed_together(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0  # pure Python\n")
    environment = run(place.prepare())
    assert environment.digest is not None
    assert place.built() == [environment.digest]
    assert environment.python == place.root / environment.digest / "bin" / "python"
    assert python(environment, "import six; print(six.__version__)") == "1.17.0"
    found = python(
        environment,
        "import cortex_core.release, cortex_serve, granian, sys\n"
        "print(cortex_serve.__file__, sys.version_info[:3])",
    )
    assert found.startswith(str(place.root))
    assert found.endswith(str(sys.version_info[:3]))
    assert environment.environ["VIRTUAL_ENV"] == str(place.root / environment.digest)
    assert environment.environ["PATH"].startswith(str(environment.python.parent) + os.pathsep)
    assert place.reports[0] == "creating a virtual environment"
    assert "installing requirements.txt" in place.reports
    assert any(line.startswith("installing requirements.txt: Resolved ") for line in place.reports)


def test_what_is_installed_can_be_run(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0\n")
    environment = run(place.prepare())
    granian = environment.python.parent / "granian"
    done = subprocess.run([granian, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert "granian" in done.stdout
    assert python(environment, "import sys; print(sys.prefix)") == str(environment.python.parent.parent)


def test_the_second_time_nothing_is_done(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0\n")
    first = run(place.prepare())
    place.reports.clear()
    place.write(handler_py="changed", requirements_txt="six==1.17.0 # the same\n")
    assert run(place.prepare()) == first
    assert place.reports == []


def test_two_builds_at_once_make_one(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0\n")

    async def both() -> list[Environment]:
        return await asyncio.gather(place.prepare(), place.prepare())

    first, second = run(both())
    assert first == second
    assert place.reports.count("creating a virtual environment") == 1
    assert "waiting for another build of the same environment" in place.reports


def test_what_decides_the_digest(place: Place) -> None:
    """Each of these, and nothing else, makes another environment."""
    runtime = place.folder / "cortex_core"
    shutil.copytree(runtime_packages()[0], runtime, ignore=shutil.ignore_patterns("__pycache__"))

    def digest(env: dict[str, str] | None = None) -> str:
        found = run(place.prepare(env=env, packages=[runtime])).digest
        assert found is not None
        return found

    place.write(requirements_txt="six==1.17.0\n")
    seen = [digest()]
    assert digest({"SOMETHING": "else"}) == seen[0]
    place.write(handler_py="changed")
    assert digest() == seen[0]
    place.write(requirements_txt="six==1.16.0\n")
    seen.append(digest())
    (runtime / "errors.py").write_text("# edited")
    seen.append(digest())
    seen.append(digest({"UV_PRERELEASE": "allow"}))
    (place.project / "uv.toml").write_text("offline = false\n")
    seen.append(digest())
    place.write(requirements_txt="six==1.16.0\n-r more.txt\n", more_txt="# none\n")
    seen.append(digest())
    place.write(more_txt="# none at all\n")
    seen.append(digest())
    assert len(set(seen)) == len(seen)


def test_a_local_wheel(place: Place) -> None:
    wheel(place.project, "mywheel", "def main(): print('one')")
    place.write(requirements_txt="./mywheel-1.0-py3-none-any.whl\n")
    first = run(place.prepare())
    done = subprocess.run(
        [first.python.parent / "mywheel"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "one\n"
    wheel(place.project, "mywheel", "def main(): print('two')")
    second = run(place.prepare())
    assert second.digest != first.digest
    assert python(second, "import mywheel; mywheel.main()") == "two"
    assert python(first, "import mywheel; mywheel.main()") == "one"


def test_a_requirements_file_that_includes_others(place: Place) -> None:
    (place.project / "needs").mkdir()
    (place.project / "needs" / "all.txt").write_text("-r more.txt\n-c limits.txt\n")
    (place.project / "needs" / "more.txt").write_text("six\n")
    (place.project / "needs" / "limits.txt").write_text("six==1.16.0\n")
    environment = run(place.prepare(Dependencies(pip="needs/all.txt")))
    assert python(environment, "import six; print(six.__version__)") == "1.16.0"


def test_variables_of_dotenv_reach_requirements_and_the_replica(place: Place) -> None:
    place.write(requirements_txt="six @ ${WHEELS}/mysix.zip\n")
    (place.project / ".env").write_text('WHEELS="file://$PWD"\nTOKEN="$STAGE-token"\n')
    done = failure(place.prepare(env={"STAGE": "test"}))
    assert f"{place.project}/mysix.zip" in "\n".join(done.output)
    (place.project / "requirements.txt").unlink()
    environment = run(place.prepare(env={"STAGE": "test"}))
    assert environment.environ == {"WHEELS": f"file://{place.project}", "TOKEN": "test-token"}


def test_a_failing_dotenv_is_explained(place: Place) -> None:
    (place.project / ".env").write_text("no-such-command")
    assert failure(place.prepare()).message.startswith(".env failed with status 127:")


def test_the_shell_script_runs_first_in_the_environment(place: Place) -> None:
    place.write(
        dependencies_sh='test "$TOKEN" = 7\npwd > "$OUT"\ncommand -v python pip >> "$OUT"\n'
        'echo "$VIRTUAL_ENV" >> "$OUT"\npip install --quiet six==1.16.0\necho half way\n',
        requirements_txt="six==1.17.0\n",
    )
    out = place.folder / "out"
    environment = run(place.prepare(env={"TOKEN": "7", "OUT": str(out)}))
    folder = environment.python.parent.parent
    expected = [place.project, folder / "bin" / "python", folder / "bin" / "pip", folder]
    assert out.read_text().splitlines() == [str(path) for path in expected]
    assert python(environment, "import six; print(six.__version__)") == "1.17.0"
    assert place.reports.index("running dependencies.sh") < place.reports.index("installing requirements.txt")
    assert "running dependencies.sh: half way" in place.reports


def test_a_shell_script_alone(place: Place) -> None:
    place.write(dependencies_sh="true\n")
    environment = run(place.prepare())
    assert python(environment, "import cortex_core, granian; print('runs')") == "runs"


def test_a_failing_shell_script_is_explained_and_leaves_nothing(place: Place) -> None:
    place.write(dependencies_sh="seq 100\nfalse\necho never\n")
    error = failure(place.prepare())
    assert error.message == "dependencies.sh failed"
    assert error.output == tuple(str(number) for number in range(61, 101))
    assert place.built() == []


def test_a_failing_requirement_is_explained_and_leaves_nothing(place: Place) -> None:
    place.write(needs_txt="six==99.0\n")
    error = failure(place.prepare(Dependencies(pip="needs.txt")))
    assert error.message == "needs.txt could not be installed"
    assert "six==99.0" in "\n".join(error.output)
    assert place.built() == []


def test_a_requirements_file_that_cannot_be_parsed_is_explained(place: Place) -> None:
    place.write(requirements_txt="six===\n$(touch evil)\n")
    error = failure(place.prepare())
    assert error.message == "requirements.txt could not be installed"
    assert error.output != ()
    assert not (place.project / "evil").exists()


def test_a_requirement_that_conflicts_with_the_runtime_is_explained(place: Place) -> None:
    place.write(requirements_txt="granian==1.0.0\n")
    error = failure(place.prepare())
    assert error.message == "requirements.txt could not be installed"
    assert "granian==1.0.0" in "\n".join(error.output)
    assert "granian>=2.8.9,<2.9" in "\n".join(error.output)


def test_conda_packages_are_refused(place: Place) -> None:
    (place.project / "conda-packages.txt").write_text("conda-forge::numpy\n")
    assert failure(place.prepare()).message == (
        "conda-packages.txt: conda packages cannot be installed on this machine; name what PyPI has in "
        "requirements.txt, install the rest in dependencies.sh, and remove conda-packages.txt"
    )


@pytest.mark.parametrize("name", ["../needs.txt", "/etc/passwd", "a/../../needs.txt"])
def test_files_outside_the_project_are_refused(place: Place, name: str) -> None:
    (place.folder / "needs.txt").write_text("six\n")
    assert failure(place.prepare(Dependencies(pip=name))).message == f"{name}: leads out of the project"


def test_names_are_never_options_or_shell(place: Place) -> None:
    (place.project / "--help").write_text("six==1.17.0\n")
    (place.project / "$(touch evil).sh").write_text("echo ran\n")
    environment = run(place.prepare(Dependencies(pip="--help", shell="$(touch evil).sh")))
    assert python(environment, "import six; print(six.__version__)") == "1.17.0"
    assert "running $(touch evil).sh: ran" in place.reports
    assert not (place.project / "evil").exists()


def test_a_build_that_takes_too_long_is_ended_with_all_it_started(place: Place) -> None:
    place.write(dependencies_sh='sleep 600 &\necho $! > "$OUT"\nwait\n')
    out = place.folder / "pid"
    at_once = Path("/bin/true")  # in place of uv: only the script takes time
    error = failure(place.prepare(env={"OUT": str(out)}, uv_binary=at_once, deadline=3))
    assert error.message == "dependencies.sh failed: it took too long and was ended"
    wait_for(lambda: is_gone(int(out.read_text())))
    assert place.built() == []


def test_a_cancelled_build_is_ended_with_all_it_started(place: Place) -> None:
    place.write(dependencies_sh='sleep 600 &\necho $! > "$OUT.new" && mv "$OUT.new" "$OUT"\nwait\n')
    out = place.folder / "pid"

    async def cancelled() -> None:
        build = asyncio.create_task(place.prepare(env={"OUT": str(out)}))
        while not out.exists() and not build.done():
            await asyncio.sleep(0.02)
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(build, 30)

    run(asyncio.wait_for(cancelled(), 90))
    wait_for(lambda: is_gone(int(out.read_text())))
    assert place.built() == []


def test_what_a_script_leaves_running_does_not_hold_up_the_build(place: Place) -> None:
    place.write(dependencies_sh='setsid sleep 600 &\necho $! > "$OUT"\n')
    out = place.folder / "pid"
    run(place.prepare(env={"OUT": str(out)}))
    wait_for(lambda: is_gone(int(out.read_text())))


KILLED = """
import asyncio, os, sys
from pathlib import Path
from cortex_core.spec.types import Dependencies
from cortex_operator.backends.environments import Environments

environments = Environments(Path(sys.argv[2]), environ=os.environ)
asyncio.run(environments.prepare(Path(sys.argv[1]), Dependencies(), print))
"""


def test_a_killed_build_leaves_nothing_that_counts(place: Place) -> None:
    """The operator is killed while the script runs; the script lives on, and nobody builds beside it."""
    place.write(
        dependencies_sh="""
            if [ -e "$OUT" ]; then exit; fi
            echo $$ > "$OUT.new" && mv "$OUT.new" "$OUT"
            sleep 600
        """
    )
    out = place.folder / "pid"
    environ = {"OUT": str(out)}
    first = subprocess.Popen(
        [sys.executable, "-c", KILLED, place.project, place.root],
        env=os.environ | environ,
        stdout=subprocess.DEVNULL,
    )
    wait_for(out.exists)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    assert len(place.built()) == 1
    script = int(out.read_text())

    waiting = failure(place.prepare(environ=environ, deadline=0.5))
    assert waiting.message == "another build of the same environment did not end within 0.5 s"
    assert not is_gone(script)

    run(Environments(place.root, environ=os.environ).sweep())
    assert is_gone(script)
    assert place.built() == []
    environment = run(place.prepare(environ=environ))
    assert python(environment, "print('runs')") == "runs"


def test_leftovers_are_swept_and_environments_are_kept(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0\n")
    environment = run(place.prepare())
    (place.root / "leftover" / "bin").mkdir(parents=True)
    run(Environments(place.root, environ=os.environ).sweep())
    assert place.built() == [environment.digest]
    run(Environments(place.folder / "nowhere", environ=os.environ).sweep())


def test_unused_environments_are_removed_with_their_locks(place: Place) -> None:
    place.write(dependencies_sh="true\n")
    environment = run(place.prepare(release="live"))
    folder = environment.python.parent.parent
    environments = Environments(place.root, environ=os.environ)

    def built_after(*, in_use: Collection[str] = (), kept: Collection[str] = ()) -> list[str]:
        run(environments.remove_unused(in_use=in_use, kept=kept))
        return place.built()

    assert built_after() == [environment.digest]  # prepared just now
    long_ago = time.time() - UNUSED_AGE - 60
    os.utime(folder / ".complete", (long_ago, long_ago))
    assert built_after(in_use=[folder.name]) == [environment.digest]
    assert built_after(kept=["live"]) == [environment.digest]
    run(place.prepare(release="other"))
    assert built_after() == [environment.digest]  # wanted again
    os.utime(folder / ".complete", (long_ago, long_ago))
    assert built_after(kept=["a third"]) == []
    assert list(place.root.iterdir()) == []
    assert run(place.prepare()) == environment


def test_an_environment_is_not_removed_while_somebody_prepares_it(place: Place) -> None:
    place.write(dependencies_sh="true\n")
    environment = run(place.prepare())
    folder = environment.python.parent.parent
    long_ago = time.time() - UNUSED_AGE - 60
    os.utime(folder / ".complete", (long_ago, long_ago))
    with (place.root / f"{folder.name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(Environments(place.root, environ=os.environ).remove_unused(in_use=[], kept=[]))
    assert place.built() == [environment.digest]


def test_what_was_printed_while_building_is_kept(place: Place) -> None:
    place.write(dependencies_sh="echo fetched the weights\necho and more >&2\n")
    environment = run(place.prepare())
    log = environment.python.parent.parent / "build.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "./dependencies.sh\nfetched the weights\nand more\n" in log.read_text()
    assert "running dependencies.sh: and more" in place.reports
    assert str(log) in place.reports[-1]


def test_an_environment_whose_interpreter_is_gone_is_built_again(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0\n")
    environment = run(place.prepare())
    environment.python.unlink()
    environment.python.symlink_to("/nowhere/python")
    assert run(place.prepare()) == environment
    assert python(environment, "print('runs')") == "runs"


def test_everything_is_private(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0\n")
    run(place.prepare())
    assert place.root.stat().st_mode & 0o777 == 0o700


def test_a_root_that_cannot_be_written_is_explained(place: Place) -> None:
    place.write(requirements_txt="six==1.17.0\n")
    place.root.write_text("a file")
    assert failure(place.prepare()).message.startswith("the handler's environment could not be made: ")


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
