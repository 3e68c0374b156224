"""The connection to a NATS server and the stream on it: how they are made, and errors somebody can act on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from tidewire.bus.config import NatsConfig
from tidewire.errors import BusError, ConfigError

# NATS finds a silent connection broken after two pings without an answer.
PING_S = 5
CLOSE_S = 2.0
CANCEL_S = 0.05
DEDUP_S = 120.0
_JETSTREAM_DISABLED = {10039, 10076}
_OVERLAPS = 10065
_NO_ROOM = {10023, 10047, 10028}


class Connection:
    """One connection from its beginning to its end; it is never mended, the next one is another object."""

    def __init__(self, config: NatsConfig) -> None:
        self.client = Client()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it ended, once it has."""
        self.refused: str = ""
        self._config = config

    @property
    def jetstream(self) -> JetStreamContext:
        """The server's JetStream."""
        return self.client.jetstream(timeout=self._config.timeout_s)

    async def open(self, slow: Any) -> None:
        """Connect; ``slow`` gets the subscription of each message the client had to drop. `BusError` with a reason."""
        config = self._config

        async def failed(error: Exception) -> None:
            if isinstance(error, nats_errors.SlowConsumerError):
                slow(error.sub)
            self.refused = str(error) or type(error).__name__

        async def closed() -> None:
            self.end(self.refused or "the server closed it")

        options: dict[str, Any] = {"connect_timeout": config.timeout_s}  # whole seconds by its type only
        if config.user:
            options |= {"user": config.user, "password": config.password}
        if config.token:
            options["token"] = config.token
        context = tls_context(config)
        if context is not None:
            options["tls"] = context
        try:
            await self.client.connect(
                list(config.servers),
                name=config.prefix,
                error_cb=failed,
                closed_cb=closed,
                allow_reconnect=False,  # the bus makes a new one, and sends again in order what this one may lose
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                **options,
            )
        except (OSError, TimeoutError, ssl.SSLError, nats_errors.Error) as error:
            reason = self.refused or str(error) or type(error).__name__
            await self.close()
            raise BusError(_unreachable(config, reason)) from None

    async def echo(self) -> None:
        """Return when everything that was sent before has come back to whoever subscribed here.

        The client's own flush overtakes what waits to be sent.
        """
        inbox = self.client.new_inbox()
        wire = await self.client.subscribe(inbox)
        await self.client.publish(inbox)
        await wire.next_msg(self._config.timeout_s)
        await wire.unsubscribe()

    def end(self, reason: str) -> None:
        """It is of no use any more."""
        if not self.ended.done():
            self.ended.set_result(reason)

    async def close(self) -> None:
        """Close it, at once if the other side does not listen."""
        self.end("closed")
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.client.close(), CLOSE_S)
        # What is left of it when the server neither reads nor closes; nothing public does this.
        writer = getattr(getattr(self.client, "_transport", None), "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
            await asyncio.sleep(0)


async def stopped(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks until they end: the client swallows a cancellation that comes while it flushes."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def tls_context(config: NatsConfig) -> ssl.SSLContext | None:
    """The context for TLS, None where the system's own will do; `ConfigError` if a file cannot be used."""
    if config.ca is None and config.certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca)
        if config.certificate is not None:
            context.load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (config.ca, config.certificate, config.key) if file is not None)
        raise ConfigError(f"bus: TLS cannot be set up from {files}: {error}.") from None
    return context


def _unreachable(config: NatsConfig, reason: str) -> str:
    where = ", ".join(config.servers)
    lowered = reason.lower()
    if "authorization" in lowered or "authentication" in lowered:
        return f"The NATS server at {where} refused the login: {reason}. Set bus.user and bus.password, or bus.token."
    if "certificate" in lowered or "ssl" in lowered or "tls" in lowered:
        return f"No TLS with the NATS server at {where}: {reason}. Set bus.tls_ca to what signed its certificate."
    return (
        f"No NATS server at {where}: {reason}. Start one with JetStream (nats-server -js), or set bus.servers to where "
        "it is."
    )


async def ensure_stream(jetstream: JetStreamContext, config: NatsConfig) -> api.StreamInfo:
    """The stream of data events, made or brought up to date; `BusError` if the server cannot have it."""
    name = config.stream_name
    wanted = api.StreamConfig(
        name=name,
        subjects=[f"{config.prefix}.data.>"],
        retention=api.RetentionPolicy.LIMITS,
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.OLD,
        max_bytes=config.max_bytes,
        max_age=config.max_age_s,
        duplicate_window=min(DEDUP_S, config.max_age_s),
    )
    try:
        try:
            found = await jetstream.stream_info(name)
        except js_errors.NotFoundError:
            return await jetstream.add_stream(wanted)
        if _same(found.config, wanted):
            return found
        return await jetstream.update_stream(wanted)
    except js_errors.APIError as error:
        raise BusError(_refused(error, config)) from None
    except (TimeoutError, nats_errors.Error) as error:
        where = ", ".join(config.servers)
        raise BusError(f"JetStream of the NATS server at {where} does not answer: {error}.") from None


def _same(found: api.StreamConfig, wanted: api.StreamConfig) -> bool:
    names = ("subjects", "retention", "storage", "discard", "max_bytes", "max_age", "duplicate_window")
    return all(getattr(found, name) == getattr(wanted, name) for name in names)


def _refused(error: js_errors.APIError, config: NatsConfig) -> str:
    what = f"The NATS server refused the stream {config.stream_name!r}: {error.description}."
    if error.err_code in _JETSTREAM_DISABLED or error.err_code is None:
        where, reason = ", ".join(config.servers), error.description or "nobody answers"
        return f"No JetStream on the NATS server at {where}: {reason}. Start it with -js, and let this user use it."
    if error.err_code == _OVERLAPS:
        return f"{what} Another stream takes these subjects: give this platform a bus.prefix of its own."
    if error.err_code in _NO_ROOM:
        return f"{what} bus.max_bytes is {config.max_bytes:,}: lower it, or give the server more max_file."
    return f"{what} A stream of other settings may have that name: choose another bus.stream, or delete it."
