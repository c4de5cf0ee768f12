"""Takes secrets out of texts of others: errors of drivers and libraries, words of a user's parts.

The project's own texts need none of this: they name a database by `address.describe`, which never
sees a secret. The secrets looked for are those of the environment (TOKENLAW_DB, libpq's variables,
other tools' passwords and tokens), in each form in which a text may quote them, and whatever looks
like a password. Not looked for are values of less than four characters, which any text holds.
"""

import functools
import html
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
_LEAST = 4
_CREDENTIALS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@:'\"<>]*:[^\s'\"<>]*@")
_PARAMETER = re.compile(
    r"(?i)(passw(?:or)?d|passphrase|\bpwd|passfile)(['\"]?\s*[=:]\s*)"
    r"(\"[^\"]*\"|'(?:\\.|[^'\\])*'|[^\s&,;)]+)"
)
_VARIABLES = re.compile(
    r"TOKENLAW_DB|PG(PASSWORD|PASSFILE|SERVICE|SERVICEFILE|OPTIONS|USER)"
    r"|\w*(PASSWORD|PASSWD|SECRET|SECRET_ACCESS_KEY|_TOKEN|API_KEY)"
)
_QUERY = re.compile(r"[?&;]([^=&;]*)=([^&;]*)")
_CONNINFO = re.compile(r"(\w+)\s*=\s*('(?:\\.|[^'\\])*'|\S*)", re.S)
_NO_PORT = re.compile(r"(?!\[)[^/:]*:(?![0-9]*([/?]|$))")
# Parameters of libpq that hold no secret.
_OPEN = frozenset(
    "host hostaddr port dbname sslmode sslnegotiation connect_timeout application_name"
    " fallback_application_name client_encoding target_session_attrs keepalives keepalives_idle"
    " keepalives_interval keepalives_count tcp_user_timeout gssencmode channel_binding"
    " require_auth load_balance_hosts ssl_min_protocol_version ssl_max_protocol_version".split()
)
# A short plain word is a secret only where it stands alone; "\n" and "%20" may stand before it.
_WORD = re.compile(r"[A-Za-z]{1,8}|[0-9]{1,8}")
_BEFORE = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtfbv])|(?<=%[0-9A-Fa-f]{2}))"


def mask_secrets(text: str) -> str:
    """Return `text` with *** in the place of every known secret and of what looks like one."""
    variables = tuple((k, v) for k, v in os.environ.items() if v and _VARIABLES.fullmatch(k))
    known = _known(variables)
    if known is not None:
        text = known.sub(HIDDEN, text)
    text = _CREDENTIALS.sub(rf"\1{HIDDEN}@", text)
    return _PARAMETER.sub(rf"\1\2{HIDDEN}", text)


def mask_tracebacks() -> None:
    """Have this process print the traceback of its end without secrets."""

    def print_masked(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        lines = traceback.format_exception(kind, error, trace)
        print(mask_secrets("".join(lines)), end="", file=sys.stderr, flush=True)

    sys.excepthook = print_masked


@functools.lru_cache(maxsize=8)
def _known(variables: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    secrets: set[str] = set()
    for name, value in variables:
        if name == "TOKENLAW_DB":
            secrets.update(_of_address(value))
        elif name == "PGUSER":
            secrets.update({value} - _login_names())
        elif name == "PGOPTIONS":
            secrets.update(_of_options(value))
        else:
            secrets.add(value)
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= _LEAST}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile("|".join(map(_pattern, longest_first))) if forms else None


def _of_address(text: str) -> Iterator[str]:
    """Yield all that may be a secret in a database URL, well formed or not."""
    scheme, mark, rest = text.rpartition("://") if text.count("://") == 1 else ("", "", text)
    if scheme.startswith("sqlite") and rest.startswith("/"):
        yield from (value for _, value in _QUERY.findall(rest))
        return  # the rest is the path of a file
    # What stands where the port would, with no @ behind it, may be a password.
    credentials, _, place = rest.rpartition("@")
    if not credentials and _NO_PORT.match(rest):
        credentials, place = rest, ""
    if not mark or credentials or re.search("[?=#;]", text):
        yield text  # as a whole; never the text of `address.describe`
    if not mark:
        for name, value in _CONNINFO.findall(text):
            if name.lower() not in _OPEN:
                unquoted = re.sub(r"\\(.)", r"\1", value.strip("'"))
                yield from (value, unquoted, *unquoted.split())
    for name, value in _QUERY.findall(rest):
        if name.lower() == "options":
            yield from _of_options(value)
        elif name.lower() == "user":
            yield from {value, unquote(value)} - _login_names()
        elif name.lower() not in _OPEN:
            yield from _readings(value) if "@" in value else (value,)
    user, _, password = credentials.partition(":")
    yield from {user, unquote(user)} - _login_names() - set(re.split("[/:?]", place))
    yield from _readings(password)


def _readings(password: str) -> Iterator[str]:
    """Yield a password and its pieces: with @ or / in it, drivers end it in different places."""
    yield password
    for end, character in enumerate(password):
        if character == "@":
            yield password[:end]
            yield password[end + 1 :]
    yield from re.split(r"[@/:?#&;=\s]", password)


def _of_options(text: str) -> Iterator[str]:
    yield text
    for setting in unquote_plus(text).split():
        value = setting.rpartition("=")[2]
        if "=" in setting and not value.isdecimal():
            yield value


def _login_names() -> set[str]:
    """Return names of users that stand in paths and records anyway."""
    names = {os.environ.get("USER", ""), os.environ.get("LOGNAME", ""), Path.home().name}
    return names | {"postgres", "postgresql", "tokenlaw"}


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, percent-decoded and percent-encoded, quoted and escaped."""
    for plain in {secret, unquote(secret), unquote_plus(secret)}:
        encodable = plain.encode("utf-8", "surrogateescape")
        for encoded in (quote(encodable, safe=""), quote(encodable), quote_plus(encodable)):
            yield encoded
            yield re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), encoded)
        yield from (plain, *plain.splitlines())
        yield plain.encode("unicode_escape").decode()
        yield json.dumps(plain)[1:-1]
        yield json.dumps(plain, ensure_ascii=False)[1:-1]
        yield html.escape(plain)
        yield plain.replace("\\", "\\\\").replace("'", "\\'")
        yield plain.replace("'", "''")
        yield plain.replace("'", "'\"'\"'")


def _pattern(form: str) -> str:
    if _WORD.fullmatch(form):
        return f"{_BEFORE}{re.escape(form)}(?![A-Za-z0-9])"
    return re.escape(form)
