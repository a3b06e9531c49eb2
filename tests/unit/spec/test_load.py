"""Reading whole files: everything at once, nothing twice, and what comes out when nothing is wrong."""

from __future__ import annotations

import msgspec
import pytest

from cortex_core.spec.load import InvalidConfig, load
from cortex_core.spec.neighbours import users_of
from cortex_core.spec.types import (
    Api,
    AsyncAPI,
    Autoscaling,
    BatchAPI,
    Compute,
    Definition,
    Dependencies,
    Handler,
    Model,
    Models,
    Networking,
    RealtimeAPI,
    ServerSideBatching,
    TaskAPI,
    TrafficSplitter,
    TrafficTarget,
    UpdateStrategy,
    kind_of,
)

SECOND = 10**9

MISTAKES = """\
- name: iris
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    proceses_per_replica: 2
    env:
      PORT: 8080
  compute:
    cpu: 1
    mem: 512
    gpu: one
  autoscaling:
    min_replicas: 5
    max_replicas: 3
- name: speech
  kind: AsyncAPI
  handler:
    type: tensorflow
    path: handler.py
  networking:
    endpoint: /iris
- name: split
  kind: TrafficSplitter
  apis:
    - name: speech
      weight: 90
"""

RENDERED = """\
api/cortex.yaml:6:5: iris.handler.proceses_per_replica: unknown key; did you mean 'processes_per_replica'?
   6 |     proceses_per_replica: 2
     |     ^^^^^^^^^^^^^^^^^^^^
api/cortex.yaml:8:13: iris.handler.env.PORT: must be a string, got 8080; write it in quotes
   8 |       PORT: 8080
     |             ^^^^
api/cortex.yaml:11:10: iris.compute.mem: must be a string, got 512; write it in quotes
  11 |     mem: 512
     |          ^^^
api/cortex.yaml:12:10: iris.compute.gpu: must be an integer, got 'one'
  12 |     gpu: one
     |          ^^^
api/cortex.yaml:14:19: iris.autoscaling.min_replicas: min_replicas (5) cannot be greater than max_replicas (3)
  14 |     min_replicas: 5
     |                   ^
api/cortex.yaml:18:3: speech.handler: missing key 'models' (required when type is tensorflow)
  18 |   handler:
     |   ^^^^^^^
api/cortex.yaml:22:15: speech.networking.endpoint: the endpoint '/iris' is used by both 'iris' and 'speech'
  22 |     endpoint: /iris
     |               ^^^^^
api/cortex.yaml:25:3: split.apis: the weights (without shadow) must total 100, got 90
  25 |   apis:
     |   ^^^^
api/cortex.yaml:26:13: split.apis[1].name: 'speech' is not a RealtimeAPI but of kind AsyncAPI
  26 |     - name: speech
     |             ^^^^^^"""


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        load(text)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_all_problems_of_all_apis_at_once_in_order() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(MISTAKES, filename="api/cortex.yaml")
    assert caught.value.render() == RENDERED
    assert str(caught.value) == RENDERED


def test_schema_problems_point_to_the_reference() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load("- {name: job, kind: TaskAPI}\n")
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("configs/reference/task.yaml")


