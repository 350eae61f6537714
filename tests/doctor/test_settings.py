"""What the doctor says of settings: variables, addresses, keys."""

from __future__ import annotations

import pytest

from langchain_supabase_history.doctor.diagnose import diagnose
from tests import servers
from tests.doctor.helpers import PASSWORD, examine, only, sound


@pytest.mark.parametrize(
    ("environ", "says", "fix"),
    [
        ({}, "No database is configured", "SUPABASE_DB_URL"),
        ({"SUPABASE_URL": "http://x"}, "SUPABASE_KEY is not", "Set SUPABASE_KEY"),
        ({"SUPABASE_KEY": "k"}, "SUPABASE_URL is not", "Set SUPABASE_URL"),
        ({"DATABASE_URL": "x"}, "DATABASE_URL is set, which", "Set SUPABASE_DB_URL to what DATABASE_URL"),
        ({"SUPABASE_URL": "u", "SUPABASE_SERVICE_ROLE_KEY": "k"}, "SERVICE_ROLE_KEY", "Set SUPABASE_KEY to what"),
        ({"DATABASE_URL": "", "SUPABASE_ANON_KEY": "k"}, "SUPABASE_ANON_KEY is set", "SUPABASE_KEY to the secret key"),
        ({"SUPABASE_URL": "u", "VITE_SUPABASE_PUBLISHABLE_KEY": "k"}, "PUBLISHABLE_KEY is set", "public key, which"),
        ({"SUPABASE_URL": "u", "SUPABASE_API_KEY": servers.PUBLISHABLE_KEY}, "API_KEY is set", "to the secret key"),
        ({"SUPABASE_URL": "u", "SUPABASE_ANON_KEY": "k", "SUPABASE_SECRET_KEY": "s"}, "SECRET_KEY is set", "what SUPA"),
        ({"SUPABASE_DB_URL": "postgresql://postgres.<project>:pw@h/x"}, "still says <project>", "without the brackets"),
        ({"SUPABASE_URL": "https://<project>.supabase.co", "SUPABASE_KEY": "k"}, "SUPABASE_URL still says <", "brack"),
        ({"SUPABASE_DB_URL": "https://x.supabase.co"}, "holds a web address", "SUPABASE_URL"),
        ({"SUPABASE_URL": f"postgresql://u:{PASSWORD}@h", "SUPABASE_KEY": "k"}, "connection string", "SUPABASE_DB_URL"),
        ({"SUPABASE_URL": "https://supabase.com/x", "SUPABASE_KEY": "k"}, "dashboard", "<project>.supabase.co"),
        ({"SUPABASE_DB_URL": "postgresql://postgres:[YOUR-PASSWORD]@h/x"}, r"[YOUR-PASSWORD]", "brackets"),
        ({"SUPABASE_DB_URL": f"postgresql://u:p@{PASSWORD}@h/x"}, "cannot be read", "percent-encoded"),
        ({"SUPABASE_URL": "x.supabase.co", "SUPABASE_KEY": "k"}, "no web address", "https://<project>"),
        ({"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_KEY": "two words"}, "SUPABASE_KEY cannot be", "secret"),
    ],
)
def test_configuration(environ: dict[str, str], says: str, fix: str) -> None:
    finding = only(examine(environ=environ))
    assert finding.name in ("environment", "address")
    assert says in finding.says
    assert fix in f"{finding.says} {finding.fix}"


def test_an_option_goes_before_the_environment(database: str) -> None:
    sound(diagnose(db_url=database, environ={"SUPABASE_DB_URL": "postgresql://elsewhere.invalid/x"}))
    found = diagnose(url="http://127.0.0.1:1", key="k", environ={"SUPABASE_DB_URL": database})
    assert only(found).says == "Nothing listens at 127.0.0.1:1."
