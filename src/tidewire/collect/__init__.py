"""Apps, collectors, timers, clients and the pump: from the network to the journal, and from there to batches.

The names here are the plugin interface: a source needs nothing else but `tidewire.records`.
"""

from tidewire.collect.app import NOTE, App, Context, Health, Known, Secret
from tidewire.collect.assemble import Assembler
from tidewire.collect.backfill import DAY_US, Backfill, Part, Shard, Wanted, check_history, history_start, is_history
from tidewire.collect.book import Book, Level
from tidewire.collect.books import Books, BookSettings, doubt_note, settings_note, time_note
from tidewire.collect.booksync import BookSync, BookUpdate, ById, ByPrevious, Continuity
from tidewire.collect.budget import Budgets, Limits
from tidewire.collect.collector import Collector, CollectorStatus
from tidewire.collect.config import Api, RateLimit, Section, SourceConfig, SourceInfo, read, seconds
from tidewire.collect.control import Carried, GapTold, Noted
from tidewire.collect.coverage import Coverage
from tidewire.collect.cursors import Cursors
from tidewire.collect.family import Allowed, Families, Family
from tidewire.collect.fill import Filler, GapLedger, Missing, OpenGap, Range, told_of
from tidewire.collect.http import HttpClient, HttpConfig, Reply, Request, retry_after_s
from tidewire.collect.identity import Identities
from tidewire.collect.parser import Ask, Outcome, Parsed, Parser, Stateful, unreadable
from tidewire.collect.pool import Dialect, FeedPool, PoolConfig
from tidewire.collect.proxies import Proxies, proxy_of
from tidewire.collect.pump import Pump, PumpConfig
from tidewire.collect.registry import AppRegistry, Found
from tidewire.collect.schedule import Cron, Every, Window, parse_duration
from tidewire.collect.silence import Expected, StreamWatch
from tidewire.collect.succession import Duty, Standing, Successions
from tidewire.collect.timer import Overlap, Timer, TimerStatus
from tidewire.collect.transport import check_client, client_schemes, opener
from tidewire.collect.ways import Choice, Ways
from tidewire.collect.ws import WsClient
from tidewire.collect.ws_config import WsConfig, WsState
from tidewire.journal import Frame

__all__ = [
    "DAY_US",
    "NOTE",
    "Allowed",
    "Api",
    "App",
    "AppRegistry",
    "Ask",
    "Assembler",
    "Backfill",
    "Book",
    "BookSettings",
    "BookSync",
    "BookUpdate",
    "Books",
    "Budgets",
    "ById",
    "ByPrevious",
    "Carried",
    "Choice",
    "Collector",
    "CollectorStatus",
    "Context",
    "Continuity",
    "Coverage",
    "Cron",
    "Cursors",
    "Dialect",
    "Duty",
    "Every",
    "Expected",
    "Families",
    "Family",
    "FeedPool",
    "Filler",
    "Found",
    "Frame",
    "GapLedger",
    "GapTold",
    "Health",
    "HttpClient",
    "HttpConfig",
    "Identities",
    "Known",
    "Level",
    "Limits",
    "Missing",
    "Noted",
    "OpenGap",
    "Outcome",
    "Overlap",
    "Parsed",
    "Parser",
    "Part",
    "PoolConfig",
    "Proxies",
    "Pump",
    "PumpConfig",
    "Range",
    "RateLimit",
    "Reply",
    "Request",
    "Secret",
    "Section",
    "Shard",
    "SourceConfig",
    "SourceInfo",
    "Standing",
    "Stateful",
    "StreamWatch",
    "Successions",
    "Timer",
    "TimerStatus",
    "Wanted",
    "Ways",
    "Window",
    "WsClient",
    "WsConfig",
    "WsState",
    "check_client",
    "check_history",
    "client_schemes",
    "doubt_note",
    "history_start",
    "is_history",
    "opener",
    "parse_duration",
    "proxy_of",
    "read",
    "retry_after_s",
    "seconds",
    "settings_note",
    "time_note",
    "told_of",
    "unreadable",
]
