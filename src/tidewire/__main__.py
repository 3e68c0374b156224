"""``python -m tidewire``."""

from tidewire.runtime.cli import main

main()
