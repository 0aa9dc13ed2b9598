"""What tests read in the documentation's pages."""

from __future__ import annotations

import re

# A fenced block: indentation, language, title and code.
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^ *```$", re.M | re.S
)
