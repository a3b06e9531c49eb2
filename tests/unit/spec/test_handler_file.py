"""Handlers that work are never refused for what their source looks like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cortex_core.spec.contracts import CONTRACTS, Contract, with_batching, with_models
from cortex_core.spec.handler_file import LARGEST_FILE, problems
from cortex_serve import signatures


def without_constructor(contract: Contract) -> Contract:
    """The same, for classes that have none."""
    constructor = contract.constructor
    may_take = (*constructor.takes, *constructor.may_take)
    return replace(contract, constructor=replace(constructor, takes=(), may_take=may_take, required=False))


HTTP = without_constructor(CONTRACTS["RealtimeAPI", "python", "http"])
GRPC = without_constructor(CONTRACTS["RealtimeAPI", "python", "grpc"])
BATCHING = with_batching(HTTP)

WORKING = {
    "imported": "from model import Handler\n",
    "imported under that name": "import model as Handler\n",
    "imported with everything": "from model import *\n",
    "imported if possible": "try:\n    from a import Handler\nexcept ImportError:\n    from b import Handler\n",
    "in a branch": "if True:\n    class Handler:\n        def handle_post(self, anything): ...\n",
    "assigned": "class Model: ...\nHandler = Model\n",
    "unpacked": "Handler, other = classes()\n",
    "annotated": "Handler: type = make()\n",
    "by a walrus": "if (Handler := make()) is None: ...\n",
    "global in a function": "def define():\n    global Handler\n    Handler = make()\ndefine()\n",
    "by globals": "globals()['Han' + 'dler'] = make()\n",
    "by the module's __getattr__": "def __getattr__(name): ...\n",
    "inherited": "class Base: ...\nclass Handler(Base): ...\n",
    "metaclass": "class Handler(metaclass=Meta): ...\n",
    "decorated class": "@serves\nclass Handler: ...\n",
    "defined again": "class Handler: ...\nHandler = wrap(Handler)\n",
    "method by assignment": "class Handler:\n    def f(self, x): ...\n    handle_post = f\n",
    "method given later": "class Handler: ...\nHandler.handle_post = answer\n",
    "method by name": "class Handler: ...\nsetattr(Handler, 'handle_' + 'post', answer)\n",
    "method in a branch": "class Handler:\n    if True:\n        def handle_get(self): ...\n",
    "decorated method": "class Handler:\n    @parsed\n    def handle_post(self, anything): ...\n",
    "method defined twice": "class Handler:\n    def handle_get(self, x): ...\n    def handle_get(self): ...\n",
    "variadic": "class Handler:\n    def handle_post(self, *args, **kwargs): ...\n",
    "keyword-only": "class Handler:\n    def handle_post(self, *, headers, payload): ...\n",
    "async": "class Handler:\n    async def handle_post(self, payload): ...\n",
    "other methods": "class Handler:\n    def handle_get(self): ...\n    def load(self, path): ...\n",
    "odd escape": "class Handler:\n    def handle_get(self): return '\\d'\n",
    "latin-1": "# coding: latin-1\nclass Handler:\n    def handle_get(self): return '\xe9'\n",
}


def told(source: str, contract: object = HTTP, rpcs: tuple[str, ...] = ()) -> tuple[str, ...]:
    checked: Any = contract
    return problems(source.encode("latin-1"), "handler.py", class_name="Handler", contract=checked, rpcs=rpcs)


@pytest.mark.parametrize("source", WORKING.values(), ids=WORKING)
def test_what_works_is_not_refused(source: str) -> None:
    assert told(source) == ()


GENERATOR = "    def handle_post(self, payload):\n        yield 1\n"
BATCHING_WORKING = {
    "a list": "class Handler:\n    def handle_post(self, payload): return [1]\n",
    "async": "class Handler:\n    async def handle_post(self, payload): return await all_of(payload)\n",
    "a list of generators": "class Handler:\n    def handle_post(self, payload):\n"
    "        def stream(): yield 1\n        return [stream() for each in payload]\n",
    "a generator expression": "class Handler:\n    def handle_post(self, payload): return list(x for x in payload)\n",
    "a lambda that yields": "class Handler:\n    def handle_post(self): return [(lambda: (yield))()]\n",
    "generators for other verbs": "class Handler:\n    def handle_post(self): return []\n"
    "    def handle_get(self):\n        yield 1\n",
    "inherited": "from base import Base\nclass Handler(Base):\n    def handle_get(self): ...\n",
    "assigned": "class Handler:\n    handle_post = answer\n",
    "imported into the class": "class Handler:\n    from answers import handle_post\n",
    "in a branch": "class Handler:\n    if fast:\n        def handle_post(self): ...\n",
    "given later": "class Handler:\n    def handle_get(self): ...\nHandler.handle_post = answer\n",
    "by name": "class Handler:\n    def handle_get(self): ...\nsetattr(Handler, name, answer)\n",
    "put together": "class Handler:\n    def handle_get(self): ...\nadd(Handler, f'handle_{verb}')\n",
    "decorated class": "@serves\nclass Handler:\n    def handle_get(self): ...\n",
    "decorated generator": f"class Handler:\n    @collected\n{GENERATOR}",
    "generator wrapped in the class": f"class Handler:\n{GENERATOR}    handle_post = collected(handle_post)\n",
    "generator wrapped later": f"class Handler:\n{GENERATOR}Handler.handle_post = collected(Handler.handle_post)\n",
    "generator wrapped by name": f"class Handler:\n{GENERATOR}setattr(Handler, 'handle_post', collected)\n",
    "inherited generator": f"class Base: ...\nclass Handler(Base):\n{GENERATOR}",
}


@pytest.mark.parametrize("source", BATCHING_WORKING.values(), ids=BATCHING_WORKING)
def test_handlers_of_batches_that_work_are_not_refused(source: str) -> None:
    assert told(source, BATCHING) == ()


def test_a_generator_is_fine_without_batching() -> None:
    assert told(f"class Handler:\n{GENERATOR}") == ()


def test_only_a_class_is_needed_for_grpc() -> None:
    assert told("class Handler:\n    def Predict(self, payload): ...\n", GRPC) == ()


RPC_WORKING = {
    "defined": "class Handler:\n    def Predict(self, payload): ...\n",
    "async": "class Handler:\n    async def Predict(self, *, context): ...\n",
    "assigned": "class Handler:\n    Predict = answer\n",
    "inherited": "class Handler(Base): ...\n",
    "given later": "class Handler: ...\nHandler.Predict = answer\n",
    "by name": "class Handler: ...\nsetattr(Handler, 'Pre' + 'dict', answer)\n",
    "listed": "class Handler: ...\nadd(Handler, ['Predict'])\n",
    "in a branch": "class Handler:\n    if fast:\n        def Predict(self): ...\n",
}


@pytest.mark.parametrize("source", RPC_WORKING.values(), ids=RPC_WORKING)
def test_handlers_of_rpcs_that_work_are_not_refused(source: str) -> None:
    assert told(source, GRPC, rpcs=("Predict",)) == ()


@pytest.mark.parametrize(
    ("own", "place", "advice"),
    [
        ("predict", "2:9", "did you mean 'Predict' by 'predict'?"),
        ("Pedict", "2:9", "did you mean 'Predict' by 'Pedict'?"),
        ("handle_post", "1:7", "define `def Predict(self, payload, context)`"),
        ("_predict", "1:7", "define `def Predict(self, payload, context)`"),
    ],
)
def test_an_rpc_without_a_method(own: str, place: str, advice: str) -> None:
    [problem] = told(f"class Handler:\n    def {own}(self, payload): ...\n", GRPC, rpcs=("Predict",))
    missing = "Handler: the method 'Predict' is missing, which the service in the protobuf file declares"
    assert problem.partition("\n")[0] == f"handler.py:{place}: {missing}; {advice}"


def test_all_at_once() -> None:
    source = "class Handler:\n    def __init__(self, confg): ...\n    def handle_post(self, body): ...\n"
    assert [text.split(";")[0] for text in told(source)] == [
        "handler.py:2:24: Handler.__init__: the argument 'confg' is not supported",
        "handler.py:3:27: Handler.handle_post: the argument 'body' is not supported. It may take: self, payload, "
        "query_params, headers",
    ]


EXCERPTS = {
    "what stands there": (
        "class Handler\n",
        "1:14: expected ':'\n   1 | class Handler\n     |              ^",
    ),
    "several characters": (
        "x = f(a for a in b, c)\n",
        "1:7: Generator expression must be parenthesized\n   1 | x = f(a for a in b, c)\n     |       ^^^^^^^^^^^^",
    ),
    "a tab": (
        "if x:\n\ty = = 2\n",
        "2:6: invalid syntax\n   2 |  y = = 2\n     |      ^",
    ),
    "other encodings": (
        "# coding: latin-1\n\xe9 = = 1\n",
        "2:5: invalid syntax\n   2 | \xe9 = = 1\n     |     ^",
    ),
    "lines as Python counts them": (
        "\x0cx = 1\r\ny = 2\rz = = 3\n",
        "3:5: invalid syntax\n   3 | z = = 3\n     |     ^",
    ),
    "the end of a file": (
        "class Handler:\n",
        "1:15: expected an indented block after class definition on line 1\n   1 | class Handler:\n     |               ^",
    ),
    "the class that was meant": (
        "class Other: ...\nclass Handlers: ...\n",
        "2:7: there is no class named 'Handler'; did you mean 'Handler' by 'Handlers'?\n"
        "   2 | class Handlers: ...\n     |       ^^^^^^^^",
    ),
    "the class that is there": (
        "if True:\n    class Model: ...\n",
        "2:11: there is no class named 'Handler'; it defines 'Model'\n   2 |     class Model: ...\n     |           ^^^^^",
    ),
    "a name on the next line": (
        "class \\\n  Handler:\n    def handle_get(self): ...\n    def handle_post(self, *, \\\n      a): ...\n",
        "5:7: Handler.handle_post: the argument 'a' is not supported. It may take: self, payload, query_params, headers; "
        "it is defined as `handle_post(self, *, a)`\n   5 |       a): ...\n     |       ^",
    ),
    "an invalid byte in a comment": (
        "# \xff\n\nclass Model: ...\n",
        "3:7: there is no class named 'Handler'; it defines 'Model'\n   3 | class Model: ...\n     |       ^^^^^",
    ),
    "characters, not bytes": (
        "# coding: latin-1\nclass Handler:\n    def handle_get(self, payload: '\xe9\xe9', a: '\xe9'): ...\n",
        "3:41: Handler.handle_get: the argument 'a' is not supported. It may take: self, payload, query_params, headers; "
        "it is defined as `handle_get(self, payload: '\xe9\xe9', a: '\xe9')`\n"
        "   3 |     def handle_get(self, payload: '\xe9\xe9', a: '\xe9'): ...\n"
        "     |                                         ^",
    ),
}


@pytest.mark.parametrize(("source", "expected"), EXCERPTS.values(), ids=EXCERPTS)
def test_a_problem_is_shown_where_it_is(source: str, expected: str) -> None:
    assert told(source) == (f"handler.py:{expected}",)


def test_a_method_may_be_missing_from_a_class_whose_name_is_on_the_next_line() -> None:
    [problem] = told("class \\\n  Handler: ...\n")
    assert problem.startswith("handler.py:1:1: Handler: at least one of ")
    assert problem.endswith("\n   1 | class \\\n     | ^")


def test_a_part_of_an_f_string_is_shown_in_its_line() -> None:
    [problem] = told("class Handler:\n    x = f'{a b}'\n")
    assert problem.startswith("handler.py:2:")
    assert "\n   2 |     x = f'{a b}'\n     |     " in problem


@pytest.mark.parametrize(
    "source", ["x = " + "-" * 100_000 + "1\n", "x = " + "a." * 100_000 + "b\n", "#" * (LARGEST_FILE + 1)]
)
def test_what_is_too_much_to_parse_is_left_to_the_runtime(source: str) -> None:
    assert told(source) in ((), ("handler.py: there is no class named 'Handler'",))


def test_a_zero_byte_is_a_problem_and_not_an_exception() -> None:
    (text,) = told("class Handler:\0\n")
    assert "null bytes" in text


INIT = "    def __init__(self, config): ...\n"
POST = "    def handle_post(self, payload): ...\n"
AS_THE_RUNTIME_SAYS_IT = {
    "a constructor without config": ("python http", f"    def __init__(self): ...\n{POST}", "2:9"),
    "config misspelt": ("python http", f"    def __init__(self, confg): ...\n{POST}", "2:24"),
    "config in **": ("python http", f"    def __init__(self, **kwargs): ...\n{POST}", "2:9"),
    "no constructor": ("python http", POST, "1:7"),
    "an async constructor": ("python http", f"    async def __init__(self, config): ...\n{POST}", "2:5"),
    "a constructor without self": ("python http", f"    def __init__(config): ...\n{POST}", "2:18"),
    "a constructor without anything": ("python http", f"    def __init__(): ...\n{POST}", "2:9 2:9"),
    "a method without self": ("python http", f"{INIT}    def handle_post(payload): ...\n", "3:21"),
    "a method without anything": ("python http", f"{INIT}    def handle_post(): ...\n", "3:9"),
    "a method with **": ("python http", f"{INIT}    def handle_post(**kwargs): ...\n", "3:9"),
    "an async method": ("python http", f"{INIT}    async def handle_get(headers): ...\n", "3:26"),
    "keyword-only": ("python http", f"{INIT}    def handle_post(*, payload): ...\n", "3:24"),
    "self misspelt": ("python http", f"{INIT}    def handle_post(slef, payload): ...\n", "3:21"),
    "self last": ("python http", f"{INIT}    def handle_post(payload, self): ...\n", "3:21"),
    "batching": (
        "python batching",
        "    def __init__(self): ...\n    def handle_post(payload): ...\n",
        "2:9 3:21",
    ),
    "models": (
        "python models",
        "    def __init__(self, model_client): ...\n    def load_model(model_path): ...\n"
        "    def warm_up(self): ...\n    def handle_post(self): ...\n",
        "2:9 3:20 4:9",
    ),
    "tensorflow": ("tensorflow http", INIT + POST, "2:9"),
    "rpc": (
        "python grpc",
        "    def __init__(self, config): ...\n    def Predict(payload): ...\n",
        "2:9 3:17",
    ),
    "async API": (
        "AsyncAPI",
        "    def __init__(self): ...\n    def handle_async(payload): ...\n",
        "2:9 3:22",
    ),
    "async API without its method": ("AsyncAPI", f"{INIT}    def handle(self, payload): ...\n", "1:7"),
    "batch API": (
        "BatchAPI",
        "    def __init__(self): ...\n    def handle_batch(payload): ...\n    def on_job_complete(): ...\n",
        "2:9 3:22 4:9",
    ),
    "task": ("TaskAPI", "    def __call__(self): ...\n", "2:9"),
    "task without self": ("TaskAPI", "    def __call__(config): ...\n", "2:18"),
    "task without its method": ("TaskAPI", "    def run(self, config): ...\n", "1:7"),
}
CONTRACT_OF: dict[str, Contract] = {
    "python http": CONTRACTS["RealtimeAPI", "python", "http"],
    "python batching": with_batching(CONTRACTS["RealtimeAPI", "python", "http"]),
    "python models": with_models(CONTRACTS["RealtimeAPI", "python", "http"]),
    "python grpc": CONTRACTS["RealtimeAPI", "python", "grpc"],
    "tensorflow http": CONTRACTS["RealtimeAPI", "tensorflow", "http"],
    "AsyncAPI": CONTRACTS["AsyncAPI", "python", None],
    "BatchAPI": CONTRACTS["BatchAPI", "python", None],
    "TaskAPI": CONTRACTS["TaskAPI", "python", None],
}


def by_runtime(source: str, contract: Contract, rpcs: tuple[str, ...] = ()) -> list[str]:
    module: dict[str, Any] = {}
    exec(source, module)
    return signatures.check(module["Handler"], contract, rpcs=rpcs)


@pytest.mark.parametrize(
    ("kind", "methods", "places"), AS_THE_RUNTIME_SAYS_IT.values(), ids=AS_THE_RUNTIME_SAYS_IT
)
def test_what_the_runtime_would_refuse_is_found_before(kind: str, methods: str, places: str) -> None:
    source, rpcs = f"class Handler:\n{methods}", ("Predict",) if "grpc" in kind else ()
    found = [text.partition("\n")[0] for text in told(source, CONTRACT_OF[kind], rpcs)]
    expected = by_runtime(source, CONTRACT_OF[kind], rpcs)
    assert sorted(text.split(": ", 1)[1] for text in found) == sorted(expected)
    assert [text.split(":", 1)[1].split(": ", 1)[0] for text in found] == places.split()


def test_a_method_without_self_is_shown_where_it_is() -> None:
    assert told(f"class Handler:\n{INIT}    def handle_post(payload): ...\n", CONTRACT_OF["python http"]) == (
        "handler.py:3:21: Handler.handle_post: the first argument must be 'self'; "
        "it is defined as `handle_post(payload)`\n"
        "   3 |     def handle_post(payload): ...\n     |                     ^^^^^^^",
    )


def test_a_constructor_without_config_is_shown_where_it_is() -> None:
    assert told(f"class Handler:\n    def __init__(self): ...\n{POST}", CONTRACT_OF["python http"]) == (
        "handler.py:2:9: Handler.__init__: the argument 'config' is missing; it is defined as `__init__(self)`\n"
        "   2 |     def __init__(self): ...\n     |         ^^^^^^^^",
    )


SELF_WORKING = {
    "anything": f"class Handler:\n    def __init__(*args, **kwargs): ...\n{POST}",
    "a default": f"class Handler:\n    def __init__(self, config=None): ...\n{POST}",
    "keyword-only": f"class Handler:\n    def __init__(self, *, config): ...\n{POST}",
    "any arguments": f"class Handler:\n{INIT}    def handle_post(*args): ...\n",
    "config behind more": f"class Handler:\n    def __init__(self, *args, config, **more): ...\n{POST}",
    "a decorated method": f"class Handler:\n{INIT}    @bound\n    def handle_post(payload): ...\n",
    "a decorated constructor": f"class Handler:\n    @configured\n    def __init__(self): ...\n{POST}",
    "wrapped in the class": f"class Handler:\n{INIT}    def handle_post(payload): ...\n"
    "    handle_post = bound(handle_post)\n",
    "wrapped later": f"class Handler:\n{INIT}    def handle_post(payload): ...\n"
    "Handler.handle_post = bound(Handler.handle_post)\n",
    "wrapped by name": f"class Handler:\n{INIT}    def handle_post(payload): ...\n"
    "setattr(Handler, 'handle_post', bound(Handler.handle_post))\n",
    "a constructor of another name": f"class Handler:\n    __init__ = configured\n{POST}",
    "a constructor given later": f"class Handler:\n{POST}Handler.__init__ = configured\n",
    "a constructor wrapped later": f"class Handler:\n    def __init__(self): ...\n{POST}"
    "Handler.__init__ = configured\n",
    "an inherited constructor": f"class Base:\n{INIT}class Handler(Base):\n{POST}",
    "a decorated class": f"@configured\nclass Handler:\n{POST}",
    "a class of a metaclass": "class Handler(metaclass=Meta):\n    def handle_post(payload): ...\n",
    "a class replaced later": f"class Handler:\n{POST}Handler = configured(Handler)\n",
    "other methods": f"class Handler:\n{INIT}{POST}    def load(path): ...\n",
    "other classes": f"class Other:\n    def __init__(): ...\n    def handle_post(x): ...\nclass Handler:\n{INIT}{POST}",
}


@pytest.mark.parametrize("source", SELF_WORKING.values(), ids=SELF_WORKING)
def test_arguments_that_work_are_not_refused(source: str) -> None:
    assert told(source, CONTRACT_OF["python http"]) == ()
