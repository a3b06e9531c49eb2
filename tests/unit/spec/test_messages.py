"""Wrong files and what is said about them, word for word.

A row is an id of docs/rules.md, the file, and the first lines of the problems. A new rule brings its row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import NamedTuple

import pytest
from support.listings import entry

from cortex_core.errors import CortexError, StorageRefused
from cortex_core.spec.load import InvalidConfig, Listing, ListLocations, load
from cortex_core.spec.types import Api


class Row(NamedTuple):
    id: str
    text: str
    expected: list[str]


def heads(text: str, **options: object) -> list[str]:
    """The first line of every problem, without the file's name."""
    try:
        load(text, **options)  # type: ignore[arg-type]  # rows give any of the options
    except InvalidConfig as error:
        return [
            f"{problem.line}:{problem.column}: {problem.path}{': ' if problem.path else ''}{problem.message}"
            for problem in error.problems
        ]
    return []


def realtime(handler: str = "", rest: str = "") -> str:
    """A RealtimeAPI on python; what is added begins on line 4 (handler) or after it."""
    return (
        f"- name: iris\n  kind: RealtimeAPI\n  handler: {{type: python, path: handler.py{handler}}}\n{rest}"
    )


def tensorflow(models: str, handler: str = "", rest: str = "") -> str:
    return realtime(handler, rest).replace(
        "{type: python, path: handler.py", f"{{type: tensorflow, path: handler.py, models: {{{models}}}"
    )


def of_kind(kind: str, handler: str = "", rest: str = "") -> str:
    return realtime(handler, rest).replace("RealtimeAPI", kind)


def splitter(*targets: str) -> str:
    return "- name: split\n  kind: TrafficSplitter\n  apis:\n" + "".join(
        f"    - {{{target}}}\n" for target in targets
    )


NAME_RULE = (
    "must consist of lower-case letters, digits and dashes, start with a letter and not end with a dash"
)
LIST_RULE = "the file must contain a list of maps, one for each API ('- name: …')"
LOCATION_RULE = "must be an S3 path such as 's3://my-bucket/models/' or a local directory such as './models/'"
OPTIONAL = "give a value, or remove the key to get the default"
QUANTITY_RULE = "must be a quantity such as '0.5', '200m', '500Mi' or '2G'"
DURATION_RULE = "must be a duration such as '10s', '1m30s' or '200ms'"

FILE = [
    Row("F-01 map", "name: iris\n", [f"1:1: {LIST_RULE}; got a map"]),
    Row("F-01 string", "iris\n", [f"1:1: {LIST_RULE}; got 'iris'"]),
    Row(
        "F-01 strings",
        "- iris\n- 3\n",
        [f"1:3: [1]: {LIST_RULE}; got 'iris'", f"2:3: [2]: {LIST_RULE}; got 3"],
    ),
    Row("F-01 null entry", "-\n", [f"1:1: [1]: {LIST_RULE}; got null"]),
    Row("F-02 empty", "", ["1:1: at least one API must be configured"]),
    Row("F-02 comment", "# nothing\n", ["1:1: at least one API must be configured"]),
    Row("F-02 empty list", "[]\n", ["1:1: at least one API must be configured"]),
    Row(
        "F-03 colon", "- name: a: b\n", ["1:10: invalid YAML: mapping values are not allowed in this context"]
    ),
    Row("F-03 tab", "- name: iris\n\tkind: x\n", ["2:1: invalid YAML: a tab cannot indent; use spaces"]),
    Row(
        "F-03 quote", "- name: 'iris\n  kind: RealtimeAPI\n", ["1:9: invalid YAML: this quote is not closed"]
    ),
    Row("F-03 double quote", '- name: "iris\n', ["1:9: invalid YAML: this quote is not closed"]),
    Row(
        "F-03 indentation",
        "- name: iris\n  compute:\n    cpu: 1\n   mem: 1Gi\n",
        ["4:4: invalid YAML: a key is expected here; check indentation and quotes"],
    ),
    Row(
        "F-03 entry",
        "- name: iris\n kind: RealtimeAPI\n",
        ["2:2: invalid YAML: an entry ('- …') is expected here; check the indentation"],
    ),
    Row("F-03 alias", "- *iris\n", ["1:3: invalid YAML: the alias '*iris' has no anchor before it"]),
    Row("F-03 cycle", "- &a [*a]\n", ["1:7: invalid YAML: the alias '*a' is inside what it stands for"]),
    Row(
        "F-03 control",
        "- name: \x01\n",
        ["1:9: invalid YAML: the character '\\x01' is not allowed; remove it"],
    ),
    Row(
        "Y-01 documents",
        "- a\n---\n- b\n",
        ["2:1: several documents in one file; remove the '---' between them"],
    ),
    Row("Y-02 large", "#" * (1024 * 1024 + 1), ["1:1: larger than 1 MiB"]),
    Row("Y-02 deep", "[" * 100, ["1:41: nested deeper than 40 levels"]),
    Row(
        "Y-02 alias bomb",
        "- &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"- &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdef")),
        ["5:3: more than 50000 values, counting what aliases stand for"],
    ),
    Row(
        "Y-02 merge bomb",
        "- &m {" + ", ".join(f"k{n}: 1" for n in range(500)) + "}\n" + "- <<: *m\n" * 300,
        ["100:3: more than 50000 values, counting what aliases stand for"],
    ),
    Row(
        "Y-02 merged again and again",
        "- &m {" + ", ".join(f"k{n}: 1" for n in range(500)) + "}\n- {" + "<<: *m, " * 100 + "}\n",
        ["2:3: more than 50000 values, counting what aliases stand for"],
    ),
    Row("Y-02 many APIs", "- {}\n" * 1001, ["1:1: must be at most 1000 APIs, got 1001"]),
    Row(
        "Y-02 long values",
        realtime(
            f", image: {'a' * 2000}, python_path: ./{'/' * 100_000}x", f"  compute: {{cpu: '{'1' * 1000}'}}\n"
        ),
        [
            f"3:52: iris.handler.image: must be an image such as 'registry.example.com/team/iris:1.4', got '{'a' * 58}…",
            "3:2067: iris.handler.python_path: must be a folder inside the project, relative to the API file "
            f"(leave it out for the project's root), got './{'/' * 56}…",
            f"4:18: iris.compute.cpu: {QUANTITY_RULE}, got '{'1' * 58}…",
        ],
    ),
    Row(
        "Y-03",
        realtime() + "  kind: AsyncAPI\n",
        ["4:3: iris.kind: the key 'kind' is given twice, on lines 2 and 4; keep one"],
    ),
    Row(
        "Y-04 python",
        realtime(", config: {a: !!python/object/apply:os.system [x]}"),
        [
            "3:57: iris.handler.config.a: the tag '!!python/object/apply:os.system' is not supported; "
            "write the value plainly"
        ],
    ),
    Row(
        "Y-04 own",
        realtime(", config: {a: !secret x}"),
        ["3:57: iris.handler.config.a: the tag '!secret' is not supported; write the value plainly"],
    ),
    Row(
        "Y-05 norway",
        realtime(", config: {country: NO}"),
        ["3:63: iris.handler.config.country: NO can be read as a boolean or as text; write false or 'NO'"],
    ),
    Row(
        "Y-05 octal",
        realtime(", config: {mode: 0755}"),
        [
            "3:60: iris.handler.config.mode: 0755 can be read as octal, decimal or text; "
            "write it without the leading zero or in quotes"
        ],
    ),
    Row(
        "Y-05 grouped",
        realtime(", config: {n: 1_000}"),
        ["3:57: iris.handler.config.n: 1_000 can be read as a number or as text; write 1000 or '1_000'"],
    ),
    Row(
        "Y-06 infinity",
        realtime(", config: {n: .inf}"),
        ["3:57: iris.handler.config.n: '.inf' is not a finite number; write it in quotes if text is meant"],
    ),
    Row(
        "Y-06 64 bits",
        realtime(", config: {n: 9223372036854775808}"),
        [
            "3:57: iris.handler.config.n: the number does not fit in 64 bits; write it in quotes if text is meant"
        ],
    ),
    Row(
        "Y-07 number",
        realtime(", config: {a: {3: x}}"),
        ['3:58: iris.handler.config.a: a key must be a string; write it in quotes: "3"'],
    ),
    Row("Y-07 list", "- ? [a]\n  : b\n", ["1:5: a key must be a string, not a list or a map"]),
    Row(
        "Y-08",
        realtime(rest="  <<: 3\n"),
        ["4:3: iris: '<<' merges maps; give it an alias of a map, such as *defaults"],
    ),
    Row(
        "F-04 suggestion",
        "- name: iris\n  kind: RealtimeAPI\n  handler:\n    type: python\n    path: handler.py\n"
        "    proceses_per_replica: 2\n",
        ["6:5: iris.handler.proceses_per_replica: unknown key; did you mean 'processes_per_replica'?"],
    ),
    Row(
        "F-04 dash",
        realtime(rest="  update-strategy: {max_surge: 1}\n"),
        ["4:3: iris.update-strategy: unknown key; did you mean 'update_strategy'?"],
    ),
    Row(
        "F-04 other section",
        realtime(rest="  min_replicas: 3\n"),
        ["4:3: iris.min_replicas: unknown key; it belongs in 'autoscaling'"],
    ),
    Row(
        "F-04 longer word",
        realtime(rest="  compute: {memory: 1Gi}\n"),
        ["4:13: iris.compute.memory: unknown key; did you mean 'mem'?"],
    ),
    Row(
        "F-04 shorter word",
        realtime(", proc: 2"),
        ["3:45: iris.handler.proc: unknown key; did you mean 'processes_per_replica'?"],
    ),
    Row(
        "F-04 several words",
        realtime(rest="  autoscaling: {max: 2}\n"),
        [
            "4:17: iris.autoscaling.max: unknown key; valid here: min_replicas, max_replicas, init_replicas, "
            "max_replica_concurrency, target_replica_concurrency, window, downscale_stabilization_period, "
            "upscale_stabilization_period, max_downscale_factor, max_upscale_factor, downscale_tolerance, "
            "upscale_tolerance"
        ],
    ),
    Row(
        "F-04 no idea",
        realtime(rest="  networking: {tls: true}\n"),
        ["4:16: iris.networking.tls: unknown key; valid here: endpoint"],
    ),
    Row(
        "F-04 former name",
        realtime().replace("handler:", "predictor:"),
        [
            "1:3: iris: missing key 'handler' (required for kind RealtimeAPI)",
            "3:3: iris.predictor: unknown key; did you mean 'handler'?",
        ],
    ),
    Row(
        "F-04 only what this kind has",
        realtime(rest="  monitoring: {}\n"),
        [
            "4:3: iris.monitoring: unknown key; valid here: name, kind, handler, networking, compute, "
            "autoscaling, update_strategy"
        ],
    ),
    Row(
        "F-04 deep",
        realtime(", dependencies: {pi: x.txt}"),
        ["3:60: iris.handler.dependencies.pi: unknown key; did you mean 'pip'?"],
    ),
    Row(
        "F-04 splitter target",
        splitter("name: iris, weigth: 100"),
        [
            "4:7: split.apis[1]: missing key 'weight'",
            "4:20: split.apis[1].weigth: unknown key; did you mean 'weight'?",
        ],
    ),
    Row(
        "F-05 ordinal",
        "- kind: BatchAPI\n  handler: {type: python, path: a.py}\n",
        ["1:3: [1]: missing key 'name'"],
    ),
    Row("F-05 name", "- name: iris\n", ["1:3: iris: missing key 'kind'"]),
    Row(
        "F-07",
        "- name: iris\n  kind: SyncAPI\n  anything: 1\n",
        [
            "2:9: iris.kind: must be one of RealtimeAPI, AsyncAPI, BatchAPI, TaskAPI, TrafficSplitter; "
            "got 'SyncAPI'; did you mean 'AsyncAPI'?",
            "3:3: iris.anything: unknown key; valid here: name, kind, handler, definition, apis, networking, "
            "compute, autoscaling, update_strategy",
        ],
    ),
    Row(
        "F-09",
        realtime() + realtime(),
        ["4:9: iris.name: the name 'iris' is used twice in this file; names must be unique"],
    ),
    Row(
        "F-10",
        realtime(rest="  networking: {endpoint: /same}\n")
        + realtime(rest="  networking: {endpoint: same/}\n").replace("iris", "rose"),
        ["8:26: rose.networking.endpoint: the endpoint '/same' is used by both 'iris' and 'rose'"],
    ),
    Row(
        "F-10 default",
        realtime() + realtime(rest="  networking: {endpoint: iris}\n").replace("name: iris", "name: rose"),
        ["7:26: rose.networking.endpoint: the endpoint '/iris' is used by both 'iris' and 'rose'"],
    ),
]

