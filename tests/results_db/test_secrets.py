"""A marked secret in every place that a driver takes one from, and all that is said of it."""

import json
import os
import sys
import traceback
from urllib.parse import quote

import psycopg
import pytest

from tokenlaw.results_db import database_url, engine, masking
from tokenlaw.results_db.engine import StoreError

SECRET = "mark/7Q@9z"
RAW = "mark7Q9z"  # where a special character would end it
CODED = quote(SECRET, safe="")
LOWER = CODED.replace("2F", "2f")
SERVER = "postgresql+psycopg://127.0.0.1:9/none"

# A server that does not answer: named by host, port and database.
AWAY = {
    "password": f"postgresql://me:{CODED}@127.0.0.1:9/none",
    "password, raw": f"postgresql://me:{RAW}@127.0.0.1:9/none",
    "password with /": f"postgresql://me:x/{RAW}@127.0.0.1:9/none",
    "user": f"postgresql://{CODED}@127.0.0.1:9/none",
    "user and password": f"postgresql+psycopg2://{RAW}:{CODED}@127.0.0.1:9/none",
    "query: user": f"{SERVER}?user={CODED}",
    "query: password": f"{SERVER}?user=u&password={CODED}",
    "query: password, raw": f"{SERVER}?user=u&password={RAW}",
    "query: sslpassword": f"{SERVER}?sslpassword={CODED}",
    "query: passfile": f"{SERVER}?passfile=/x/{RAW}",
    "query: options": f"{SERVER}?options=-c%20search_path%3D{RAW}",
    "query: several hosts": f"postgresql:///none?host=127.0.0.1:9&host=localhost:9&password={CODED}",
    "query: sslkey": f"{SERVER}?sslkey=/x/{RAW}",
}
# A driver that quotes it, were it asked.
QUOTED = {
    "query: service": f"{SERVER}?service={RAW}",
    "query: sslmode": f"{SERVER}?sslmode={RAW}",
    "query: keepalives": f"{SERVER}?keepalives={RAW}",
    "query: target": f"{SERVER}?target_session_attrs={RAW}",
}
# Where the secret ends nobody knows: nothing of the value is said.
UNREADABLE = {
    "@ in the password": f"postgresql://me:p@{RAW}@127.0.0.1:9/none",
    "@ and / in the password": f"postgresql://me:p@h/{RAW}@127.0.0.1:9/none",
    "@ and ? in the password": f"postgresql://me:p@{RAW}?x@127.0.0.1:9/none",
    "@ and : in the password": f"postgresql://me:p@h:{RAW}@127.0.0.1:9/none",
    "@ in a parameter": f"{SERVER}?password=p@{RAW}",
    "@ in the only parameter": f"postgresql://127.0.0.1:9?password=p@{RAW}",
    "/ in the user": f"postgresql://m/e:{RAW}@127.0.0.1:9/none",
    "no scheme": f"me:{RAW}@127.0.0.1/none",
    "key=value": f"host=127.0.0.1 port=9 user=u password={RAW}",
    "key=value, quoted": rf"host=127.0.0.1 password='it\'s {RAW}'",
    "; for ?": f"{SERVER};password={RAW}",
    "a blank for ?": f"{SERVER} password={RAW}",
    "# for ?": f"{SERVER}#{RAW}",
    "a parameter's name": f"{SERVER}?{RAW}=1",
    "host in the query": f"postgresql:///none?host=me:{RAW}@127.0.0.1",
    "host in the query, coded": f"postgresql:///none?host=me:{RAW}%40127.0.0.1",
    "port in the query": f"postgresql://127.0.0.1/none?port={RAW}",
    "no host": f"postgresql://me:{RAW}",
    "port": f"postgresql://127.0.0.1:{RAW}/none",
    "database in the query": f"{SERVER}?dbname=postgresql:%2F%2Fme:{RAW}%40h",
    "another database": f"mysql://me:{RAW}@127.0.0.1/none",
    "sqlite with a password": f"sqlite://me:{RAW}@/x.db",
    "sqlite with a parameter": f"sqlite:///x.db?key={RAW}",
    "a cipher": f"sqlite+pysqlcipher://:{RAW}@/x.db",
    "not UTF-8": f"postgresql://me:{RAW}\udcff@127.0.0.1:9/none",
    "nothing known": RAW,
}
# Not shown, and not looked for in texts of others but as a whole: no place for a secret.
NO_PLACE = {"query: sslmode", "query: keepalives", "query: target", "port in the query"}
NO_PLACE |= {
    "host in the query, coded",
    "a parameter's name",
    "# for ?",
    "a blank for ?",
    "not UTF-8",
    "database in the query",
}


