import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from services.billing import migrations
from services.billing.database import connect
from services.billing.tables import metadata


def migrate(database_url: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OPENTOKEN_DATABASE_URL": database_url}
    command = [sys.executable, "-m", "services.billing.migrations"]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)


def test_the_command_migrates_says_so_and_does_nothing_the_second_time(database_url: str) -> None:
    first, second = migrate(database_url), migrate(database_url)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "is at version 0001: migrated from version none" in first.stdout
    assert "is at version 0001: nothing to do" in second.stdout


def test_a_database_that_cannot_be_opened_is_named_without_its_password() -> None:
    failed = migrate("postgresql+psycopg://me:hidden@127.0.0.1:1/books")
    assert failed.returncode == 1
    assert failed.stderr.startswith("cannot open the database postgresql+psycopg://me:***@127.0.0.1:1/books: ")
    assert "Traceback" not in failed.stderr


def test_a_schema_of_another_version_is_refused_with_both_versions_and_the_command(engine: Engine) -> None:
    migrations.check(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrations.SchemaError, match="version 9999, but this program needs 0001: run `python -m"):
        migrations.check(engine)


def test_an_empty_database_and_an_unreachable_one_are_refused(database_url: str, tmp_path: Path) -> None:
    engine = connect(database_url)
    if engine.dialect.name == "sqlite":
        with pytest.raises(migrations.SchemaError, match="cannot open the database"):
            migrations.check(engine)
    else:
        with pytest.raises(migrations.SchemaError, match="version none, but this program needs 0001"):
            migrations.check(engine)
    engine.dispose()


def test_the_schema_makes_the_tables_that_the_program_knows_and_none_holds_a_float(engine: Engine) -> None:
    found = inspect(engine)
    for table in metadata.tables.values():
        types = {str(column["type"]) for column in found.get_columns(table.name)}
        assert not {kind for kind in types if "REAL" in kind or "DOUBLE" in kind or "FLOAT" in kind}
        assert [column["name"] for column in found.get_columns(table.name)] == [column.name for column in table.columns]
    partitions = {name for name in found.get_table_names() if name.startswith("usage_record_")}
    assert bool(partitions) == (engine.dialect.name == "postgresql")
    assert set(found.get_table_names()) - partitions == {*metadata.tables, "alembic_version"}
