"""The spellings of DATABASE_URL that services hand out, as asyncpg itself reads them."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from typing import Any

import pytest
from asyncpg import connect_utils

from atlas.db import Database
from atlas.db.url import CONNECT_TIMEOUT, translate_url
from atlas.errors import ConfigurationError

PASSWORD = "p@ss/w:rd#%"
QUOTED = "p%40ss%2Fw%3Ard%23%25"


def as_asyncpg_reads(url: str) -> tuple[list[Any], Any]:
    """Addresses and parameters that ``asyncpg.connect`` would use."""
    dsn = translate_url(url).asyncpg["dsn"]
    names = ("host", "port", "user", "password", "passfile", "database", "ssl", "service")
    others = ("servicefile", "direct_tls", "server_settings", "target_session_attrs")
    arguments = dict.fromkeys((*names, *others, "krbsrvname", "gsslib"))
    addresses, parameters, *_ = connect_utils._parse_connect_dsn_and_args(dsn=dsn, **arguments)
    return addresses, parameters


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgres+asyncpg", "postgresql+asyncpg"]
)
def test_every_scheme_leads_to_the_same_place(scheme: str) -> None:
    addresses, parameters = as_asyncpg_reads(f"{scheme}://ada:secret@db.example:6543/atlas")
    assert addresses == [("db.example", 6543)]
    assert (parameters.user, parameters.password) == ("ada", "secret")
    assert parameters.database == "atlas"


def test_a_percent_encoded_password_arrives_as_it_was_meant() -> None:
    _, parameters = as_asyncpg_reads(f"postgresql://a%40b:{QUOTED}@db.example/atlas")
    assert (parameters.user, parameters.password) == ("a@b", PASSWORD)


def test_a_plain_percent_or_plus_in_a_password_is_taken_literally() -> None:
    _, parameters = as_asyncpg_reads("postgresql://ada:1+1%zz@db.example/atlas")
    assert parameters.password == "1+1%zz"


def test_several_hosts_with_ports_are_all_tried() -> None:
    addresses, parameters = as_asyncpg_reads(
        "postgresql://ada@one.example:5433,two.example:5434,[::1]:5435/atlas"
        "?target_session_attrs=read-write"
    )
    assert addresses == [("one.example", 5433), ("two.example", 5434), ("::1", 5435)]
    assert parameters.target_session_attrs.value == "read-write"


def test_a_unix_socket_folder_with_spaces_is_found() -> None:
    addresses, parameters = as_asyncpg_reads("postgresql://ada@/atlas?host=/a b/c&port=5433")
    assert addresses == ["/a b/c/.s.PGSQL.5433"]
    assert parameters.database == "atlas"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_sslmode_is_understood(mode: str) -> None:
    _, parameters = as_asyncpg_reads(f"postgresql://ada@db.example/atlas?sslmode={mode}")
    assert parameters.sslmode.name == mode
    assert bool(parameters.ssl) is (mode != "disable")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_sslmode_that_verifies_checks_the_certificate(mode: str, tmp_path: Any) -> None:
    root = tmp_path / "root.crt"
    root.write_text(certificate())
    _, parameters = as_asyncpg_reads(
        f"postgresql://ada@db.example/atlas?sslmode={mode}&sslrootcert={root}"
    )
    assert parameters.ssl.verify_mode is ssl.CERT_REQUIRED
    assert parameters.ssl.check_hostname is (mode == "verify-full")


def certificate() -> str:
    """Any certificate that OpenSSL takes: the first of the system's."""
    context = ssl.create_default_context()
    found = context.get_ca_certs(binary_form=True)
    if not found:
        pytest.skip("needs a certificate store of the system")
    return ssl.DER_cert_to_PEM_cert(found[0])


def test_the_systems_certificates_can_be_asked_for() -> None:
    target = translate_url("postgresql://ada@db.example/atlas?sslrootcert=system")
    assert target.asyncpg["ssl"].check_hostname
    assert "sslrootcert" not in target.asyncpg["dsn"]
    assert target.libpq_url.endswith("?sslrootcert=system")


def test_names_that_only_libpq_knows_are_kept_for_libpq() -> None:
    target = translate_url(
        "postgres://ada@db.example/atlas?sslmode=require&channel_binding=require&keepalives_idle=30"
    )
    assert target.asyncpg["dsn"] == "postgresql://ada@db.example/atlas?sslmode=require"
    assert target.libpq_url == (
        "postgresql://ada@db.example/atlas"
        "?sslmode=require&channel_binding=require&keepalives_idle=30"
    )


def test_application_name_and_options_reach_the_server() -> None:
    _, parameters = as_asyncpg_reads(
        "postgresql://ada@db.example/atlas?application_name=hunter&options=-c%20geqo%3Doff"
    )
    assert parameters.server_settings == {"application_name": "hunter", "options": "-c geqo=off"}


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", CONNECT_TIMEOUT), ("?connect_timeout=3", 3.0), ("?connect_timeout=0", None)],
)
def test_connect_timeout_is_in_seconds_and_zero_waits_for_ever(
    query: str, seconds: float | None
) -> None:
    assert translate_url(f"postgresql://db.example/atlas{query}").asyncpg["timeout"] == seconds


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://ada:S3CRET@db.example/atlas", "postgresql://"),
        ("postgresql+psycopg2://ada:S3CRET@db.example/atlas", "postgresql://"),
        ("host=db.example password=S3CRET", "postgresql://"),
        ("postgresql://ada:S3CRET@db.example/atlas?sslmod=require", "sslmod"),
        ("postgresql://ada:S3CRET@db.example/atlas?pgbouncer=true", "pgbouncer"),
        ("postgresql://ada:S3CRET@db.example/atlas?sslmode=maybe", "sslmode is 'maybe'"),
        ("postgresql://ada:S3CRET@db.example/atlas?connect_timeout=soon", "connect_timeout"),
        ("postgresql://ada:S3CRET@db.example/atlas?sslrootcert=/no/such", "sslrootcert"),
        ("postgresql://ada:S3CRET@db.example:port/atlas", "cannot be read"),
        ("postgresql://ada:S3CRET@db.example:99999/atlas", "cannot be read"),
        ("postgresql://ada:S3CRET/x@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:12/S3CRET@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:S3CRET#x@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:S3?CRET@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:12?CRET@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:12?S3CRET=x@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:12?sslmode=S3CRET@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:12?dbname=S3CRET@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:S3@x?S3CRET=1@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:12#S3CRET@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:12?x#S3CRET@db.example/atlas", "percent-encoded"),
        ("postgresql://ada:S3[CRET@db.example/atlas", "percent-encoded"),
    ],
)
def test_a_wrong_url_is_named_and_its_password_is_not(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        translate_url(url)
    assert named in str(caught.value)
    assert "DATABASE_URL" in str(caught.value)
    assert "S3" not in str(caught.value)
    assert "CRET" not in str(caught.value)


def test_no_repr_shows_the_password() -> None:
    url = "postgresql://ada:S3CRET@db.example/atlas?password=S3CRET"
    assert "S3CRET" not in repr(translate_url(url))
    assert "S3CRET" not in repr(Database(url))
    assert "db.example/atlas" in repr(Database(url))
    assert repr(Database("nonsense")) == "Database(<unreadable>)"


def test_importing_the_database_reads_no_setting() -> None:
    code = "import atlas.db; print(atlas.db.db)"
    environment = {**os.environ, "DATABASE_URL": "nonsense", "DATABASE_POOL_SIZE": "nonsense"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("Database()\n", "")