VALUES = [
    Row(
        "V-01 integer in quotes",
        realtime(', processes_per_replica: "3"'),
        ["3:68: iris.handler.processes_per_replica: must be an integer, got '3'; remove the quotes"],
    ),
    Row(
        "V-01 float for integer",
        realtime(", processes_per_replica: 3.0"),
        ["3:68: iris.handler.processes_per_replica: must be an integer, got 3.0"],
    ),
    Row(
        "V-01 boolean for integer",
        realtime(", processes_per_replica: true"),
        ["3:68: iris.handler.processes_per_replica: must be an integer, got true"],
    ),
    Row(
        "V-01 integer for string",
        realtime().replace("handler.py", "3"),
        ["3:33: iris.handler.path: must be a string, got 3; write it in quotes"],
    ),
    Row(
        "V-01 string for boolean",
        splitter("name: iris, weight: 100, shadow: 'yes'"),
        ["4:41: split.apis[1].shadow: must be true or false, got 'yes'"],
    ),
    Row(
        "V-01 plain yes",
        splitter("name: iris, weight: 100, shadow: yes"),
        ["4:41: split.apis[1].shadow: yes can be read as a boolean or as text; write true or 'yes'"],
    ),
    Row(
        "V-01 string for number",
        realtime(rest="  autoscaling: {max_upscale_factor: '2.5'}\n"),
        ["4:37: iris.autoscaling.max_upscale_factor: must be a number, got '2.5'; remove the quotes"],
    ),
    Row(
        "V-01 list for map",
        realtime(rest="  compute: [1]\n"),
        ["4:12: iris.compute: must be a map, got a list"],
    ),
    Row(
        "V-01 map for cpu",
        realtime(rest="  compute: {cpu: {}}\n"),
        ["4:18: iris.compute.cpu: must be a string or a number, got a map"],
    ),
    Row(
        "V-02 optional",
        realtime(", image: null"),
        [f"3:52: iris.handler.image: cannot be null; {OPTIONAL}"],
    ),
    Row("V-02 required", realtime().replace("iris", "~"), ["1:9: [1].name: cannot be null"]),
    Row(
        "V-02 env",
        realtime(", env: null"),
        [f"3:50: iris.handler.env: cannot be empty or null; {OPTIONAL}"],
    ),
    Row(
        "V-04",
        realtime(rest="  compute:\n  autoscaling:\n"),
        [
            f"4:3: iris.compute: cannot be empty or null; {OPTIONAL}",
            f"5:3: iris.autoscaling: cannot be empty or null; {OPTIONAL}",
        ],
    ),
    Row(
        "V-04 required",
        "- name: iris\n  kind: RealtimeAPI\n  handler:\n",
        ["3:3: iris.handler: cannot be empty or null"],
    ),
    Row("V-05", realtime().replace("handler.py", "''"), ["3:33: iris.handler.path: cannot be empty"]),
    Row("V-05 name", realtime().replace("iris", '""'), ["1:9: [1].name: cannot be empty"]),
    Row(
        "V-06",
        realtime(", log_level: warn"),
        [
            "3:56: iris.handler.log_level: must be one of debug, info, warning, error; got 'warn'; "
            "did you mean 'warning'?"
        ],
    ),
    Row(
        "V-07",
        realtime(", processes_per_replica: 101"),
        ["3:68: iris.handler.processes_per_replica: must be at most 100, got 101"],
    ),
    Row(
        "V-08 bare number",
        realtime(rest="  autoscaling: {window: 60}\n"),
        [f"4:25: iris.autoscaling.window: {DURATION_RULE}, got 60"],
    ),
    Row(
        "V-08 no unit",
        realtime(rest="  autoscaling: {window: '60'}\n"),
        [f"4:25: iris.autoscaling.window: {DURATION_RULE}, got '60'"],
    ),
    Row(
        "V-08 too long",
        realtime(rest="  autoscaling: {window: 9999999999h}\n"),
        ["4:25: iris.autoscaling.window: must be less than 292 years, got '9999999999h'"],
    ),
    Row(
        "V-09",
        realtime(rest="  compute: {cpu: two, mem: 1 GB}\n"),
        [
            f"4:18: iris.compute.cpu: {QUANTITY_RULE}, got 'two'",
            f"4:28: iris.compute.mem: {QUANTITY_RULE}, got '1 GB'",
        ],
    ),
    Row(
        "V-10",
        realtime().replace("handler.py", "'@handler.py'"),
        ["3:33: iris.handler.path: must not start with '@', got '@handler.py'"],
    ),
    Row("K-02", realtime().replace("iris", "Iris"), [f"1:9: Iris.name: {NAME_RULE}, got 'Iris'"]),
    Row("K-02 ends", realtime().replace("iris", "iris-"), [f"1:9: iris-.name: {NAME_RULE}, got 'iris-'"]),
    Row(
        "K-02 line break",
        realtime().replace("iris", '"iris\\n"'),
        [f"1:9: [1].name: {NAME_RULE}, got 'iris\\n'"],
    ),
    Row(
        "K-02 length",
        realtime().replace("iris", "i" * 43),
        [f"1:9: {'i' * 43}.name: must be at most 42 characters, got 43: '{'i' * 43}'"],
    ),
    Row(
        "K-02 b-",
        realtime().replace("iris", "b-iris"),
        ["1:9: b-iris.name: must not start with 'b-', got 'b-iris'"],
    ),
    Row(
        "K-03 case",
        of_kind("realtimeapi"),
        [
            "2:9: iris.kind: must be one of RealtimeAPI, AsyncAPI, BatchAPI, TaskAPI, TrafficSplitter; "
            "got 'realtimeapi'; did you mean 'RealtimeAPI'?"
        ],
    ),
]

