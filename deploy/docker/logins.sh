#!/bin/sh
# Run once, when the database is made: the login of billing, which may do what hardening grants to its role, and no more.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$BILLING_PASSWORD" --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
CREATE ROLE billing_writer NOLOGIN;
CREATE ROLE billing LOGIN PASSWORD :'password' IN ROLE billing_writer;
SQL
