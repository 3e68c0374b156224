"""Sources that a file describes: YAML (or JSON) instead of code.

A file names what is asked for, how a reply is decoded, which rows are in it and how each column is made. `app_of` makes
an App of it that runs like any other; `run_tests` runs the tests in the file.
"""

from tidewire.sources.declared.app import DeclaredApp, app_of
from tidewire.sources.declared.grammar import Declared
from tidewire.sources.declared.hook import DeclaredSource
from tidewire.sources.declared.reading import beside, catalogue, declares, load_declared
from tidewire.sources.declared.source import Source
from tidewire.sources.declared.trial import run_tests

__all__ = [
    "Declared",
    "DeclaredApp",
    "DeclaredSource",
    "Source",
    "app_of",
    "beside",
    "catalogue",
    "declares",
    "load_declared",
    "run_tests",
]
