"""Keeps passwords out of what is written or printed."""

import re

_CREDENTIALS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@]*):[^\s/]*@")
_PARAMETER = re.compile(
    r"(?i)\b(password|passwd|pwd)(['\"]?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s&,;)]+)"
)


def mask_passwords(text: str) -> str:
    """`text` with the password of every URL and every `password=...` replaced by ***."""
    return _PARAMETER.sub(r"\1\2***", _CREDENTIALS.sub(r"\1:***@", text))
