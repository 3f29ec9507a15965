"""The part of `trainplane.v1.JobService` that shows logs."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from google.api.httpbody_pb2 import HttpBody

from controlplane.domain.errors import InvalidArgument
from controlplane.engine.log_reading import LogPosition
from controlplane.rpc import convert, pages
from controlplane.rpc.errors import metadata
from controlplane.rpc.names import PROJECT, job_name
from trainplane.v1 import job_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    import grpc

    from controlplane.engine.log_reading import LogPage, LogReader

    Context = grpc.aio.ServicerContext[Any, Any]

_SSE_END = "event: end\ndata: {}\n\n"


class LogMethods:
    """Whoever has a `LogReader` can show logs."""

    _logs: LogReader

    async def ListJobLogs(  # noqa: N802
        self,
        request: job_service_pb2.ListJobLogsRequest,
        context: Context,  # noqa: ARG002
    ) -> job_service_pb2.ListJobLogsResponse:
        """The lines that trainers wrote."""
        limit = pages.size(request.page_size, default=1000, largest=5000)
        start = _position(request.page_token, "page_token", "pass next_page_token of the page before, unchanged")
        page = await self._logs.page(job_name(request.job_id), project=PROJECT, start=start, limit=limit)
        return job_service_pb2.ListJobLogsResponse(
            lines=map(convert.line_message, page.lines),
            next_page_token="" if page.following is None else str(page.following),
        )

    async def WatchJobLogs(  # noqa: N802
        self,
        request: job_service_pb2.WatchJobLogsRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[job_service_pb2.WatchJobLogsResponse]:
        """Lines from a place on, then live."""
        async with aclosing(self._follow_log(request.job_id, request.position)) as found:
            async for page in found:
                yield job_service_pb2.WatchJobLogsResponse(
                    lines=map(convert.line_message, page.lines), position=str(page.following)
                )

    async def StreamLogs(  # noqa: N802
        self, request: job_service_pb2.StreamLogsRequest, context: Context
    ) -> AsyncIterator[HttpBody]:
        """The same as server-sent events."""
        position = metadata(context, "last-event-id") or request.position
        async with aclosing(self._follow_log(request.job_id, position)) as found:
            async for page in found:
                events = "".join(_sse(page)) or ": keep-alive\n\n"
                yield HttpBody(content_type="text/event-stream", data=events.encode())
        yield HttpBody(content_type="text/event-stream", data=_SSE_END.encode())

    async def _follow_log(self, job_id: str, position: str) -> AsyncGenerator[LogPage, None]:
        start = _position(position, "position", "pass the position of a message before, unchanged")
        async with aclosing(self._logs.follow(job_name(job_id), project=PROJECT, start=start)) as found:
            async for page in found:
                yield page


def _sse(page: LogPage) -> Iterator[str]:
    """One event a line; its id is where to go on after it, in all ranks' logs."""
    for line, position in page.numbered():
        data = json.dumps({"attempt": line.attempt, "rank": line.rank, "text": line.text}, ensure_ascii=False)
        yield f"id: {position}\nevent: line\ndata: {data}\n\n"


def _position(text: str, field: str, remedy: str) -> LogPosition:
    """A place in a log.

    Raises:
        InvalidArgument: it is none of ours.
    """
    try:
        return LogPosition.parse(text)
    except ValueError:
        reason = "INVALID_PAGE_TOKEN" if field == "page_token" else "INVALID_POSITION"
        raise InvalidArgument(field=field, reason=reason, description=f"is none of ours; {remedy}") from None
