#!/bin/sh
# The database's password comes from a file, so that it stands in no setting, no image and no command line.
set -eu
if [ -n "${TACIT_DATABASE_PASSWORD_FILE:-}" ]; then
  PGPASSWORD=$(cat "$TACIT_DATABASE_PASSWORD_FILE")
  export PGPASSWORD
fi
exec tacit "$@"