def everything_of(error):
    """Return the tracebacks of an error and its causes, with the variables of our frames."""
    texts = []
    while error is not None:
        frames = error.__traceback__.tb_next  # without the test's own
        shown = traceback.TracebackException(type(error), error, frames, capture_locals=True)
        texts += [*shown.format(chain=False), repr(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def check_clean(text):
    for form in (RAW, SECRET, CODED, LOWER, "7Q", "9z"):
        assert form not in text


@pytest.mark.parametrize("case", AWAY)
def test_a_server_that_is_away_is_host_port_and_database(case, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_DB", AWAY[case])
    with pytest.raises(StoreError) as caught:
        engine.open_engine(tmp_path)
    place = "127.0.0.1:9,localhost:9/none" if "several" in case else "127.0.0.1:9/none"
    assert str(caught.value) == f"database postgresql://{place}: connection refused"
    check_clean(everything_of(caught.value))
    known = engine.database_address(tmp_path)
    check_clean(f"{known} {known!r} {known.connect!r} {engine._make_engine(known)!r}")


@pytest.mark.parametrize("case", QUOTED)
def test_words_of_a_driver_are_not_repeated(case, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_DB", QUOTED[case])
    with pytest.raises(StoreError, match=r"postgresql://127\.0\.0\.1:9/none: \w+") as caught:
        engine.open_engine(tmp_path)
    check_clean(everything_of(caught.value))


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_url_that_cannot_be_read_is_not_shown(case, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_DB", UNREADABLE[case])
    with pytest.raises(ValueError, match=r"^TOKENLAW_DB: .*allowed are sqlite") as caught:
        engine.open_engine(tmp_path)
    assert "\n" not in str(caught.value) and "none" not in str(caught.value)
    check_clean(everything_of(caught.value))


def test_libpq_is_not_given_a_file_whose_path_it_would_print(tmp_path, monkeypatch, capfd):
    path = tmp_path / RAW
    path.write_text("")
    path.chmod(0o644)
    monkeypatch.setenv("TOKENLAW_DB", f"{SERVER}?passfile={path}")
    with pytest.raises(ValueError, match="its owner alone may read") as caught:
        engine.open_engine(tmp_path)
    path.chmod(0o600)
    with pytest.raises(StoreError, match="connection refused"):
        engine.open_engine(tmp_path)
    check_clean("".join(capfd.readouterr()) + str(caught.value))


def test_what_is_said_for_a_driver_is_known_again():
    for _, sentence in database_url._REASONS:
        assert database_url.reason(psycopg.OperationalError(sentence)) == sentence
    lost = psycopg.errors.UndefinedTable(f"relation {RAW} does not exist")
    assert database_url.reason(lost) == "UndefinedTable (SQLSTATE 42P01)"
    assert RAW not in database_url.reason(psycopg.InterfaceError(RAW))


@pytest.mark.parametrize("case", {**AWAY, **QUOTED, **UNREADABLE})
def test_texts_of_others_lose_it_in_every_form(case, monkeypatch):
    url = {**AWAY, **QUOTED, **UNREADABLE}[case]
    monkeypatch.setenv("TOKENLAW_DB", url)
    forms = [RAW] if RAW in url else [SECRET, CODED, LOWER]
    forms = [f"/x/{RAW}"] if f"/x/{RAW}" in url else forms
    forms = [] if case in NO_PLACE else forms
    texts = [url, repr(url), json.dumps(url), quote(url, errors="surrogateescape"), *forms]
    texts += [f"'{form}'" for form in forms] + [f"password={form}" for form in forms]
    for text in texts:
        check_clean(masking.mask_secrets(f"it says {text}, and goes on"))
        assert masking.mask_secrets(f"it says {text}, and goes on").endswith(", and goes on")


@pytest.mark.parametrize("name", ["PGPASSWORD", "PGOPTIONS", "PGSERVICE", "HF_TOKEN", "MY_API_KEY"])
def test_secrets_of_the_environment(name, monkeypatch):
    value = f'{SECRET} it\'s "so"'
    monkeypatch.setenv(name, value)
    for text in (value, repr(value), json.dumps(value), quote(value), quote(value, safe="")):
        check_clean(masking.mask_secrets(f"<{text}>"))


def test_other_words_stay(monkeypatch):
    monkeypatch.setenv("USER", "sam")
    monkeypatch.setenv("PGPASSWORD", "postgres")
    monkeypatch.setenv("TOKENLAW_DB", "postgresql://sam:test@db.lab:5432/tokenlaw")
    clean = "postgresql://db.lab:5432/tokenlaw: runs/tests/latest.json, step 5432"
    assert masking.mask_secrets(clean) == clean
    assert masking.mask_secrets("b'\\ntest' test") == "b'\\n***' ***"
    monkeypatch.delenv("TOKENLAW_DB")
    foreign = 's3://key:a/b@c@bucket/x sslpassword=\'a b\' "passwd": "x" pwd=y&z'
    hidden = 's3://***@bucket/x sslpassword=*** "passwd": *** pwd=***&z'
    assert masking.mask_secrets(foreign) == hidden


def test_the_uncaught_error_of_a_process(monkeypatch, capsys):
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setattr("sys.excepthook", None)
    masking.mask_tracebacks()
    try:
        raise RuntimeError(os.environ["PGPASSWORD"])
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.endswith("RuntimeError: ***\n")
