"""A handler as an application: what both carriers, `wsgi` and `asgi`, need to answer a request.

    request ─▶ carrier ─▶ Plan.arguments ─▶ the user's method ─▶ response.answer ─▶ carrier ─▶ client
                  └─ not for the handler ─▶ Application.elsewhere      failures ─▶ Application.failed

Everything that can be known before the first request is worked out when the application is made: which verbs
there are, what their methods declare, all header lists.
"""

from __future__ import annotations

import inspect
import logging
import random
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from cortex_core.models.errors import LoadFailed, ModelError, ModelUnavailable, UnknownModel, UnknownVersion
from cortex_core.release import Release
from cortex_core.runtime import NOT_BEGUN, REQUEST_TIMEOUT
from cortex_core.spec.types import RealtimeAPI, ServerSideBatching, request_timeout_of, requests_per_process
from cortex_serve import asgi, compat, handler, payload, response, signatures, tracebacks, wsgi
from cortex_serve.callbacks import Callbacks
from cortex_serve.handler import HandlerFailed
from cortex_serve.request_ids import RequestIds
from cortex_serve.response import Answer, NotSerializable
from cortex_serve.stats import Stats

if TYPE_CHECKING:
    from cortex_serve.batching.carrier import Carrier as Batching
    from cortex_serve.models.table import ModelTable

__all__ = [
    "Application",
    "HandlerFailed",
    "Log",
    "answers_on_threads",
    "create_application",
    "load_handler",
    "threads_of",
]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_IN_FLIGHT = 1024
INTERNAL_SERVER_ERROR = "internal server error"

WSGIApp: TypeAlias = Callable[..., Iterable[bytes]]

_HEADER_NAMES = re.compile(r"[A-Za-z0-9._~!#$%&'*+^`|, -]{1,4096}")
_CALLBACKS_SECONDS = 30.0
_MODEL_ERRORS: dict[type[ModelError], tuple[int, str]] = {
    UnknownModel: (404, "unknown_model"),
    UnknownVersion: (404, "unknown_version"),
    LoadFailed: (503, "model_failed"),
    ModelUnavailable: (503, "model_unavailable"),
}


