#!/bin/sh
# What tests need beyond pip: PostgreSQL. Installed where we may; else said aloud, and the suites that need it skip by name.
set -eu
if command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql && exit 0
fi
echo "NOT INSTALLED: postgresql. The store's contract suite will SKIP its PostgreSQL half; install the package to run it." >&2