def test_a_rule_alone_needs_no_reference() -> None:
    text = "- {name: a, kind: TrafficSplitter, apis: [{name: b, weight: 1}]}\n"
    with pytest.raises(InvalidConfig) as caught:
        load(text)
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a typo in the key of a location is not also a missing location
        (
            "- name: a\n  kind: RealtimeAPI\n  handler:\n    {type: tensorflow, path: a.py, models: {pth: s3://a}}\n",
            ["a.handler.models.pth: unknown key; did you mean 'path'?"],
        ),
        # a typo in a key is not also a wrong combination of what is left
        (
            "- name: a\n  kind: RealtimeAPI\n  handler:\n    {type: python, path: a.py, "
            "thread_per_process: 8, server_side_batching: {max_batch_size: 8, batch_interval: 1s}}\n",
            ["a.handler.thread_per_process: unknown key; did you mean 'threads_per_process'?"],
        ),
        # what may not be there is not looked into
        (
            "- {name: a, kind: TrafficSplitter, apis: [{name: b, weight: 100}], handler: {tpe: 1, env: ~}}\n",
            [
                "a.handler: not supported here: only for the kinds RealtimeAPI, AsyncAPI and BatchAPI; "
                "a TrafficSplitter has 'apis'"
            ],
        ),
        # an unknown kind does not make its sections unknown
        (
            "- {name: a, kind: Realtime, handler: {type: python, path: a.py}, autoscaling: {window: 10s}}\n",
            [
                "a.kind: must be one of RealtimeAPI, AsyncAPI, BatchAPI, TaskAPI, TrafficSplitter; "
                "got 'Realtime'; did you mean 'RealtimeAPI'?"
            ],
        ),
        # one value, one problem
        ("- {name: '', kind: TaskAPI, definition: {path: a.py}}\n", ["[1].name: cannot be empty"]),
        # a wrong type hides nothing elsewhere in the section
        (
            "- {name: a, kind: BatchAPI, handler: {type: 3, path: a.txt, log_level: loud}}\n",
            [
                "a.handler.type: must be a string, got 3; write it in quotes",
                "a.handler.path: must end in .py or .pickle, got 'a.txt'",
                "a.handler.log_level: must be one of debug, info, warning, error; got 'loud'",
            ],
        ),
    ],
)
def test_no_noise(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


def test_many_problems_are_counted_not_printed() -> None:
    text = (
        "- {name: a, kind: TaskAPI, definition: {path: a.py}, "
        + ", ".join(f"x{n}: 1" for n in range(250))
        + "}"
    )
    with pytest.raises(InvalidConfig) as caught:
        load(text)
    assert len(caught.value.problems) == 250
    assert caught.value.render().endswith("\nand 150 more problems")


def test_values_after_the_last_problem_that_is_told_are_not_trusted() -> None:
    wrong = "".join(f"    zz{number}: 1\n" for number in range(1000))
    text = (
        f"- name: iris\n  kind: RealtimeAPI\n  handler:\n    type: python\n    path: a.py\n{wrong}"
        "- name: rose\n  kind: RealtimeAPI\n  handler: {type: python, path: a.py}\n"
        "  compute: {cpu: two, mem: 7}\n  autoscaling: {window: x, max_replicas: many}\n  networking: []\n"
    )
    with pytest.raises(InvalidConfig) as caught:
        load(text, deployed=[])
    assert len(caught.value.problems) == 1000


def test_long_lines_are_cut_around_the_caret() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load("- {" + " " * 500 + "nme: x" + " " * 500 + "}")
    source, carets = caught.value.render().splitlines()[-2:]
    assert len(source) <= 127
    assert source[carets.index("^") : carets.rindex("^") + 1] == "nme"


def test_traffic_splitters_come_last() -> None:
    """F-13."""
    apis = load(
        "- {name: s, kind: TrafficSplitter, apis: [{name: a, weight: 100}]}\n"
        "- {name: b, kind: TaskAPI, definition: {path: task.py}}\n"
        "- {name: a, kind: RealtimeAPI, handler: {type: python, path: a.py}}\n"
    )
    assert [api.name for api in apis] == ["b", "a", "s"]


def test_splitters_of_an_api() -> None:
    """S-34: what the operator asks before it deletes."""
    deployed = load(
        "- {name: s, kind: TrafficSplitter, apis: [{name: a, weight: 100}]}\n"
        "- {name: a, kind: RealtimeAPI, handler: {type: python, path: a.py}}\n"
    )
    assert users_of("a", deployed) == ("s",)
    assert users_of("s", deployed) == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_bytes_and_byte_order_marks(encoding: str) -> None:
    text = "- {name: a, kind: TaskAPI, definition: {path: ä.py}}\n"
    [api] = load(text.encode(encoding))
    assert isinstance(api, TaskAPI)
    assert api.definition.path == "ä.py"


def test_bytes_that_are_no_text() -> None:
    assert problems(b"- name: caf\xe9\n") == [": not UTF-8 text; save the file as UTF-8"]


def test_yaml_is_read_as_version_1_2() -> None:
    config = (
        "{int: 12, hex: 0x1F, octal: 0o17, float: 1e3, dot: .5, none: ~, yes: true, time: 12:30, "
        "date: 2024-01-01, text: !!str 3, quoted: 'no', version: 1.2.3}"
    ).replace("yes:", "'yes':")
    [api] = load(f"- {{name: a, kind: TaskAPI, definition: {{path: a.py, config: {config}}}}}\n")
    assert isinstance(api, TaskAPI)
    assert api.definition.config == {
        "int": 12, "hex": 31, "octal": 15, "float": 1000.0, "dot": 0.5, "none": None, "yes": True,
        "time": "12:30", "date": "2024-01-01", "text": "3", "quoted": "no", "version": "1.2.3",
    }  # fmt: skip


def test_anchors_and_merge_keys() -> None:
    apis = load(
        "- &first\n  name: a\n  kind: RealtimeAPI\n  handler: &handler {type: python, path: a.py}\n"
        "- <<: *first\n  name: b\n  handler:\n    <<: [*handler]\n    path: b.py\n"
    )
    assert [(api.name, api.handler.path) for api in apis if isinstance(api, RealtimeAPI)] == [
        ("a", "a.py"),
        ("b", "b.py"),
    ]


DEFAULT_COMPUTE = Compute(cpu="200m", mem=None, gpu=0, inf=0, node_groups=None)
DEFAULT_AUTOSCALING = Autoscaling(
    min_replicas=1,
    max_replicas=100,
    init_replicas=1,
    max_replica_concurrency=1024,
    target_replica_concurrency=1.0,
    window=60 * SECOND,
    downscale_stabilization_period=300 * SECOND,
    upscale_stabilization_period=60 * SECOND,
    max_downscale_factor=0.75,
    max_upscale_factor=1.5,
    downscale_tolerance=0.05,
    upscale_tolerance=0.05,
)
DEFAULT_HANDLER = Handler(
    type="python",
    path="a.py",
    protobuf_path=None,
    python_path=None,
    image=None,
    tensorflow_serving_image=None,
    processes_per_replica=1,
    threads_per_process=1,
    shm_size=None,
    log_level="info",
    config={},
    env={},
    dependencies=Dependencies(pip="requirements.txt", conda="conda-packages.txt", shell="dependencies.sh"),
    models=None,
    multi_model_reloading=None,
    server_side_batching=None,
)
DEFAULT_STRATEGY = UpdateStrategy(max_surge="25%", max_unavailable="25%")
DEFAULT_NETWORKING = Networking(endpoint="/a")

DEFAULTS: list[tuple[str, Api]] = [
    ("kind: RealtimeAPI, handler: {type: python, path: a.py}",
     RealtimeAPI(name="a", handler=DEFAULT_HANDLER, networking=DEFAULT_NETWORKING, compute=DEFAULT_COMPUTE,
                 autoscaling=DEFAULT_AUTOSCALING, update_strategy=DEFAULT_STRATEGY)),
    ("kind: AsyncAPI, handler: {type: python, path: a.py}",
     AsyncAPI(name="a", handler=DEFAULT_HANDLER, networking=DEFAULT_NETWORKING, compute=DEFAULT_COMPUTE,
              autoscaling=DEFAULT_AUTOSCALING, update_strategy=DEFAULT_STRATEGY)),
    ("kind: BatchAPI, handler: {type: python, path: a.py}",
     BatchAPI(name="a", handler=DEFAULT_HANDLER, networking=DEFAULT_NETWORKING, compute=DEFAULT_COMPUTE)),
    ("kind: TaskAPI, definition: {path: a.py}",
     TaskAPI(name="a", networking=DEFAULT_NETWORKING, compute=DEFAULT_COMPUTE,
             definition=Definition(
                 path="a.py", python_path=None, image=None, shm_size=None, log_level="info", config={},
                 env={}, dependencies=Dependencies(
                     pip="requirements.txt", conda="conda-packages.txt", shell="dependencies.sh")))),
    ("kind: TrafficSplitter, apis: [{name: b, weight: 100}]",
     TrafficSplitter(name="a", networking=DEFAULT_NETWORKING,
                     apis=(TrafficTarget(name="b", weight=100, shadow=False),))),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), DEFAULTS, ids=[kind_of(api) for _, api in DEFAULTS])