class Log(Protocol):
    """Where a worker writes (`cortex_serve.log`)."""

    @property
    def logger(self) -> logging.Logger: ...

    @property
    def request_id(self) -> ContextVar[str]:
        """The id of the request being answered."""

    def access(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        """Note one answered request; must be cheap."""


class Plan:
    """What answering one verb takes.

    Attributes:
        call: the handler's bound method.
        payload, query_params, headers: whether it declares the argument of that name.
        is_async: it is a coroutine function; others are called on a thread.
    """

    __slots__ = ("call", "headers", "is_async", "payload", "query_params")

    def __init__(self, call: Callable[..., Any]) -> None:
        names = signatures.declared(call)
        self.call = call
        self.payload = "payload" in names
        self.query_params = "query_params" in names
        self.headers = "headers" in names
        self.is_async = inspect.iscoroutinefunction(call)

    def arguments(
        self, body: bytes, content_type: str | None, query: str | bytes, headers: Headers | None
    ) -> dict[str, Any]:
        """The arguments the method declares.

        Raises:
            payload.InvalidPayload: it declares the payload, and the body is not what its content type says.
        """
        named: dict[str, Any] = {}
        if self.payload:
            named["payload"] = payload.read(body, content_type)
        if self.query_params:
            named["query_params"] = QueryParams(query)
        if self.headers:
            named["headers"] = headers
        return named


class Application:
    """One handler instance and how it is reached over HTTP.

    Args:
        instance: the handler.
        threads: how many synchronous calls run at a time.
        pool: as many threads, if the handler was built on one of them.
        log: where the worker writes.
        max_body_bytes: larger requests are answered 413.
        max_in_flight: requests that may be answered or wait for a thread at once; more are answered 503.
        models: that requests use; None for an API without models.
        batching: how requests for `handle_post` are batched; None for one call each.
        request_timeout: seconds that a request may take.

    Attributes:
        plans: by verb, e.g. "POST".
        is_async: some method is a coroutine function or a generator, or is batched: serve `asgi`. Otherwise serve
            `wsgi`.
        batching: takes the requests that are batched, before `asgi` sees them; None without batching.
        deliver, run_after: of `asgi.Carrier`, for answers that were made elsewhere.
        stats: what was answered so far.
        request_id: the id a request goes by, for the one it brought.
    """

    def __init__(
        self,
        instance: Any,
        *,
        threads: int,
        pool: ThreadPoolExecutor | None = None,
        log: Log,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_in_flight: int = MAX_IN_FLIGHT,
        models: ModelTable | None = None,
        batching: ServerSideBatching | None = None,
        request_timeout: float = REQUEST_TIMEOUT,
    ) -> None:
        methods = {verb.upper(): getattr(instance, f"handle_{verb}", None) for verb in signatures.VERBS}
        self.instance = instance
        self.plans = {verb: Plan(method) for verb, method in methods.items() if callable(method)}
        self.is_async = batching is not None or any(_waits(plan.call) for plan in self.plans.values())
        self.pool = pool or _pool(threads, models)
        self.max_body_bytes = max_body_bytes
        self.max_in_flight = max_in_flight
        self.request_timeout = request_timeout
        self.log = log
        self.stats = Stats()
        self.callbacks = Callbacks(_pool(threads, models, "cortex-callback"), logger=log.logger)
        self._allow = ("allow", ", ".join([*self.plans, "OPTIONS"]))
        self.request_id = RequestIds().of
        self._models = models
        self._wsgi = None if self.is_async else wsgi.Carrier(self)
        self._asgi = asgi.Carrier(self)
        self.deliver = self._asgi.deliver
        self.run_after = self._asgi.run_after
        self._carried_wsgi: WSGIApp | None = self._wsgi
        self._carried_asgi: ASGIApp = self._asgi
        if models is not None:
            from cortex_serve.models.carriers import AsgiWithModels, WsgiWithModels

            self._carried_wsgi = self._wsgi and WsgiWithModels(self._wsgi, models.use)
            self._carried_asgi = AsgiWithModels(self._asgi, models.use)
        self.batching: Batching | None = None
        if batching is not None:
            from cortex_serve.batching.carrier import Carrier

            self.batching = Carrier(self, batching, begin=models.use if models is not None else None)
            self.stats.batches = self.batching.batcher.counts

    @property
    def wsgi(self) -> WSGIApp:
        """The WSGI application; only where `is_async` is False."""
        if self._carried_wsgi is None:
            raise RuntimeError("this handler is asynchronous: serve `asgi`")
        return self._carried_wsgi

    @property
    def asgi(self) -> ASGIApp:
        """The ASGI application."""
        return self._carried_asgi

    def info(self) -> dict[str, Any]:
        """What `GET /info` answers: versions of the models, if there are models."""
        return {} if self._models is None else {"model_metadata": self._models.metadata()}

    def elsewhere(self, method: str, path: str, request_id: str, preflight: str | None) -> Answer:
        """Answer what is not for the handler: other paths, other verbs, CORS preflights.

        Args:
            preflight: value of `access-control-request-headers`.
        """
        if path not in ("/", "/info"):
            return response.error(404, "not_found", f"there is nothing at {path[:200]!r}", request_id)
        if method == "OPTIONS":
            return Answer(204, _preflight(preflight))
        if path == "/":
            message = f"this API does not answer {method[:20]}"
            return response.error(405, "method_not_allowed", message, request_id, self._allow)
        if method != "GET":
            message = f"/info does not answer {method[:20]}"
            return response.error(405, "method_not_allowed", message, request_id, ("allow", "GET, OPTIONS"))
        return response.answer(self.info())

    def overloaded(self, request_id: str) -> Answer:
        """Answer a request that is one too many."""
        message = "too many requests are being answered already; try again"
        retry_after = ("retry-after", random.choice("12"))  # noqa: S311 - spreads those who come again
        return response.error(503, "overloaded", message, request_id, retry_after)

    def not_begun(self, request_id: str) -> Answer:
        """Answer a request that was turned away while a call may hang."""
        retry_after = ("retry-after", "1")
        message = "a call of this process may hang; try again"
        return response.error(503, "not_begun", message, request_id, retry_after, (NOT_BEGUN, "1"))

    def timed_out(self, request_id: str, after: tuple[Callable[[], Any], ...] = ()) -> Answer:
        """Answer a request that took too long.

        Args:
            after: functions of the answer that came too late.
        """
        message = f"the request was not answered within {self.request_timeout:g} s"
        answer = response.error(504, "timeout", message, request_id)
        answer.after = after
        return answer

    def failed(self, error: BaseException, request_id: str) -> Answer:
        """Answer a request that raised, and log what its author did not expect."""
        if isinstance(error, payload.InvalidJson):
            text = str(error)
            return response.error(400, "invalid_json", text, request_id, error=text)
        if isinstance(error, payload.InvalidPayload):
            return response.text_error(400, str(error))
        if isinstance(error, payload.BodyTooLarge):
            message = f"the body is larger than {self.max_body_bytes} bytes"
            return response.error(413, "body_too_large", message, request_id)
        if isinstance(error, payload.BodyWithoutLength):
            message = "send the body with a content-length, or through the gateway"
            return response.error(411, "length_required", message, request_id)
        if isinstance(error, payload.BodyIncomplete):
            return response.error(400, "body_incomplete", "the body ended early", request_id)
        if isinstance(error, HTTPException):
            try:
                return response.raised(error)
            except Exception as reason:  # noqa: BLE001 - a status or detail that cannot be sent
                error = reason
        self.log_failure(error)
        if isinstance(error, ModelError):
            return _model_error(error, request_id)
        return response.text_error(500, INTERNAL_SERVER_ERROR)

    def log_failure(self, error: BaseException) -> None:
        """Write what the handler's author needs to see of an exception."""
        if isinstance(error, NotSerializable):
            self.log.logger.error("%s", error)
            return
        if isinstance(error, ModelError):
            self.log.logger.warning("%s", error)
            return
        self.log.logger.error(
            "the handler raised %s: %s",
            type(error).__name__,
            tracebacks.words(error),
            exc_info=(type(error), error, tracebacks.from_first_user_frame(error)),
        )

    def close(self) -> None:
        """Let callbacks that still run finish."""
        self.callbacks.close(timeout=_CALLBACKS_SECONDS)
        if self.batching is not None:
            self.batching.close()
        self._asgi.close()
        if self._wsgi is not None:
            self._wsgi.close()


def load_handler(release: Release, project_dir: Path, *, log: Log) -> type:
    """Import a release's handler and check it. The process works in the project from here on.

    Args:
        release: of a RealtimeAPI with a python handler over HTTP.
        project_dir: the extracted project.
        log: where the worker writes.

    Raises:
        HandlerFailed: the handler cannot be loaded; the text says why, to its author.
    """
    spec = _spec_of(release)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns about each malformed form
    compat.install(log.logger)
    handler.enter(project_dir, spec.handler.python_path)
    cls = handler.load_class(project_dir, spec.handler.path)
    problems = signatures.check(
        cls,
        signatures.CONTRACTS["RealtimeAPI", "python", "http"],
        reloads_models=spec.handler.multi_model_reloading is not None,
        batches=spec.handler.server_side_batching is not None,
    )
    if problems:
        raise HandlerFailed("\n".join(f"{spec.handler.path}: {problem}" for problem in problems))
    return cls


def create_application(
    release: Release,
    cls: type,
    *,
    log: Log,
    models: ModelTable | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Application:
    """Build the handler that `load_handler` returned, and make it an application.

    Args:
        release: the handler is of.
        cls: the handler's class.
        log: where the worker writes.
        models: that the handler uses; None for an API without models.
        max_body_bytes: larger requests are answered 413.

    Raises:
        HandlerFailed: the constructor raised; the text says what, to its author.
    """
    spec = _spec_of(release)
    available = handler.offered(spec.handler, models)
    bind = None if models is None else models.bind
    pool = _pool(spec.handler.threads_per_process, models)
    if answers_on_pool(release, cls):
        instance = pool.submit(handler.construct, cls, available, bind).result()
    else:
        instance = handler.construct(cls, available, bind)
    return Application(
        instance,
        threads=spec.handler.threads_per_process,
        pool=pool,
        log=log,
        max_body_bytes=max_body_bytes,
        max_in_flight=requests_per_process(spec),
        models=models,
        batching=spec.handler.server_side_batching,
        request_timeout=request_timeout_of(spec.handler),
    )


def answers_on_threads(release: Release, cls: type) -> bool:
    """Whether all methods of a handler are plain ones and none is batched, which `wsgi` carries."""
    batches = _spec_of(release).handler.server_side_batching is not None
    return not batches and not any(_waits(method) for method in _methods(cls))


def answers_on_pool(release: Release, cls: type) -> bool:
    """Whether `asgi` carries a handler and runs all of it on its threads: nothing is `async`."""
    return not answers_on_threads(release, cls) and not cancels(cls)


def cancels(cls: type) -> bool:
    """Whether methods of a handler are coroutines, which are cancelled when a request has taken too long."""
    return any(_is_async(method) for method in _methods(cls))


def threads_of(release: Release) -> int:
    """How many requests a worker runs at once."""
    return _spec_of(release).handler.threads_per_process


def limit_of(release: Release) -> float:
    """Seconds that a request may take."""
    return request_timeout_of(_spec_of(release).handler)


def _spec_of(release: Release) -> RealtimeAPI:
    spec = release.spec
    if not isinstance(spec, RealtimeAPI) or spec.handler.type != "python" or spec.handler.protobuf_path:
        raise HandlerFailed(f"{release.name}: only python handlers of a RealtimeAPI over HTTP can be served")
    return spec


def _methods(handler_or_class: Any) -> list[Callable[..., Any]]:
    methods = [getattr(handler_or_class, f"handle_{verb}", None) for verb in signatures.VERBS]
    return [method for method in methods if callable(method)]


def _waits(call: Callable[..., Any]) -> bool:
    """Whether answers of this method are better sent from an event loop: it waits, or yields."""
    return _is_async(call) or inspect.isgeneratorfunction(call)


def _is_async(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def _pool(threads: int, models: ModelTable | None, name: str = "cortex-handler") -> ThreadPoolExecutor:
    if models is None:
        return ThreadPoolExecutor(threads, thread_name_prefix=name)
    from cortex_serve.models.request import Threads

    return Threads(threads, thread_name_prefix=name)


def _model_error(error: ModelError, request_id: str) -> Answer:
    status, code = _MODEL_ERRORS.get(type(error), (503, "model_unavailable"))
    message = error.summary if isinstance(error, LoadFailed) else error.message
    headers = (("retry-after", "1"),) if code == "model_unavailable" else ()
    return response.error(status, code, message, request_id, *headers)


def _preflight(requested: str | None) -> response.Headers:
    """The CORS headers; `*` does not cover `authorization`, so names that were asked for are repeated."""
    if not requested or not _HEADER_NAMES.fullmatch(requested):
        return response.CORS
    name = "access-control-allow-headers"
    return [(each, requested if each == name else value) for each, value in response.CORS]
