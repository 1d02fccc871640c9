"""Draw docs/images/demo.svg: what `flowdist demo` prints. Run it from the repository's root."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from flowdist.demo import main

console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True)
main(console)
svg = console.export_svg(title="make demo", theme=DIMMED_MONOKAI)
# The reader's own monospaced font will do: nothing is fetched from elsewhere.
svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")
Path("docs/images/demo.svg").write_text(svg)
