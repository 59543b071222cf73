"""What test files share and pytest does not collect."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