SECTIONS = [
    Row(
        "K-01 realtime",
        realtime(rest="  definition: {path: a.py}\n  apis: []\n"),
        [
            "4:3: iris.definition: not supported here: only for kind TaskAPI; a RealtimeAPI has 'handler'",
            "5:3: iris.apis: not supported here: only for kind TrafficSplitter",
        ],
    ),
    Row(
        "K-01 async",
        of_kind("AsyncAPI", rest="  definition: {path: a.py}\n  apis: []\n"),
        [
            "4:3: iris.definition: not supported here: only for kind TaskAPI; an AsyncAPI has 'handler'",
            "5:3: iris.apis: not supported here: only for kind TrafficSplitter",
        ],
    ),
    Row(
        "K-01 batch",
        of_kind("BatchAPI", rest="  autoscaling: {min_replicas: 0}\n  update_strategy: {max_surge: 1}\n"),
        [
            "4:3: iris.autoscaling: not supported here: only for the kinds RealtimeAPI and AsyncAPI",
            "5:3: iris.update_strategy: not supported here: only for the kinds RealtimeAPI and AsyncAPI",
        ],
    ),
    Row(
        "K-01 task",
        of_kind("TaskAPI"),
        [
            "1:3: iris: missing key 'definition' (required for kind TaskAPI)",
            "3:3: iris.handler: not supported here: only for the kinds RealtimeAPI, AsyncAPI and BatchAPI; "
            "a TaskAPI has 'definition'",
        ],
    ),
    Row(
        "K-01 splitter",
        splitter("name: iris, weight: 100") + "  compute: {gpu: 1}\n",
        ["5:3: split.compute: not supported here: not for kind TrafficSplitter, which runs no code"],
    ),
    Row(
        "K-01 required",
        "- {name: a, kind: RealtimeAPI}\n- {name: b, kind: AsyncAPI}\n- {name: c, kind: BatchAPI}\n"
        "- {name: d, kind: TaskAPI}\n- {name: e, kind: TrafficSplitter}\n",
        [
            "1:3: a: missing key 'handler' (required for kind RealtimeAPI)",
            "2:3: b: missing key 'handler' (required for kind AsyncAPI)",
            "3:3: c: missing key 'handler' (required for kind BatchAPI)",
            "4:3: d: missing key 'definition' (required for kind TaskAPI)",
            "5:3: e: missing key 'apis' (required for kind TrafficSplitter)",
        ],
    ),
    Row(
        "K-10 and path required",
        "- name: iris\n  kind: BatchAPI\n  handler: {}\n",
        ["3:3: iris.handler: missing key 'type'", "3:3: iris.handler: missing key 'path'"],
    ),
    Row(
        "K-10 onnx",
        realtime().replace("python", "onnx"),
        ["3:19: iris.handler.type: the type onnx was folded into python; use 'type: python', got 'onnx'"],
    ),
    Row(
        "K-10 unknown",
        realtime().replace("python", "pythn"),
        ["3:19: iris.handler.type: must be one of python, tensorflow; got 'pythn'; did you mean 'python'?"],
    ),
    Row(
        "K-11 suffix",
        realtime().replace("handler.py", "handler.ipynb"),
        ["3:33: iris.handler.path: must end in .py or .pickle, got 'handler.ipynb'"],
    ),
    Row(
        "K-12 missing",
        realtime(", protobuf_path: protos/iris.proto"),
        [
            "3:60: iris.handler.protobuf_path: must be a .proto file in the project's root, named with letters, "
            "digits, '_' and '.' only, got 'protos/iris.proto'"
        ],
    ),
    *(
        Row(
            f"K-13 {path}",
            realtime(f", python_path: '{path}'"),
            [
                "3:58: iris.handler.python_path: must be a folder inside the project, relative to the API file "
                f"(leave it out for the project's root), got '{path}'"
            ],
        )
        for path in (".", "./", "./.", "/src", "~/src", "../src", "src/../..")
    ),
    Row(
        "K-14",
        realtime(", image: 'my image'"),
        [
            "3:52: iris.handler.image: must be an image such as 'registry.example.com/team/iris:1.4', got 'my image'"
        ],
    ),
    Row(
        "K-15",
        realtime(", threads_per_process: 0"),
        ["3:66: iris.handler.threads_per_process: must be at least 1, got 0"],
    ),
    Row(
        "K-16",
        realtime(", shm_size: big"),
        [f"3:55: iris.handler.shm_size: {QUANTITY_RULE}, got 'big'"],
    ),
    Row("K-17", realtime(", config: [1]"), ["3:53: iris.handler.config: must be a map, got a list"]),
    Row(
        "K-18 values",
        realtime(", env: {PORT: 8080, DEBUG: true}"),
        [
            "3:57: iris.handler.env.PORT: must be a string, got 8080; write it in quotes",
            "3:70: iris.handler.env.DEBUG: must be a string, got true; write it in quotes",
        ],
    ),
    Row(
        "K-18 names",
        realtime(", env: {'A=B': x}"),
        ["3:51: iris.handler.env.A=B: this cannot be the name of an environment variable"],
    ),
    Row(
        "K-18 names with spaces",
        realtime(", env: {'A B': x}"),
        ["3:51: iris.handler.env.A B: this cannot be the name of an environment variable"],
    ),
    Row(
        "K-18 zero byte",
        realtime(', env: {A: "\\0"}'),
        ["3:54: iris.handler.env.A: must not contain a zero byte, got '\\x00'"],
    ),
    Row(
        "K-19",
        realtime(", dependencies: {pip: ../requirements.txt, shell: /etc/setup.sh}"),
        [
            "3:65: iris.handler.dependencies.pip: must be a path inside the project, relative to the API file, "
            "got '../requirements.txt'",
            "3:93: iris.handler.dependencies.shell: must be a path inside the project, relative to the API file, "
            "got '/etc/setup.sh'",
        ],
    ),
    Row(
        "K-20",
        realtime(", multi_model_reloading: {path: gs://bucket/model}"),
        [f"3:75: iris.handler.multi_model_reloading.path: {LOCATION_RULE}, got 'gs://bucket/model'"],
    ),
    Row(
        "K-20 bare folder",
        realtime(", multi_model_reloading: {dir: models}"),
        [f"3:74: iris.handler.multi_model_reloading.dir: {LOCATION_RULE}, got 'models'"],
    ),
    Row(
        "K-21 entry",
        realtime(", multi_model_reloading: {paths: [{name: a b}]}"),
        [
            "3:77: iris.handler.multi_model_reloading.paths[1]: missing key 'path'",
            "3:84: iris.handler.multi_model_reloading.paths[1].name: must consist of letters, digits, dashes and "
            "underscores, got 'a b'",
        ],
    ),
    Row(
        "K-21 reserved",
        realtime(", multi_model_reloading: {paths: [{name: _cortex_default, path: s3://a}]}"),
        [
            "3:84: iris.handler.multi_model_reloading.paths[1].name: must not be a reserved name, got '_cortex_default'"
        ],
    ),
    Row(
        "K-22",
        realtime(", multi_model_reloading: {path: s3://a, cache_size: 0, disk_cache_size: 1}"),
        ["3:95: iris.handler.multi_model_reloading.cache_size: must be at least 1, got 0"],
    ),
    Row(
        "K-23",
        realtime(", server_side_batching: {max_batch_size: 1, batch_interval: 0s}"),
        [
            "3:84: iris.handler.server_side_batching.max_batch_size: must be at least 2, got 1",
            "3:103: iris.handler.server_side_batching.batch_interval: must be greater than 0s, got '0s'",
        ],
    ),
    Row(
        "K-23 required",
        realtime(", server_side_batching: {}"),
        ["3:45: iris.handler.server_side_batching: missing key 'max_batch_size'"],
    ),
    Row(
        "K-23 tensorflow",
        tensorflow(
            "path: s3://a",
            ", threads_per_process: 2, server_side_batching: {max_batch_size: 2, target_latency: 1s}",
        ),
        [
            "3:97: iris.handler.server_side_batching: missing key 'batch_interval' (required when type is tensorflow)",
            "3:139: iris.handler.server_side_batching.target_latency: not supported here: only for handler type python",
        ],
    ),
    Row(
        "K-23 durations",
        realtime(", server_side_batching: {max_batch_size: 2, target_latency: 0ms}"),
        ["3:103: iris.handler.server_side_batching.target_latency: must be greater than 0s, got '0ms'"],
    ),
    Row(
        "K-24",
        "- name: t\n  kind: TaskAPI\n  definition: {log_level: info, processes_per_replica: 2}\n",
        [
            "3:3: t.definition: missing key 'path'",
            "3:33: t.definition.processes_per_replica: unknown key; it belongs in 'handler'",
        ],
    ),
    Row("K-25 empty", "- {name: s, kind: TrafficSplitter, apis: []}\n", ["1:42: s.apis: cannot be empty"]),
    Row(
        "K-25 weight",
        splitter("name: a, weight: 101"),
        ["4:25: split.apis[1].weight: must be at most 100, got 101"],
    ),
    Row(
        "K-26 characters",
        realtime(rest="  networking: {endpoint: /iris?x}\n"),
        [
            "4:26: iris.networking.endpoint: must consist of letters, digits and the characters _ - . /, got '/iris?x'"
        ],
    ),
    Row(
        "K-26 slashes",
        realtime(rest="  networking: {endpoint: a//b}\n"),
        ["4:26: iris.networking.endpoint: must not contain '//', got 'a//b'"],
    ),
    Row(
        "K-26 root",
        realtime(rest="  networking: {endpoint: /}\n"),
        ["4:26: iris.networking.endpoint: a path must be specified, such as '/iris', got '/'"],
    ),
    *(
        Row(
            f"K-26 segments {endpoint}",
            realtime(rest=f"  networking: {{endpoint: {endpoint}}}\n"),
            [
                "4:26: iris.networking.endpoint: must not contain '.' or '..' between slashes, which no request "
                f"would match, got '{endpoint}'"
            ],
        )
        for endpoint in (".", "/..", "./iris", "a/../b", "a/./b", "/a/..")
    ),
    Row(
        "K-26 length",
        realtime(rest=f"  networking:\n    endpoint: /{'x' * 1000}\n"),
        [f"5:15: iris.networking.endpoint: must be at most 1000 characters, got 1001: '/{'x' * 57}…"],
    ),
    Row(
        "K-30 cpu",
        realtime(rest="  compute: {cpu: 19m}\n"),
        ["4:18: iris.compute.cpu: must be at least 20m, got '19m'"],
    ),
    Row(
        "K-30 cpu number",
        realtime(rest="  compute: {cpu: 0.01}\n"),
        ["4:18: iris.compute.cpu: must be at least 20m, got 0.01"],
    ),
    Row(
        "K-30 mem",
        realtime(rest="  compute: {mem: 20M}\n"),
        ["4:18: iris.compute.mem: must be at least 20Mi, got '20M'"],
    ),
    Row(
        "K-31",
        realtime(rest="  compute: {mem: 512}\n"),
        ["4:18: iris.compute.mem: must be a string, got 512; write it in quotes"],
    ),
    Row(
        "K-32",
        realtime(rest="  compute: {gpu: -1}\n"),
        ["4:18: iris.compute.gpu: must be at least 0, got -1"],
    ),
    Row(
        "K-33 node_groups",
        realtime(rest="  compute: {node_groups: []}\n"),
        ["4:26: iris.compute.node_groups: cannot be empty"],
    ),
    Row(
        "K-33 node group",
        realtime(rest="  compute: {node_groups: [a b]}\n"),
        [
            "4:27: iris.compute.node_groups[1]: must consist of letters, digits, dashes and underscores, got 'a b'"
        ],
    ),
    Row(
        "K-27",
        realtime(
            ", multi_model_reloading: {path: s3://a, swap_policy: fast, on_missing: drop, load_timeout: 1}"
        ),
        [
            "3:96: iris.handler.multi_model_reloading.swap_policy: must be one of availability, resource; got 'fast'",
            "3:114: iris.handler.multi_model_reloading.on_missing: must be one of keep, unload; got 'drop'",
            f"3:134: iris.handler.multi_model_reloading.load_timeout: {DURATION_RULE}, got 1",
        ],
    ),
    Row(
        "K-27 too short",
        tensorflow("path: s3://a, load_timeout: 200ms"),
        ["3:86: iris.handler.models.load_timeout: must be at least 1s, got '200ms'"],
    ),
    Row(
        "K-27 typo",
        realtime(", multi_model_reloading: {path: s3://a, swap_polcy: resource, on_mising: keep}"),
        [
            "3:83: iris.handler.multi_model_reloading.swap_polcy: unknown key; did you mean 'swap_policy'?",
            "3:105: iris.handler.multi_model_reloading.on_mising: unknown key; did you mean 'on_missing'?",
        ],
    ),
    Row(
        "K-28",
        realtime(", request_timeout: 999ms"),
        ["3:62: iris.handler.request_timeout: must be at least 1s, got '999ms'"],
    ),
    Row(
        "K-28 too long",
        realtime(", request_timeout: 9999999h"),
        ["3:62: iris.handler.request_timeout: must be less than 292 years, got '9999999h'"],
    ),
    Row(
        "K-28 kind",
        of_kind("AsyncAPI", ", request_timeout: 5s"),
        ["3:45: iris.handler.request_timeout: not supported here: only for kind RealtimeAPI"],
    ),
    Row(
        "K-34",
        realtime(
            rest="  autoscaling:\n    min_replicas: 0\n    max_replica_concurrency: 30001\n"
            "    target_replica_concurrency: 0\n    window: 15s\n    downscale_stabilization_period: -1s\n"
            "    max_downscale_factor: 1\n    max_upscale_factor: 1\n    downscale_tolerance: -0.1\n"
            "    upscale_tolerance: -1\n"
        ),
        [
            "5:19: iris.autoscaling.min_replicas: must be at least 1, got 0",
            "6:30: iris.autoscaling.max_replica_concurrency: must be at most 30000, got 30001",
            "7:33: iris.autoscaling.target_replica_concurrency: must be greater than 0, got 0",
            "8:13: iris.autoscaling.window: must be a multiple of 10s, got '15s'",
            "9:37: iris.autoscaling.downscale_stabilization_period: must be at least 0s, got '-1s'",
            "10:27: iris.autoscaling.max_downscale_factor: must be less than 1, got 1",
            "11:25: iris.autoscaling.max_upscale_factor: must be greater than 1, got 1",
            "12:26: iris.autoscaling.downscale_tolerance: must be at least 0, got -0.1",
            "13:24: iris.autoscaling.upscale_tolerance: must be at least 0, got -1",
        ],
    ),
    Row(
        "K-34 window",
        realtime(rest="  autoscaling: {window: 9s}\n"),
        ["4:25: iris.autoscaling.window: must be at least 10s, got '9s'"],
    ),
    Row(
        "K-35",
        realtime(rest="  update_strategy: {max_surge: 101%, max_unavailable: 2.5}\n"),
        [
            "4:32: iris.update_strategy.max_surge: must be an integer of at least 0 or a percentage from '0%' to "
            "'100%', got '101%'",
            "4:55: iris.update_strategy.max_unavailable: must be an integer of at least 0 or a percentage from '0%' "
            "to '100%', got 2.5",
        ],
    ),
]