def test_defaults(text: str, expected: Api) -> None:
    """C-06: every default is filled in, and visible in JSON."""
    [api] = load(f"- {{name: a, {text}}}\n")
    assert api == expected
    stored = msgspec.json.decode(msgspec.json.encode(api))
    assert stored.keys() == {"kind", *api.__struct_fields__}


def test_defaults_that_follow_other_values() -> None:
    [api] = load(
        "- name: a\n  kind: RealtimeAPI\n"
        "  handler: {type: python, path: a.py, processes_per_replica: 4, threads_per_process: 8}\n"
        "  autoscaling: {min_replicas: 3}\n"
    )
    assert isinstance(api, RealtimeAPI)
    assert api.autoscaling.init_replicas == 3
    assert api.autoscaling.target_replica_concurrency == 32.0


@pytest.mark.parametrize(
    ("written", "batching"),
    [
        ("{max_batch_size: 8, batch_interval: 20ms}", {"batch_interval": 20_000_000, "target_latency": None}),
        (
            "{max_batch_size: 8, target_latency: 0.1s}",
            {"batch_interval": None, "target_latency": 100_000_000},
        ),
        ("{max_batch_size: 8}", {"batch_interval": None, "target_latency": None}),
    ],
)
def test_batching_and_request_timeout_as_json(written: str, batching: dict[str, int | None]) -> None:
    [api] = load(
        "- name: a\n  kind: RealtimeAPI\n  handler: {type: python, path: a.py, request_timeout: 1m30s, "
        f"server_side_batching: {written}}}\n"
    )
    handler = msgspec.json.decode(msgspec.json.encode(api))["handler"]
    assert handler["server_side_batching"] == {"max_batch_size": 8, **batching}
    assert handler["request_timeout"] == 90 * SECOND


