"""What lies here is data: the package of another lab is tested from outside, by tests/conformance/test_third_party.py."""

from __future__ import annotations

collect_ignore = ["third_party"]