RULES = [
    Row(
        "S-01",
        realtime().replace("python", "tensorflow"),
        ["3:3: iris.handler: missing key 'models' (required when type is tensorflow)"],
    ),
    Row(
        "S-02",
        realtime(", models: {pth: x}, tensorflow_serving_image: a")
        + tensorflow("path: s3://a", ", multi_model_reloading: {path: s3://a}").replace("iris", "rose"),
        [
            "3:45: iris.handler.models: not supported here: only for handler type tensorflow; for type python use "
            "'multi_model_reloading'",
            "3:63: iris.handler.tensorflow_serving_image: not supported here: only for handler type tensorflow",
            "6:73: rose.handler.multi_model_reloading: not supported here: only for handler type python; for type "
            "tensorflow use 'models'",
        ],
    ),
    Row(
        "S-03 none",
        realtime(", multi_model_reloading: {}"),
        [
            "3:45: iris.handler.multi_model_reloading: specify only one of 'path', 'paths' and 'dir'; none is given"
        ],
    ),
    Row(
        "S-03 null paths",
        tensorflow("paths: null"),
        ["3:49: iris.handler.models: specify only one of 'path', 'paths' and 'dir'; none is given"],
    ),
    Row(
        "S-03 all",
        tensorflow("path: s3://a, dir: s3://b, paths: [{name: a, path: s3://c}]"),
        ["3:49: iris.handler.models: specify only one of 'path', 'paths' and 'dir'; all three are given"],
    ),
    Row(
        "S-04",
        tensorflow("path: s3://a, dir: s3://b"),
        ["3:49: iris.handler.models: 'path' and 'dir' conflict; keep one of them"],
    ),
    Row(
        "S-05",
        realtime(
            ", multi_model_reloading: {signature_key: a, paths: [{name: a, path: s3://a, signature_key: b}]}"
        ),
        [
            "3:69: iris.handler.multi_model_reloading.signature_key: not supported here: "
            "only for handler type tensorflow",
            "3:119: iris.handler.multi_model_reloading.paths[1].signature_key: not supported here: "
            "only for handler type tensorflow",
        ],
    ),
    Row(
        "S-06",
        tensorflow("path: s3://a, cache_size: 1, disk_cache_size: 1").replace("RealtimeAPI", "BatchAPI"),
        [
            "3:72: iris.handler.models.cache_size: not supported here: only for kind RealtimeAPI",
            "3:87: iris.handler.models.disk_cache_size: not supported here: only for kind RealtimeAPI",
        ],
    ),
    Row(
        "S-07",
        tensorflow("path: s3://a, cache_size: 1"),
        [
            "3:49: iris.handler.models: give both 'cache_size' and 'disk_cache_size', or neither; "
            "only 'cache_size' is given"
        ],
    ),
    Row(
        "S-08",
        tensorflow("path: s3://a, cache_size: 3, disk_cache_size: 2"),
        ["3:84: iris.handler.models.cache_size: cache_size (3) cannot be greater than disk_cache_size (2)"],
    ),
    Row(
        "S-09",
        tensorflow("path: s3://a, cache_size: 1, disk_cache_size: 2", ", processes_per_replica: 4"),
        [
            "3:131: iris.handler.processes_per_replica: must be 1 with model caching (cache_size, disk_cache_size), "
            "got 4"
        ],
    ),
    Row(
        "S-09 python",
        realtime(
            ", multi_model_reloading: {path: s3://a, cache_size: 2, disk_cache_size: 7}, processes_per_replica: 4"
        ),
        [
            "3:95: iris.handler.multi_model_reloading.cache_size: cache_size × processes_per_replica (2 × 4 = 8) "
            "cannot be greater than disk_cache_size (7)"
        ],
    ),
    Row(
        "S-11",
        tensorflow(
            "path: s3://a",
            ", server_side_batching: {max_batch_size: 9, batch_interval: 1s}, processes_per_replica: 2, "
            "threads_per_process: 4",
        ),
        [
            "3:112: iris.handler.server_side_batching.max_batch_size: max_batch_size (9) cannot be greater than "
            "processes_per_replica × threads_per_process (2 × 4 = 8)"
        ],
    ),
    Row(
        "S-12",
        tensorflow(
            "path: s3://a",
            ", server_side_batching: {max_batch_size: 5, batch_interval: 1s}, processes_per_replica: 2, "
            "threads_per_process: 4",
            "  compute: {inf: 1}\n",
        ),
        [
            "3:112: iris.handler.server_side_batching.max_batch_size: max_batch_size (5) cannot be greater than "
            "threads_per_process (4) with Inferentia"
        ],
    ),
    Row(
        "S-13",
        of_kind("AsyncAPI", ", protobuf_path: iris.proto"),
        ["3:45: iris.handler.protobuf_path: not supported here: only for kind RealtimeAPI"],
    ),
    Row(
        "S-15",
        realtime(
            ", protobuf_path: a.proto, threads_per_process: 2, "
            "server_side_batching: {max_batch_size: 2, batch_interval: 1s}"
        ),
        [
            "3:93: iris.handler.server_side_batching: 'protobuf_path' and 'server_side_batching' conflict; "
            "keep one of them"
        ],
    ),
    Row(
        "S-18",
        of_kind(
            "BatchAPI",
            ", multi_model_reloading: {path: s3://a}, processes_per_replica: 2, threads_per_process: 2, "
            "server_side_batching: {}",
        ),
        [
            "3:45: iris.handler.multi_model_reloading: not supported here: only for kind RealtimeAPI",
            "3:107: iris.handler.processes_per_replica: must be 1 (more is only for kind RealtimeAPI), got 2",
            "3:131: iris.handler.threads_per_process: must be 1 (more is only for kind RealtimeAPI), got 2",
            "3:134: iris.handler.server_side_batching: not supported here: only for kind RealtimeAPI",
        ],
    ),
    Row(
        "S-19",
        realtime(", env: {CORTEX_KIND: x}"),
        ["3:51: iris.handler.env.CORTEX_KIND: the prefix CORTEX_ is reserved"],
    ),
    Row(
        "S-20",
        realtime(", shm_size: 1Gi", "  compute: {mem: 1G}\n"),
        ["3:55: iris.handler.shm_size: shm_size (1Gi) cannot be greater than compute.mem (1G)"],
    ),
    Row(
        "S-21",
        realtime(rest="  compute: {gpu: 2, inf: 1}\n"),
        ["4:3: iris.compute: cannot be combined: gpu is 2 and inf is 1; keep one of them"],
    ),
    Row(
        "S-22",
        realtime(rest="  compute: {inf: 2}\n"),
        ["4:18: iris.compute.inf: only one Inferentia chip per replica is possible, got 2"],
    ),
    Row(
        "S-23",
        realtime(", processes_per_replica: 3", "  compute: {inf: 1}\n"),
        ["3:68: iris.handler.processes_per_replica: must be 1, 2 or 4 with one Inferentia chip, got 3"],
    ),
    Row(
        "S-24 given",
        realtime(rest="  autoscaling: {target_replica_concurrency: 9, max_replica_concurrency: 8}\n"),
        [
            "4:45: iris.autoscaling.target_replica_concurrency: target_replica_concurrency (9) cannot be greater than "
            "max_replica_concurrency (8)"
        ],
    ),
    Row(
        "S-24 default",
        realtime(", processes_per_replica: 4, threads_per_process: 260"),
        [
            "3:92: iris.handler.threads_per_process: max_replica_concurrency (1024) cannot be less than "
            "target_replica_concurrency, which is processes_per_replica × threads_per_process (4 × 260 = 1040) "
            "unless it is given"
        ],
    ),
    Row(
        "S-25",
        realtime(rest="  autoscaling: {min_replicas: 3, max_replicas: 2, init_replicas: 1}\n"),
        ["4:31: iris.autoscaling.min_replicas: min_replicas (3) cannot be greater than max_replicas (2)"],
    ),
    Row(
        "S-26 greater",
        realtime(rest="  autoscaling: {max_replicas: 2, init_replicas: 3}\n"),
        ["4:49: iris.autoscaling.init_replicas: init_replicas (3) cannot be greater than max_replicas (2)"],
    ),
    Row(
        "S-26 less",
        realtime(rest="  autoscaling: {min_replicas: 2, init_replicas: 1}\n"),
        ["4:49: iris.autoscaling.init_replicas: init_replicas (1) cannot be less than min_replicas (2)"],
    ),
    Row(
        "S-27",
        realtime(rest="  update_strategy: {max_surge: 0, max_unavailable: 0%}\n"),
        [
            "4:3: iris.update_strategy: max_surge and max_unavailable cannot both be zero: no replica could be replaced"
        ],
    ),
    Row(
        "S-28",
        splitter("name: a, weight: 50", "name: b, weight: 40", "name: c, weight: 10, shadow: true"),
        ["3:3: split.apis: the weights (without shadow) must total 100, got 90"],
    ),
    Row(
        "S-29",
        splitter("name: a, weight: 50", "name: a, weight: 50"),
        ["5:14: split.apis[2].name: 'a' is listed twice; list each API once"],
    ),
    Row(
        "S-30",
        splitter(
            "name: a, weight: 100", "name: b, weight: 1, shadow: true", "name: c, weight: 1, shadow: true"
        ),
        ["6:36: split.apis[3].shadow: only one API of a traffic splitter can be the shadow"],
    ),
    Row(
        "S-31 in the file",
        splitter("name: iris, weight: 100") + of_kind("AsyncAPI"),
        ["4:14: split.apis[1].name: 'iris' is not a RealtimeAPI but of kind AsyncAPI"],
    ),
    Row(
        "S-32",
        splitter("name: iris, weight: 100") + realtime(", protobuf_path: iris.proto"),
        ["4:14: split.apis[1].name: 'iris' is a gRPC API, which a traffic splitter cannot use"],
    ),
    Row(
        "S-35",
        realtime(", multi_model_reloading: {paths: [{name: a, path: s3://a}, {name: a, path: s3://b}]}"),
        [
            "3:109: iris.handler.multi_model_reloading.paths[2].name: the model name 'a' is used twice; "
            "names must be unique"
        ],
    ),
    Row(
        "S-38",
        realtime(", server_side_batching: {max_batch_size: 8, batch_interval: 1ms, target_latency: 50ms}"),
        [
            "3:45: iris.handler.server_side_batching: 'batch_interval' and 'target_latency' conflict; "
            "keep one of them"
        ],
    ),
    Row(
        "S-39",
        realtime(", request_timeout: 5s, server_side_batching: {max_batch_size: 8, batch_interval: 5000ms}"),
        [
            "3:124: iris.handler.server_side_batching.batch_interval: batch_interval (5000ms) must be less than "
            "request_timeout (5s): a request that waits alone would be answered 504"
        ],
    ),
    Row(
        "S-39 target",
        realtime(", request_timeout: 5s, server_side_batching: {max_batch_size: 8, target_latency: 1m}"),
        [
            "3:124: iris.handler.server_side_batching.target_latency: target_latency (1m) must be less than "
            "request_timeout (5s): requests would be answered 504 before they are late"
        ],
    ),
    Row(
        "S-39 just shorter",
        realtime(
            ", request_timeout: 5s, server_side_batching: {max_batch_size: 8, batch_interval: 4.999999999s}"
        ),
        [],
    ),
    Row(
        "S-39 files of Cortex 0.35, which know no request_timeout, stay valid",
        realtime(", threads_per_process: 8, server_side_batching: {max_batch_size: 8, batch_interval: 2h}"),
        [],
    ),
]