def test_files_for_cortex_0_35_stay_valid() -> None:
    """There `threads_per_process` had to be `max_batch_size`."""
    for threads in (1, 8, 30):
        [api] = load(
            f"- name: a\n  kind: RealtimeAPI\n  handler: {{type: python, path: a.py, threads_per_process: {threads}, "
            "server_side_batching: {max_batch_size: 8, batch_interval: 1s}}\n"
        )
        assert isinstance(api, RealtimeAPI)
        assert api.handler.threads_per_process == threads


def test_canonical_forms() -> None:
    [api] = load(
        "- name: a\n  kind: RealtimeAPI\n"
        "  handler:\n    {type: tensorflow, path: a.py, python_path: ./src/lib, image: '', config: null, \n"
        "     shm_size: 1Mi, models: {paths: [{name: x, path: s3://b/x}, {name: y, "
        "path: ./y/, signature_key: k}]},\n"
        "     threads_per_process: 4, server_side_batching: {max_batch_size: 4, batch_interval: 0.2s}}\n"
        "  networking: {endpoint: v1/a/}\n"
        "  compute: {cpu: 0.5, mem: 1.5Gi, node_groups: [x]}\n"
        "  autoscaling: {window: 1m30s, target_replica_concurrency: 4}\n"
        "  update_strategy: {max_surge: 0, max_unavailable: 50%}\n"
    )
    assert isinstance(api, RealtimeAPI)
    assert api.handler.python_path == "src/lib/"
    assert api.handler.image is None
    assert api.handler.config == {}
    assert api.handler.models == Models(
        paths=(Model(name="x", path="s3://b/x/"), Model(name="y", path="./y/", signature_key="k"))
    )
    assert api.handler.server_side_batching == ServerSideBatching(
        max_batch_size=4, batch_interval=SECOND // 5
    )
    assert api.networking.endpoint == "/v1/a"
    assert api.compute == Compute(cpu="0.5", mem="1.5Gi", node_groups=("x",))
    assert api.autoscaling.window == 90 * SECOND
    assert isinstance(api.autoscaling.target_replica_concurrency, float)
    assert api.update_strategy == UpdateStrategy(max_surge=0, max_unavailable="50%")


@pytest.mark.parametrize(
    "location",
    ["s3://bucket", "s3://bucket/a", "file:///srv/models", "/srv/models", "~/models", "./models", "../m"],
)
def test_model_locations(location: str) -> None:
    [api] = load(
        "- {name: a, kind: RealtimeAPI, handler: {type: python, path: a.py, "
        f"multi_model_reloading: {{dir: '{location}'}}}}}}\n"
    )
    assert isinstance(api, RealtimeAPI)
    assert api.handler.multi_model_reloading == Models(dir=f"{location}/")