@pytest.mark.parametrize("row", FILE + VALUES + SECTIONS + RULES, ids=lambda row: row.id)
def test_message(row: Row) -> None:
    assert heads(row.text) == row.expected


class Project:
    """The files of a project, in memory."""

    def __init__(self, **contents: str) -> None:
        self._contents = {name.replace("__", "/"): text.encode() for name, text in contents.items()}

    @property
    def files(self) -> set[str]:
        return set(self._contents)

    def read(self, path: str) -> bytes:
        if self._contents[path] == b"unreadable":
            raise PermissionError(13, "Permission denied")
        return self._contents[path]


PROTO = "syntax = 'proto3'; package my_iris; message A {} message B {} service Iris { rpc Predict (A) returns (B); }"
GRPC = ", protobuf_path: iris.proto"

MODELS = ", multi_model_reloading: {path: s3://bucket/iris}"
BATCHING = ", server_side_batching: {max_batch_size: 8}"

METHODS = "class Handler:\n    def handle_post(self, payload):\n        return payload\n"
HANDLER = METHODS + "    def __init__(self, config): ...\n"
RPC_HANDLER = (
    "class Handler:\n    def Predict(self, payload, context):\n        return payload\n"
    "    def __init__(self, config, proto_module_pb2): ...\n"
)
TAKES = "It may take: self, payload, query_params, headers"
VERBS = "'handle_post', 'handle_get', 'handle_put', 'handle_patch', 'handle_delete'"
FILES: list[tuple[str, str, dict[str, str], list[str]]] = [
    ("K-11 missing", realtime(), {"handlr.py": ""},
     ["3:33: iris.handler.path: the file 'handler.py' does not exist or was excluded from the project; "
      "did you mean 'handlr.py'?"]),
    ("K-11 other folder", realtime().replace("handler.py", "src/handler.py"), {"sources__handler.py": "", "x.py": ""},
     ["3:33: iris.handler.path: the file 'src/handler.py' does not exist or was excluded from the project; "
      "did you mean 'sources/handler.py'?"]),
    ("K-11 with ./", realtime().replace("handler.py", "./handler.py"), {"handler.py": HANDLER},
     ["3:33: iris.handler.path: the file './handler.py' does not exist or was excluded from the project; "
      "did you mean 'handler.py'?"]),
    ("K-11 definition", "- name: t\n  kind: TaskAPI\n  definition: {path: task.py}\n", {},
     ["3:22: t.definition.path: the file 'task.py' does not exist or was excluded from the project"]),
    ("K-19 missing", realtime(", dependencies: {pip: reqs.txt, shell: ./setup.sh, conda: conda-packages.txt}"),
     {"handler.py": HANDLER, "requirements.txt": "", "setup.sh": ""},
     ["3:65: iris.handler.dependencies.pip: the file 'reqs.txt' does not exist or was excluded from the project"]),
    ("H-01", realtime(), {"handler.py": "import os\nclass Handler\n"},
     ["3:33: iris.handler.path: handler.py:2:14: expected ':'"]),
    ("H-01 bracket", realtime(), {"handler.py": "x = (1,\n"},
     ["3:33: iris.handler.path: handler.py:1:5: '(' was never closed"]),
    ("H-01 unreadable", realtime(), {"handler.py": "unreadable"},
     ["3:33: iris.handler.path: cannot be read: Permission denied"]),
    ("H-02", realtime(), {"handler.py": "class Model: ...\n"},
     ["3:33: iris.handler.path: handler.py:1:7: there is no class named 'Handler'; it defines 'Model'"]),
    ("H-02 empty", realtime(), {"handler.py": ""},
     ["3:33: iris.handler.path: handler.py: there is no class named 'Handler'"]),
    ("H-02 typo", realtime(), {"handler.py": "class Handlr: ...\n"},
     ["3:33: iris.handler.path: handler.py:1:7: there is no class named 'Handler'; did you mean 'Handler' by 'Handlr'?"]),
    ("H-02 task", "- name: t\n  kind: TaskAPI\n  definition: {path: task.py}\n", {"task.py": "def Tsk(): ...\n"},
     ["3:22: t.definition.path: task.py: there is no class named 'Task'"]),
    ("H-03", realtime(), {"handler.py": "class Handler:\n    def __init__(self, config): ...\n"},
     [f"3:33: iris.handler.path: handler.py:1:7: Handler: at least one of {VERBS} must be defined"]),
    ("H-03 typo", realtime(), {"handler.py": HANDLER.replace("handle_post", "handle_pots")},
     [f"3:33: iris.handler.path: handler.py:2:9: Handler: at least one of {VERBS} must be defined; "
      "did you mean 'handle_post' by 'handle_pots'?"]),
    ("H-04", realtime(), {"handler.py": HANDLER.replace("payload):", "paylod):")},
     ["3:33: iris.handler.path: handler.py:2:27: Handler.handle_post: the argument 'paylod' is not supported; "
      f"did you mean 'payload'? {TAKES}; it is defined as `handle_post(self, paylod)`"]),
    ("H-04 constructor", realtime(), {"handler.py": METHODS + "    def __init__(self, config, *, db=None): ...\n"},
     ["3:33: iris.handler.path: handler.py:4:35: Handler.__init__: the argument 'db' is not supported. It may take: self, "
      "config, model_client, metrics_client; it is defined as `__init__(self, config, *, db=None)`"]),
    ("H-05", realtime(MODELS), {"handler.py": METHODS},
     ["3:33: iris.handler.path: handler.py:1:7: Handler: the method '__init__' is missing; "
      "define `def __init__(self, config, model_client)`",
      "3:33: iris.handler.path: handler.py:1:7: Handler: the method 'load_model' is missing; "
      "define `def load_model(self, model_path)`"]),
    ("H-05 arguments", realtime(MODELS), {"handler.py": METHODS + "    def __init__(self, config): ...\n"
      "    async def load_model(self, model_path): ...\n    def warm_up(self): ...\n"},
     ["3:33: iris.handler.path: handler.py:4:9: Handler.__init__: the argument 'model_client' is missing; "
      "it is defined as `__init__(self, config)` because the API has 'multi_model_reloading'",
      "3:33: iris.handler.path: handler.py:5:5: Handler.load_model: must not be `async`",
      "3:33: iris.handler.path: handler.py:6:9: Handler.warm_up: the argument 'model' is missing; "
      "it is defined as `warm_up(self)`"]),
    ("H-04 task", "- name: t\n  kind: TaskAPI\n  definition: {path: task.py}\n",
     {"task.py": "class Task:\n    def __call__(self, cfg): ...\n"},
     ["3:22: t.definition.path: task.py:2:24: Task.__call__: the argument 'cfg' is not supported; did you "
      "mean 'config'? It may take: self, config; it is defined as `__call__(self, cfg)`"]),
    ("K-13", realtime(", python_path: ./src"), {"handler.py": HANDLER, "source__a.py": ""},
     ["3:58: iris.handler.python_path: the folder './src' does not exist or was excluded from the project"]),
    ("K-12 missing", realtime(GRPC), {"handler.py": RPC_HANDLER},
     ["3:60: iris.handler.protobuf_path: the file 'iris.proto' does not exist or was excluded from the project"]),
    ("K-12 unreadable", realtime(GRPC), {"handler.py": RPC_HANDLER, "iris.proto": "unreadable"},
     ["3:60: iris.handler.protobuf_path: cannot be read: Permission denied"]),
    ("S-14 none", realtime(GRPC), {"handler.py": RPC_HANDLER, "iris.proto": "package iris; /* service A {} */"},
     ["3:60: iris.handler.protobuf_path: the file must define exactly one service, found 0"]),
    ("S-14 two", realtime(GRPC), {"handler.py": RPC_HANDLER, "iris.proto": "package iris; service A {} service B {}"},
     ["3:60: iris.handler.protobuf_path: iris.proto:1:36: the file must define exactly one service, found 2: A, B"]),
    ("S-16 missing", realtime(GRPC).replace("name: iris", "name: my-iris"),
     {"handler.py": RPC_HANDLER, "iris.proto": "service A {}"},
     ["3:60: my-iris.handler.protobuf_path: the file must name its package; add 'package my_iris;'"]),
    ("S-16 other", realtime(GRPC), {"handler.py": RPC_HANDLER, "iris.proto": PROTO},
     ["3:60: iris.handler.protobuf_path: iris.proto:1:28: the file's package must be 'iris' (the API's name), got "
      "'my_iris'"]),
    ("S-17", realtime(GRPC, "  networking: {endpoint: /iris}\n").replace("name: iris", "name: my-iris"),
     {"handler.py": RPC_HANDLER, "iris.proto": PROTO},
     ["4:26: my-iris.networking.endpoint: a gRPC API can only have the endpoint '/my_iris.Iris' (the default), "
      "got '/iris'"]),
    ("S-16 and S-17", realtime(GRPC, "  networking: {endpoint: /my_iris.Iris}\n"),
     {"handler.py": RPC_HANDLER, "iris.proto": PROTO},
     ["3:60: iris.handler.protobuf_path: iris.proto:1:28: the file's package must be 'iris' (the API's name), got "
      "'my_iris'",
      "4:26: iris.networking.endpoint: a gRPC API can only have the endpoint '/iris.Iris' (the default), "
      "got '/my_iris.Iris'"]),
    ("H-06", realtime(GRPC), {"handler.py": RPC_HANDLER, "common__a.proto": "syntax = 'proto3';\nmessage A { int32 b }",
     "iris.proto": "syntax = 'proto3';\npackage iris;\nimport 'nix.proto';\nimport 'common/a.proto';\n"
     "import 'google/protobuf/empty.proto';\nservice Iris { rpc Predict (A) returns (nix.B); }"},
     ["3:60: iris.handler.protobuf_path: common/a.proto:2:21: missing field number",
      "3:60: iris.handler.protobuf_path: iris.proto:3:1: imports 'nix.proto', which is not in the project; imports "
      "are relative to its root"]),
    ("H-06 names", realtime(GRPC), {"handler.py": RPC_HANDLER,
     "iris.proto": PROTO.replace("my_iris", "iris").replace("Predict", "import")},
     ["3:60: iris.handler.protobuf_path: iris.proto:1:79: 'import' is a keyword of Python; rename the RPC"]),
    ("H-07", realtime(GRPC), {"handler.py": RPC_HANDLER.replace("Predict", "predict"),
     "iris.proto": PROTO.replace("my_iris", "iris")},
     ["3:33: iris.handler.path: handler.py:2:9: Handler: the method 'Predict' is missing, which the service in the "
      "protobuf file declares; did you mean 'Predict' by 'predict'?"]),
    ("H-07 case", realtime(GRPC), {"handler.py": RPC_HANDLER,
     "iris.proto": PROTO.replace("my_iris", "iris").replace("rpc P", "rpc predict (B) returns (A); rpc P")},
     ["3:33: iris.handler.path: handler.py:1:7: Handler: the method 'predict' is missing, which the service in the "
      "protobuf file declares; define `def predict(self, payload, context)`"]),
    ("H-07 taken", realtime(GRPC + ", multi_model_reloading: {path: s3://b/m/}"),
     {"handler.py": RPC_HANDLER.replace("Predict(self, payload, context)", "load_model(self, model_path)").replace(
         "pb2", "pb2, model_client"),
      "iris.proto": PROTO.replace("my_iris", "iris").replace("Predict", "load_model")},
     ["3:33: iris.handler.path: handler.py:1:7: Handler: 'load_model', an RPC in the protobuf file, is a method that "
      "'multi_model_reloading' needs; rename the RPC"]),
    ("H-07 arguments", realtime(GRPC), {"handler.py": RPC_HANDLER.replace("context", "contxt"),
     "iris.proto": PROTO.replace("my_iris", "iris")},
     ["3:33: iris.handler.path: handler.py:2:32: Handler.Predict: the argument 'contxt' is not supported; did you mean "
      "'context'? It may take: self, payload, context; it is defined as `Predict(self, payload, contxt)`"]),
    ("H-08", realtime(BATCHING), {"handler.py": "\n" + HANDLER.replace("handle_post", "handle_get")},
     ["3:33: iris.handler.path: handler.py:2:7: Handler: the method 'handle_post' is missing, which 'server_side_batching' "
      "needs; define `def handle_post(self, payload, query_params, headers)`"]),
    ("H-08 typo", realtime(BATCHING), {"handler.py": HANDLER.replace("handle_post", "handle_pots")},
     ["3:33: iris.handler.path: handler.py:2:9: Handler: the method 'handle_post' is missing, which 'server_side_batching' "
      "needs; did you mean 'handle_post' by 'handle_pots'?"]),
    ("H-08 generator", realtime(BATCHING), {"handler.py": HANDLER.replace("return payload", "for each in payload: yield each")},
     ["3:33: iris.handler.path: handler.py:3:30: Handler.handle_post: must not `yield`, because the API has "
      "'server_side_batching'; return a list with one element for each request (an element may be a generator)"]),
    ("H-08 async generator", realtime(BATCHING),
     {"handler.py": "class Handler:\n    async def handle_post(self, payload):\n        x = 1\n        yield x; yield 2\n"
      "    def __init__(self, config): ...\n"},
     ["3:33: iris.handler.path: handler.py:4:9: Handler.handle_post: must not `yield`, because the API has "
      "'server_side_batching'; return a list with one element for each request (an element may be a generator)"]),
    ("H-08 and H-04", realtime(BATCHING), {"handler.py": HANDLER.replace("handle_post(self, payload)", "handle_put(self, x)")},
     ["3:33: iris.handler.path: handler.py:1:7: Handler: the method 'handle_post' is missing, which 'server_side_batching' "
      "needs; define `def handle_post(self, payload, query_params, headers)`",
      f"3:33: iris.handler.path: handler.py:2:26: Handler.handle_put: the argument 'x' is not supported. {TAKES}; "
      "it is defined as `handle_put(self, x)`"]),
    ("H-08 tensorflow", tensorflow("path: s3://a", ", threads_per_process: 8, server_side_batching: {max_batch_size: 8, "
     "batch_interval: 1s}"), {"handler.py": METHODS.replace("handle_post", "handle_get")
     + "    def __init__(self, config, tensorflow_client): ...\n"}, []),
    ("H-09", realtime(), {"handler.py": METHODS},
     ["3:33: iris.handler.path: handler.py:1:7: Handler: the method '__init__' is missing; "
      "define `def __init__(self, config)`"]),
    ("H-09 arguments", realtime(), {"handler.py": HANDLER.replace("self, config", "self").replace("self, payload", "payload")},
     ["3:33: iris.handler.path: handler.py:4:9: Handler.__init__: the argument 'config' is missing; "
      "it is defined as `__init__(self)`",
      "3:33: iris.handler.path: handler.py:2:21: Handler.handle_post: the first argument must be 'self'; "
      "it is defined as `handle_post(payload)`"]),
    ("H-09 async API", of_kind("AsyncAPI"), {"handler.py": HANDLER},
     ["3:33: iris.handler.path: handler.py:1:7: Handler: the method 'handle_async' is missing; "
      "define `def handle_async(self, payload, request_id)`"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "files", "expected"), [row[1:] for row in FILES], ids=[row[0] for row in FILES]
)
def test_message_about_a_project(text: str, files: dict[str, str], expected: list[str]) -> None:
    seen = heads(text, project=Project(**files))
    assert [message.partition("\n")[0] for message in seen] == expected


def test_problems_of_proto_files_are_shown_where_they_are() -> None:
    files = {
        "handler.py": RPC_HANDLER,
        "iris.proto": "syntax = 'proto3';\npackage iri;\nimport 'nix.proto';\nimport 'common/a.proto';\n"
        "service Iris { rpc Predict (A) returns (A); }\nservice Rose {}\n",
        "common__a.proto": "syntax = 'proto3';\r\n\tmessage A { /* größer */ Int b = 1; }\r\nmessage B {",
    }
    with pytest.raises(InvalidConfig) as caught:
        load(realtime(GRPC), project=Project(**files))
    here = "cortex.yaml:3:60: iris.handler.protobuf_path: "
    excerpt = """
   3 |   handler: {type: python, path: handler.py, protobuf_path: iris.proto}
     |                                                            ^^^^^^^^^^
"""
    assert caught.value.message == "\n".join(
        f"{here}{message}{excerpt}{place}\n"
        for message, place in (
            (
                "iris.proto:6:9: the file must define exactly one service, found 2: Iris, Rose",
                "   6 | service Rose {}\n     |         ^^^^",
            ),
            (
                "iris.proto:2:9: the file's package must be 'iris' (the API's name), got 'iri'",
                "   2 | package iri;\n     |         ^^^",
            ),
            (
                "common/a.proto:3:12: reached end of input in message definition (missing '}')",
                "   3 | message B {\n     |            ^",
            ),
            (
                "iris.proto:3:1: imports 'nix.proto', which is not in the project; imports are relative to its root",
                "   3 | import 'nix.proto';\n     | ^^^^^^",
            ),
        )
    )


def test_problems_of_a_handler_are_shown_where_they_are() -> None:
    source = "class Handler:\n    def __init__(self, confg): ...\n\n    def handle_post(self, body):\n        return 1\n"
    with pytest.raises(InvalidConfig) as caught:
        load(realtime(), project=Project(**{"handler.py": source}))
    assert caught.value.message == (
        f"""cortex.yaml:3:33: iris.handler.path: handler.py:2:24: Handler.__init__: the argument 'confg' is not \
supported; did you mean 'config'? It may take: self, config, model_client, metrics_client; it is defined as \
`__init__(self, confg)`
   3 |   handler: {{type: python, path: handler.py}}
     |                                 ^^^^^^^^^^
   2 |     def __init__(self, confg): ...
     |                        ^^^^^

cortex.yaml:3:33: iris.handler.path: handler.py:4:27: Handler.handle_post: the argument 'body' is not supported. \
{TAKES}; it is defined as `handle_post(self, body)`
   3 |   handler: {{type: python, path: handler.py}}
     |                                 ^^^^^^^^^^
   4 |     def handle_post(self, body):
     |                           ^^^^
"""
    )


def test_a_place_in_a_proto_file_is_counted_in_characters() -> None:
    """The compiler counts bytes, and a tab as up to eight."""
    source = "syntax = 'proto3';\n\tpackage iris;\r\n  \tmessage A { /* größer */ Int b = 1; }\r\nservice Iris {}\n"
    [message] = heads(realtime(GRPC), project=Project(**{"handler.py": RPC_HANDLER, "iris.proto": source}))
    assert message == (
        """3:60: iris.handler.protobuf_path: iris.proto:3:29: "Int" is not defined
   3 |    message A { /* größer */ Int b = 1; }
     |                             ^^^"""
    )


def test_grpc_endpoint_comes_from_the_proto() -> None:
    text = realtime(GRPC).replace("name: iris", "name: my-iris")
    [api] = load(text, project=Project(**{"handler.py": RPC_HANDLER, "iris.proto": PROTO}))
    assert api.networking.endpoint == "/my_iris.Iris"


def deployed(*texts: str) -> list[Api]:
    return load("".join(texts))


HTTP, GRPC_API = realtime(), realtime(GRPC)
SPLIT = splitter("name: iris, weight: 100")
DEPLOYED: list[tuple[str, str, list[Api], list[str]]] = [
    ("F-11", HTTP, deployed(realtime(rest="  networking: {endpoint: iris/}\n").replace("name: iris", "name: rose")),
     ["1:3: iris.networking.endpoint: the endpoint '/iris' is already used by 'rose'"]),
    ("F-11 owner", HTTP, deployed(HTTP), []),
    ("F-12", of_kind("BatchAPI"), deployed(HTTP),
     ["2:9: iris.kind: cannot change the kind from RealtimeAPI to BatchAPI; first delete 'iris', then deploy it"]),
    ("S-31 nowhere", SPLIT, [],
     ["4:14: split.apis[1].name: there is no RealtimeAPI 'iris', neither in this file nor deployed"]),
    ("S-31 other kind", SPLIT, deployed(of_kind("AsyncAPI")),
     ["4:14: split.apis[1].name: 'iris' is not a RealtimeAPI but of kind AsyncAPI"]),
    ("S-31 deployed", SPLIT, deployed(HTTP), []),
    ("S-31 in the file", SPLIT + HTTP, [], []),
    ("S-32 deployed", SPLIT, deployed(GRPC_API),
     ["4:14: split.apis[1].name: 'iris' is a gRPC API, which a traffic splitter cannot use"]),
    ("S-33", GRPC_API, deployed(HTTP, SPLIT),
     ["3:60: iris.handler.protobuf_path: cannot change from HTTP to gRPC while the traffic splitter 'split' uses "
      "this API"]),
    ("S-33 unused", GRPC_API, deployed(HTTP), []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "apis", "expected"), [row[1:] for row in DEPLOYED], ids=[row[0] for row in DEPLOYED]
)
def test_message_about_what_is_deployed(text: str, apis: list[Api], expected: list[str]) -> None:
    assert heads(text, deployed=apis) == expected


BUCKET = "s3://b/m"
DIR = f", multi_model_reloading: {{dir: {BUCKET}}}"
PATH = f", multi_model_reloading: {{path: {BUCKET}}}"
DENIED = StorageRefused(
    "ListObjectsV2 s3://b/m/: access denied (AccessDenied)", hint="grant ListObjectsV2 on this bucket"
)
NO_BOTO3 = CortexError(
    "s3://b/m/: storage in S3 needs boto3, which is not installed here",
    hint="pip install 'cortex-deploy[s3]'",
)
LISTED: list[tuple[str, str, dict[str, list[str] | CortexError], list[str]]] = [
    ("S-36", realtime(DIR), {BUCKET: ["_cortex_default/a", "iris/a"]},
     ["3:74: iris.handler.multi_model_reloading.dir: s3://b/m: '_cortex_default' is reserved and cannot be the name "
      "of a model"]),
    ("S-37 right", realtime(DIR), {BUCKET: ["iris/1/a", "iris/20/a/b", "rose/a"]}, []),
    ("S-37 empty", realtime(PATH), {BUCKET: []},
     ["3:75: iris.handler.multi_model_reloading.path: s3://b/m: there is no model: the directory is empty or does not "
      "exist"]),
    ("S-37 empty dir", realtime(DIR), {BUCKET: []},
     ["3:74: iris.handler.multi_model_reloading.dir: s3://b/m: there are no models: the directory is empty or does not "
      "exist"]),
    ("S-37 several", realtime(DIR), {BUCKET: ["a/1/x", "a/b/x", "c/2/x", "c/02/x", "loose"]},
     ["3:74: iris.handler.multi_model_reloading.dir: s3://b/m: only directories of models may be here; found also 'loose'",
      "3:74: iris.handler.multi_model_reloading.dir: s3://b/m/a: only directories named by digits 0-9 may be beside "
      "versions; found also 'b/'",
      "3:74: iris.handler.multi_model_reloading.dir: s3://b/m/c/02: has the same value as version '2'"]),
    ("S-37 in paths", realtime(f", multi_model_reloading: {{paths: [{{name: a, path: {BUCKET}}}, {{name: b, path: s3://c/}}]}}"),
     {BUCKET: ["1/x"], "s3://c": []},
     ["3:120: iris.handler.multi_model_reloading.paths[2].path: s3://c: there is no model: the directory is empty or does "
      "not exist"]),
    ("S-37 one location of two models",
     realtime(f", multi_model_reloading: {{paths: [{{name: a, path: {BUCKET}}}, {{name: b, path: {BUCKET}}}]}}"),
     {BUCKET: ["1/x", "y"]},
     [f"3:{column}: iris.handler.multi_model_reloading.paths[{number}].path: s3://b/m: only directories named by digits "
      "0-9 may be beside versions; found also 'y'" for number, column in ((1, 93), (2, 120))]),
    ("S-37 tensorflow", tensorflow(f"path: {BUCKET}"), {BUCKET: ["1/saved_model.pb", "1/variables/variables.index"]},
     ["3:64: iris.handler.models.path: s3://b/m/1: 'variables/variables.data-00000-of-...' is missing"]),
    ("S-37 inferentia", tensorflow(f"path: {BUCKET}", rest="  compute: {inf: 1}\n"), {BUCKET: ["1/saved_model.pb"]}, []),
    ("S-37 unreadable", realtime(PATH), {BUCKET: DENIED},
     ["3:75: iris.handler.multi_model_reloading.path: the models cannot be listed: ListObjectsV2 s3://b/m/: access denied "
      "(AccessDenied) (grant ListObjectsV2 on this bucket)"]),
    ("S-37 without boto3", realtime(PATH), {BUCKET: NO_BOTO3},
     ["3:75: iris.handler.multi_model_reloading.path: the models cannot be listed: s3://b/m/: storage in S3 needs boto3, "
      "which is not installed here (pip install 'cortex-deploy[s3]')"]),
    ("S-37 one of two unreadable",
     realtime(f", multi_model_reloading: {{paths: [{{name: a, path: {BUCKET}}}, {{name: b, path: s3://c/}}]}}"),
     {BUCKET: DENIED, "s3://c": []},
     ["3:93: iris.handler.multi_model_reloading.paths[1].path: the models cannot be listed: ListObjectsV2 s3://b/m/: access "
      "denied (AccessDenied) (grant ListObjectsV2 on this bucket)",
      "3:120: iris.handler.multi_model_reloading.paths[2].path: s3://c: there is no model: the directory is empty or does "
      "not exist"]),
    ("S-37 with another problem", realtime(PATH.replace("path", "load_timeot: 3s, path")), {BUCKET: []},
     ["3:69: iris.handler.multi_model_reloading.load_timeot: unknown key; did you mean 'load_timeout'?",
      "3:92: iris.handler.multi_model_reloading.path: s3://b/m: there is no model: the directory is empty or does not exist"]),
    ("S-37 not looked at", realtime(PATH), {}, []),
    ("S-37 relative to nothing", realtime(", multi_model_reloading: {path: ./m}"), {},
     ["3:75: iris.handler.multi_model_reloading.path: a relative path means nothing to an operator on another machine; "
      "write an absolute path of that machine, or s3://bucket/prefix"]),
]  # fmt: skip


def lister(found: Mapping[str, list[str] | CortexError]) -> ListLocations:
    """Lists these keys at these locations, and nothing else."""

    def list_locations(locations: Collection[str]) -> dict[str, Listing]:
        by_location = {f"{location.rstrip('/')}/": listing for location, listing in found.items()}
        return {
            location: listing if isinstance(listing, CortexError) else [entry(key) for key in listing]
            for location in locations
            if (listing := by_location.get(location)) is not None
        }

    return list_locations


@pytest.mark.parametrize(
    ("text", "found", "expected"), [row[1:] for row in LISTED], ids=[row[0] for row in LISTED]
)
def test_message_about_models(
    text: str, found: Mapping[str, list[str] | CortexError], expected: list[str]
) -> None:
    seen = heads(text, list_locations=lister(found))
    assert [message.partition("\n")[0] for message in seen] == expected


def test_a_wrong_layout_is_explained_below_the_place() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(realtime(PATH), list_locations=lister({BUCKET: ["1/x", "y"]}))
    assert (
        caught.value.message
        == """\
cortex.yaml:3:75: iris.handler.multi_model_reloading.path: s3://b/m: only directories named by digits 0-9 may be beside \
versions; found also 'y'
   3 |   handler: {type: python, path: handler.py, multi_model_reloading: {path: s3://b/m}}
     |                                                                           ^^^^^^^^

accepted (type: python):

  s3://b/m/
  └── (any files and directories)

or

  s3://b/m/
  ├── 1523423423/
  │   └── (any files and directories)
  └── 2434389194/
      └── (any files and directories)

found:

  s3://b/m/
  ├── 1/
  │   └── x
  └── y
"""
    )


def test_many_wrong_layouts_are_not_all_explained() -> None:
    found = [f"model-{number}/{name}" for number in range(50) for name in ("1/x", "y")]
    seen = heads(realtime(DIR), list_locations=lister({BUCKET: found}))
    assert [("\n" in message) for message in seen] == [True] * 3 + [False] * 18
    assert seen[-1] == (
        "3:74: iris.handler.multi_model_reloading.dir: and 30 more problems in the layout of these models"
    )
